// Weights as whole numbers, for one instruction set (see each_isa.h).

#include "rows_body.h"

namespace quire {
namespace ISA {

// Four codes of an output, inputs [k, k + 4), to where they lie in its panel.
INLINE void put_codes(const Matrix& m, const int8_t* codes, int64_t k, int64_t lane, char* panel) {
  if (m.format == Format::i8) {
    for (int half = 0; half < 2; half++) std::memcpy(panel + (k / 2 + half) * 2 * LANES + lane * 2, codes + 2 * half, 2);
    return;
  }
  char* to = m.format == Format::b8 ? panel + k * LANES + lane * 4 : panel + nibble_byte(k, lane);
  uint32_t some, there = 0;
  std::memcpy(&some, codes, 4);
  if (m.format == Format::b8) {
    some ^= 0x80808080;  // 128 more, as bytes
  } else {
    std::memcpy(&there, to, 4);
    some = there | some << nibble_shift(lane);
  }
  std::memcpy(to, &some, 4);
}

// One output: scale is its first group's, those of the others are LANES apart.
template <class F>
TARGET static void quantize_row(const Matrix& m, const void* row, int64_t lane, char* panel, float* scale) {
  const typename F::Weight* from = static_cast<const typename F::Weight*>(row);
  float some[WIDEST_GROUP];
  int8_t codes[WIDEST_GROUP];
  const V low = zero(), high = all(15.0f), middle = all(8.0f);
  for (int64_t begin = 0; begin < m.inputs; begin += m.group, scale += LANES) {
    const int64_t left = m.inputs - begin, count = left < m.group ? left : m.group;
    for (int64_t i = 0; i < m.group; i += W) {
      const int64_t n = count - i;
      store(some + i, n >= W ? F::get(from + begin + i) : n > 0 ? F::part(from + begin + i, static_cast<int>(n)) : zero());
    }
    float top = largest_magnitude(some, m.group), unit;
    const bool sound = top <= 3.4028235e38f;
    if (m.format == Format::i4) {
      int64_t at = 0;  // of the first that is the largest, with its sign
      while (sound && std::fabs(some[at]) != top) at++;
      unit = (sound ? some[at] : NAN) / -8;
    } else {
      unit = (sound ? top : NAN) / 127;
    }
    *scale = unit;
    const V by = all(unit == 0 || !sound ? 1.0f : unit);
    for (int64_t i = 0; i < m.group; i += W) {
      V x = sound ? whole(div(load(some + i), by)) : zero();
      if (m.format == Format::i4) x = lesser(greater(add(x, middle), low), high);
      istore_bytes(codes + i, rounded(x));
    }
    for (int64_t k = 0; k < count; k += 4) {
      // What fills up the last four is no input: it stays 0 in the panel, as after `pack`.
      if (count - k < 4) std::memset(codes + count, m.format == Format::b8 ? -128 : 0, static_cast<size_t>(4 - (count - k)));
      put_codes(m, codes + k, begin + k, lane, panel);
    }
  }
}

using QuantizeRow = void (*)(const Matrix&, const void*, int64_t, char*, float*);

TARGET static QuantizeRow quantize_row_of(Format of) {
  return of == Format::f32 ? quantize_row<AsF32> : of == Format::bf16 ? quantize_row<AsBF16> : quantize_row<AsF16>;
}

}  // namespace ISA
}  // namespace quire
