// Products of rows with a matrix that was packed once: y = x W^T.
//
// A packed matrix lies in panels of LANES outputs, each [inputs / step][LANES * step] of its format, padded with zeros to
// whole panels and whole groups: one row or hundreds read it front to back. The sum of an output goes over the inputs in
// order, block by block, whatever the rows beside it, so the bits of a row are its own.
#pragma once

#include <cstdint>

#include "isa.h"
#include "rows.h"

namespace quire {

constexpr int64_t LANES = 16;

// b8 is i8 for machines that multiply bytes with bytes in 32 bits (VNNI): its codes are those of i8 plus 128, and what they
// meet has 8 bits too.
enum class Format : int64_t { f32, bf16, f16, i8, i4, b8 };

struct Matrix {  // of int64 and addresses: kernels/matrix.py makes them
  Format format;
  int64_t outputs, inputs;
  int64_t group;       // inputs that share a scale, of whole numbers
  const void* panels;
  const float* scale;  // [panels][groups][LANES], of whole numbers
  const float* low;    // the same or null
  const float* bias;   // [outputs] or null
};
static_assert(sizeof(Matrix) == 64, "the tables are of int64");

inline int64_t panels_of(const Matrix& m) { return (m.outputs + LANES - 1) / LANES; }
inline bool in_bytes(Format format) { return format == Format::i4 || format == Format::b8; }  // what it meets
inline bool whole_numbers(Format format) { return format == Format::i8 || in_bytes(format); }
// Inputs with what fills up the last group.
inline int64_t padded_inputs(const Matrix& m) {
  return whole_numbers(m.format) ? (m.inputs + m.group - 1) / m.group * m.group : m.inputs;
}
inline int64_t groups_of(const Matrix& m) { return padded_inputs(m) / m.group; }
// Inputs of a row whose products with whole numbers are summed as such. Beside i8 a row counts in one unit, with 16 bits;
// where it has 8, each run of it has a unit of its own.
constexpr int64_t RUN = 32;
inline int64_t run_of(const Matrix& m) { return in_bytes(m.format) && m.group > RUN ? RUN : m.group; }
// What is taken off the codes of bytes, which are not below 0.
inline int32_t middle_of(Format format) { return format == Format::i4 ? 8 : 128; }
// Where a code of i4 lies in its panel: a byte has an input of two outputs, half a panel apart; 32 of them have four inputs.
inline int64_t nibble_byte(int64_t input, int64_t lane) {
  return input / 4 * 2 * LANES + lane % (LANES / 2) * 4 + input % 4;
}
inline int nibble_shift(int64_t lane) { return lane < LANES / 2 ? 0 : 4; }
// Bytes of one panel.
inline int64_t panel_bytes(const Matrix& m) {
  const int64_t elements = LANES * padded_inputs(m);
  switch (m.format) {
    case Format::f32: return elements * 4;
    case Format::i8: return elements;
    case Format::b8: return elements;
    case Format::i4: return elements / 2;
    default: return elements * 2;
  }
}

// Outputs [first, first + count) of the panels, from rows of what they are made of: float32 as float, bf16 and f16 as they
// are, whole numbers as one byte each. `first` is a multiple of LANES; so is count, or they are the last.
void pack(const Matrix&, void* panels, const void* rows, int64_t stride, int64_t first, int64_t count);

// y[r][0 : outputs] = W x[r] + bias + add[r]; add may be null. Uses the pool.
void product(Isa, const Matrix&, const Inputs& x, float* y, int64_t y_stride, const float* add, int64_t add_stride);

// y[i][0 : inputs] = the row `index[i]` of W. Uses no pool.
void weights_of(Isa, const Matrix&, const int64_t* index, int64_t count, float* y, int64_t y_stride);

}  // namespace quire
