// Rows of floats on their way into a product or through an elementwise step.
#pragma once

#include <cstdint>

#include "isa.h"

namespace quire {

enum class Gate : int64_t { none, silu, gelu, gelu_tanh, relu };

// Rows [count, width], and what becomes of each before it is multiplied: with a norm, x / sqrt(mean(x^2) + eps) * norm;
// with a gate, act(x[0 : width]) * x[width : 2 * width].
struct Inputs {
  const float* x;
  int64_t stride, count, width;
  const float* norm;  // [width] or null
  float eps;
  Gate gate;
};

// What becomes of the rows, into y [count, width]. Uses the pool.
void prepare(Isa, const Inputs&, float* y, int64_t y_stride);

}  // namespace quire
