// Weights in floating point become those of a matrix of whole numbers, in one pass: read once, written where they stay.
#pragma once

#include <cstdint>

#include "isa.h"
#include "matrix.h"

namespace quire {

constexpr int64_t WIDEST_GROUP = 512;

// Outputs [first, first + count) of the panels and scales of m, which has no `low`, from rows of floats, bf16 or f16: the
// nearest codes, with scales that let the largest of a group be met. The same to the bit as `quantize` of
// kernels/quantized.py and `pack`; where a group has what is no number, its scale is NaN. `first` is a multiple of LANES;
// so is count, or they are the last. Uses the pool.
void quantize(
    Isa, const Matrix& m, void* panels, float* scales, Format of, const void* rows, int64_t stride, int64_t first, int64_t count);

}  // namespace quire
