// V: W floats, Wide: sums of as many in doubles, I: W int32 or 2 W int16, and what can be done with them, for the instruction set that each_isa.h has named.
// No #pragma once.
// quads_add takes bytes, of 0 to 15 and of -127 to 127; what it has added up to 8 times, quads_sum turns into W int32: each
// the sum of 4 products a time. (Two products are 3,810 at most, so 8 times two fit into 16 bits.) bytes_add takes codes of 0 to
// 255 and gives W int32 at once: fast with VNNI only.
// The part functions take the first n lanes, 0 < n < W: the rest reads as 0 and is not written, nor touched in memory.
// where: x where the lane's bit is set, else y. zero_where_less: y, but 0 in lanes where x < limit. marked:
// odd, but NaN in lanes where x is NaN.
// Of an I that holds a pair of bfloat16 in each int32: low_of and high_of as floats, low_only with 0 as the other. halves:
// floats rounded to bfloat16, an int32 each; of NaN NaN. istore_halves stores them side by side.
// REGISTERS: how many V the machine holds, which the tiles of a kernel are sized by.

namespace quire {
namespace ISA {

#define INLINE static inline __attribute__((always_inline)) TARGET

constexpr uint64_t NIBBLES = 0x0f0f0f0f0f0f0f0f;  // the lower ones

#if defined(ISA_AVX512)
#include "simd_avx512.h"
#elif defined(ISA_AVX2)
#include "simd_avx2.h"
#else
#include "simd_plain.h"
#endif

INLINE V load_part(const int8_t* p, int n) {
  int8_t some[W] = {};
  std::memcpy(some, p, static_cast<size_t>(n));
  return load(some);
}

// Two bfloat16 side by side, as pages of keys and values hold them; in a vector an int32.
struct __attribute__((may_alias)) Pair {
  uint16_t low, high;
};
INLINE I load(const Pair* p) { return iload(p); }
INLINE I load_part(const Pair* p, int n) { return bits_of(load_part(reinterpret_cast<const float*>(p), n)); }

// Sums of products with a number for all lanes or, of pairs, with one number for the lower ones and one for the upper: what
// is spread over the lanes first, for all the sums that it is for.
INLINE V spread(const float* y) { return all(*y); }
INLINE V add_products(V x, V y, V sums) { return mul_add(y, x, sums); }
#if defined(ISA_BF16)
using Twin = Pair;  // these two, as the machine multiplies pairs
INLINE I spread(const Pair* y) {
  int32_t both;
  std::memcpy(&both, y, sizeof both);
  return iall(both);
}
INLINE V add_products(I x, I y, V sums) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(x), "v"(y));
  return sums;
}
// Floats, a multiple of W, become pairs of bfloat16 in their place.
INLINE void to_twins(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += W)
    _mm256_storeu_si256((__m256i*)(x + i / 2), (__m256i)_mm512_cvtneps_pbh(load(x + i)));
}
#else
struct Twin {
  float low, high;
};
struct Twins {
  V low, high;
};
INLINE Twins spread(const Twin* y) { return {all(y->low), all(y->high)}; }
INLINE V add_products(I x, const Twins& y, V sums) {
  return mul_add(y.high, high_of(x), mul_add(y.low, low_of(x), sums));
}
INLINE void to_twins(float*, int64_t) {}
#endif

// e^x to within 2 units in the last place, 0 below -87, NaN of NaN: what lies between there and 0 has fewer bits, and to
// make such numbers costs x86 a hundred cycles, which rows that are mostly -inf would pay throughout. Cody and Waite's
// reduction; the polynomial is the Taylor series of e^r to its seventh power, |r| <= ln 2 / 2, where what is left out is
// below 2^-27.
INLINE V exp(V x) {
  const V asked = x;
  x = greater(all(-87.0f), lesser(all(89.0f), x));
  const V n = whole(mul(x, all(1.44269504f)));
  const V r = mul_add(n, all(2.12194440e-4f), mul_add(n, all(-0.693359375f), x));
  V p = all(1.0f / 5040);
  p = mul_add(p, r, all(1.0f / 720));
  p = mul_add(p, r, all(1.0f / 120));
  p = mul_add(p, r, all(1.0f / 24));
  p = mul_add(p, r, all(1.0f / 6));
  p = mul_add(p, r, all(0.5f));
  p = mul_add(mul(p, r), r, add(r, all(1.0f)));
  return zero_where_less(asked, all(-87.0f), doubled(p, n));
}

// Weights in floating point, as vectors.
struct AsF32 {
  using Weight = float;
  INLINE V get(const Weight* w) { return load(w); }
  INLINE V part(const Weight* w, int n) { return load_part(w, n); }
};
struct Padded {  // the first n of what a vector is made of, then zeros
  uint16_t at[W] = {};
  Padded(const uint16_t* w, int n) { std::memcpy(at, w, static_cast<size_t>(n) * sizeof(uint16_t)); }
};
struct AsBF16 {
  using Weight = uint16_t;
  INLINE V get(const Weight* w) { return load_bf16(w); }
  INLINE V part(const Weight* w, int n) { return get(Padded(w, n).at); }
};
struct AsF16 {
  using Weight = uint16_t;
  INLINE V get(const Weight* w) { return load_f16(w); }
  INLINE V part(const Weight* w, int n) { return get(Padded(w, n).at); }
};

}  // namespace ISA
}  // namespace quire
