// V: W floats, Wide: sums of as many in doubles, I: W int32 or 2 W int16, and what can be done with them, for the instruction set that each_isa.h has named.
// No #pragma once.
// quads_add takes bytes, of 0 to 15 and of -127 to 127; what it has added up to 8 times, quads_sum turns into W int32: each
// the sum of 4 products a time. (Two products are 3,810 at most, so 8 times two fit into 16 bits.) bytes_add takes codes of 0 to
// 255 and gives W int32 at once: fast with VNNI only.
// The part functions take the first n lanes, 0 < n < W: the rest reads as 0 and is not written, nor touched in memory.
// where: x where the lane's bit is set, else y. zero_where_less: y, but 0 in lanes where x < limit. marked:
// odd, but NaN in lanes where x is NaN.
// REGISTERS: how many V the machine holds, which the tiles of a kernel are sized by.

namespace quire {
namespace ISA {

#define INLINE static inline __attribute__((always_inline)) TARGET

constexpr uint64_t NIBBLES = 0x0f0f0f0f0f0f0f0f;  // the lower ones

#if defined(ISA_AVX512)

using V = __m512;
constexpr int W = 16, REGISTERS = 32;
INLINE __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1); }
INLINE V zero() { return _mm512_setzero_ps(); }
INLINE V all(float x) { return _mm512_set1_ps(x); }
INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
INLINE V load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
INLINE void store(float* p, V x) { _mm512_storeu_ps(p, x); }
INLINE void store_part(float* p, V x, int n) { _mm512_mask_storeu_ps(p, mask(n), x); }
INLINE V add(V x, V y) { return _mm512_add_ps(x, y); }
INLINE V mul(V x, V y) { return _mm512_mul_ps(x, y); }
INLINE V mul_add(V x, V y, V z) { return _mm512_fmadd_ps(x, y, z); }
INLINE V sub(V x, V y) { return _mm512_sub_ps(x, y); }
INLINE V div(V x, V y) { return _mm512_div_ps(x, y); }
INLINE V greater(V x, V y) { return _mm512_max_ps(x, y); }
INLINE V lesser(V x, V y) { return _mm512_min_ps(x, y); }
INLINE V magnitude(V x) { return _mm512_abs_ps(x); }
INLINE V with_sign(V x, V of) { return _mm512_or_ps(x, _mm512_and_ps(of, _mm512_set1_ps(-0.0f))); }
INLINE V whole(V x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE V doubled(V x, V times) { return _mm512_scalef_ps(x, times); }
INLINE float largest(V x) { return _mm512_reduce_max_ps(x); }
INLINE V load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
INLINE V load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
INLINE V load(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))); }

INLINE V marked(V odd, V x) {
  return _mm512_mask_mov_ps(odd, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_ps(NAN));
}
INLINE V zero_where_less(V x, V limit, V y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
}
INLINE V where(uint32_t bits, V x, V y) { return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), y, x); }

struct Wide {
  __m512d low, high;
};
INLINE Wide widely_zero() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
INLINE void widely_add(Wide& sums, V x) {
  sums.low = _mm512_add_pd(sums.low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
  sums.high = _mm512_add_pd(sums.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
}
INLINE void store(double* p, const Wide& x) { _mm512_storeu_pd(p, x.low), _mm512_storeu_pd(p + 8, x.high); }

using I = __m512i;
INLINE I izero() { return _mm512_setzero_si512(); }
INLINE I iall(int32_t x) { return _mm512_set1_epi32(x); }
INLINE I widened(const int8_t* p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p)); }
#if defined(ISA_VNNI)
INLINE I pairs_add(I x, I y, I z) {  // of the intrinsics of these two the compiler copies each sum there and back
  __asm__("vpdpwssd %2, %1, %0" : "+v"(z) : "v"(x), "v"(y));
  return z;
}
INLINE I bytes_add(I codes, I y, I z) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(z) : "v"(codes), "v"(y));
  return z;
}
INLINE I quads_add(I codes, I y, I z) { return bytes_add(codes, y, z); }
INLINE I quads_sum(I z) { return z; }
#else
INLINE I pairs_add(I x, I y, I z) { return _mm512_add_epi32(z, _mm512_madd_epi16(x, y)); }
INLINE I quads_add(I codes, I y, I z) { return _mm512_add_epi16(z, _mm512_maddubs_epi16(codes, y)); }
INLINE I quads_sum(I z) { return _mm512_madd_epi16(z, _mm512_set1_epi16(1)); }
INLINE I bytes_add(I codes, I y, I z) {
  const I mask = _mm512_set1_epi8(15), high = _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask);
  const I some = quads_sum(quads_add(_mm512_and_si512(codes, mask), y, izero()));
  return _mm512_add_epi32(z, _mm512_add_epi32(some, _mm512_slli_epi32(quads_sum(quads_add(high, y, izero())), 4)));
}
#endif
INLINE I iload(const void* p) { return _mm512_loadu_si512(p); }
INLINE I low_then_high_nibbles(const void* p) {
  const __m256i some = _mm256_loadu_si256((const __m256i*)p);
  const I whole = _mm512_inserti64x4(_mm512_castsi256_si512(some), _mm256_srli_epi16(some, 4), 1);
  return _mm512_and_si512(whole, _mm512_set1_epi8(15));
}
INLINE I iadd(I x, I y) { return _mm512_add_epi32(x, y); }
INLINE V to_float(I x) { return _mm512_cvtepi32_ps(x); }
INLINE I rounded(V x) { return _mm512_cvtps_epi32(x); }
INLINE I bits_of(V x) { return _mm512_castps_si512(x); }
INLINE I igreater(I x, I y) { return _mm512_max_epi32(x, y); }
INLINE int32_t ilargest(I x) { return _mm512_reduce_max_epi32(x); }
INLINE int32_t isum(I x) { return _mm512_reduce_add_epi32(x); }
INLINE void istore(int32_t* p, I x) { _mm512_storeu_si512(p, x); }
INLINE void istore_bytes(int8_t* p, I x) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(x)); }
INLINE float sum(V x) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

#elif defined(ISA_AVX2)

using V = __m256;
constexpr int W = 8, REGISTERS = 16;
INLINE __m256i mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE V zero() { return _mm256_setzero_ps(); }
INLINE V all(float x) { return _mm256_set1_ps(x); }
INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
INLINE V load_part(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
INLINE void store(float* p, V x) { _mm256_storeu_ps(p, x); }
INLINE void store_part(float* p, V x, int n) { _mm256_maskstore_ps(p, mask(n), x); }
INLINE V add(V x, V y) { return _mm256_add_ps(x, y); }
INLINE V mul(V x, V y) { return _mm256_mul_ps(x, y); }
INLINE V mul_add(V x, V y, V z) { return _mm256_fmadd_ps(x, y, z); }
INLINE V sub(V x, V y) { return _mm256_sub_ps(x, y); }
INLINE V div(V x, V y) { return _mm256_div_ps(x, y); }
INLINE V greater(V x, V y) { return _mm256_max_ps(x, y); }
INLINE V lesser(V x, V y) { return _mm256_min_ps(x, y); }
INLINE V magnitude(V x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE V with_sign(V x, V of) { return _mm256_or_ps(x, _mm256_and_ps(of, _mm256_set1_ps(-0.0f))); }  // x >= 0
INLINE V whole(V x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE V doubled(V x, V times) {  // times: whole, -250 to 250
  const __m256i half = _mm256_srai_epi32(_mm256_cvtps_epi32(times), 1);
  const __m256i rest = _mm256_sub_epi32(_mm256_cvtps_epi32(times), half);
  const __m256i one = _mm256_set1_epi32(127);
  x = _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, one), 23)));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, one), 23)));
}
INLINE float largest(V x) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
INLINE V load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
INLINE V load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
INLINE V load(const int8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))); }

INLINE V marked(V odd, V x) { return _mm256_or_ps(odd, _mm256_cmp_ps(x, x, _CMP_UNORD_Q)); }
INLINE V zero_where_less(V x, V limit, V y) { return _mm256_and_ps(y, _mm256_cmp_ps(x, limit, _CMP_NLT_UQ)); }
INLINE V where(uint32_t bits, V x, V y) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i mine = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), each);
  return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(mine, each)));
}

struct Wide {
  __m256d low, high;
};
INLINE Wide widely_zero() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
INLINE void widely_add(Wide& sums, V x) {
  sums.low = _mm256_add_pd(sums.low, _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
  sums.high = _mm256_add_pd(sums.high, _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
}
INLINE void store(double* p, const Wide& x) { _mm256_storeu_pd(p, x.low), _mm256_storeu_pd(p + 4, x.high); }

using I = __m256i;
INLINE I izero() { return _mm256_setzero_si256(); }
INLINE I iall(int32_t x) { return _mm256_set1_epi32(x); }
INLINE I iload(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
INLINE I widened(const int8_t* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)); }
INLINE I low_nibbles(I x) {  // with the mask in memory: the sums of six rows leave no register for it
  alignas(32) static const uint64_t mask[4] = {NIBBLES, NIBBLES, NIBBLES, NIBBLES};
  __asm__("vpand %1, %0, %0" : "+x"(x) : "m"(mask));
  return x;
}
INLINE I high_nibbles(I x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }
INLINE I pairs_add(I x, I y, I z) { return _mm256_add_epi32(z, _mm256_madd_epi16(x, y)); }
INLINE I quads_add(I codes, I y, I z) {  // in one piece: all products before all sums would take twice the registers
  I products;
  __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(z), "=&x"(products) : "x"(codes), "x"(y));
  return z;
}
INLINE I quads_sum(I z) { return _mm256_madd_epi16(z, _mm256_set1_epi16(1)); }
INLINE I bytes_add(I codes, I y, I z) {
  const I low = quads_sum(_mm256_maddubs_epi16(low_nibbles(codes), y));
  const I high = quads_sum(_mm256_maddubs_epi16(high_nibbles(codes), y));
  return _mm256_add_epi32(z, _mm256_add_epi32(low, _mm256_slli_epi32(high, 4)));
}
INLINE I iadd(I x, I y) { return _mm256_add_epi32(x, y); }
INLINE V to_float(I x) { return _mm256_cvtepi32_ps(x); }
INLINE I rounded(V x) { return _mm256_cvtps_epi32(x); }
INLINE I bits_of(V x) { return _mm256_castps_si256(x); }
INLINE I igreater(I x, I y) { return _mm256_max_epi32(x, y); }
INLINE int32_t ilargest(I x) {
  __m128i q = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  q = _mm_max_epi32(q, _mm_unpackhi_epi64(q, q));
  return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 1)));
}
INLINE int32_t isum(I x) {
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  q = _mm_add_epi32(q, _mm_unpackhi_epi64(q, q));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 1)));
}
INLINE void istore(int32_t* p, I x) { _mm256_storeu_si256((__m256i*)p, x); }
INLINE void istore_bytes(int8_t* p, I x) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(words, words));
}
INLINE float sum(V x) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

#else

// The compiler's own vectors: SSE2, NEON, or whatever the machine has. The product is rounded before the sum
// (-ffp-contract=off): where the compiler were free to fuse them, it could do so in one tile and not in another.
typedef float V __attribute__((vector_size(16)));
constexpr int W = 4, REGISTERS = 16;
INLINE V zero() { return V{0, 0, 0, 0}; }
INLINE V all(float x) { return V{x, x, x, x}; }
INLINE V load_part(const float* p, int n) {
  V x = zero();
  std::memcpy(&x, p, static_cast<size_t>(n) * sizeof(float));
  return x;
}
INLINE V load(const float* p) { return load_part(p, W); }
INLINE void store_part(float* p, V x, int n) { std::memcpy(p, &x, static_cast<size_t>(n) * sizeof(float)); }
INLINE void store(float* p, V x) { store_part(p, x, W); }
INLINE V add(V x, V y) { return x + y; }
INLINE V mul(V x, V y) { return x * y; }
INLINE V mul_add(V x, V y, V z) { return x * y + z; }
INLINE V sub(V x, V y) { return x - y; }
INLINE V div(V x, V y) { return x / y; }
INLINE V greater(V x, V y) { return x > y ? x : y; }
INLINE V lesser(V x, V y) { return x < y ? x : y; }
INLINE V magnitude(V x) { return x < 0 ? -x : x; }
INLINE V with_sign(V x, V of) { return of < 0 ? -x : x; }
INLINE V each(V x, float (*f)(float)) { return V{f(x[0]), f(x[1]), f(x[2]), f(x[3])}; }
INLINE V whole(V x) { return each(x, std::nearbyint); }
INLINE V doubled(V x, V times) {
  V y;
  for (int i = 0; i < W; i++) y[i] = std::ldexp(x[i], static_cast<int>(times[i]));
  return y;
}
INLINE float largest(V x) {
  const V y = greater(x, V{x[2], x[3], x[2], x[3]});
  return y[0] > y[1] ? y[0] : y[1];
}
INLINE float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
INLINE float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f, part = static_cast<float>(bits & 1023) / 1024;
  if (exponent == 31) return part == 0 ? sign * INFINITY : NAN;
  return sign * (exponent ? std::ldexp(1 + part, exponent - 15) : std::ldexp(part, -14));
}
INLINE V load_bf16(const uint16_t* p) {
  V x;
  for (int i = 0; i < W; i++) x[i] = from_bits(static_cast<uint32_t>(p[i]) << 16);
  return x;
}
INLINE V load_f16(const uint16_t* p) { return V{from_half(p[0]), from_half(p[1]), from_half(p[2]), from_half(p[3])}; }
INLINE V load(const int8_t* p) {
  typedef int8_t Bytes __attribute__((vector_size(4)));
  Bytes x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, V);
}

INLINE V marked(V odd, V x) { return x == x ? odd : x; }
INLINE V zero_where_less(V x, V limit, V y) { return x < limit ? zero() : y; }
INLINE V where(uint32_t bits, V x, V y) {
  for (int i = 0; i < W; i++) x[i] = bits >> i & 1 ? x[i] : y[i];
  return x;
}

struct Wide {
  double lanes[W];
};
INLINE Wide widely_zero() { return {}; }
INLINE void widely_add(Wide& sums, V x) {
  for (int i = 0; i < W; i++) sums.lanes[i] += x[i];
}
INLINE void store(double* p, const Wide& x) { std::memcpy(p, x.lanes, sizeof x.lanes); }

typedef int32_t I __attribute__((vector_size(16)));
typedef int16_t Halves __attribute__((vector_size(16)));
typedef uint64_t Longs __attribute__((vector_size(16)));
INLINE I izero() { return I{0, 0, 0, 0}; }
INLINE I iall(int32_t x) { return I{x, x, x, x}; }
INLINE I iload(const void* p) {
  I x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
INLINE I widened(const int8_t* p) { return (I)Halves{p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]}; }
INLINE I low_nibbles(I x) { return (I)((Longs)x & NIBBLES); }
INLINE I high_nibbles(I x) { return (I)((Longs)x >> 4 & NIBBLES); }
INLINE I pairs_add(I x, I y, I z) {
  const Halves a = (Halves)x, b = (Halves)y;
  for (int i = 0; i < W; i++) z[i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return z;
}
INLINE I quads_add(I codes, I y, I z) {
  typedef int8_t Bytes __attribute__((vector_size(16)));
  const Bytes a = (Bytes)codes, b = (Bytes)y;
  for (int i = 0; i < 4 * W; i++) z[i / 4] += a[i] * b[i];
  return z;
}
INLINE I quads_sum(I z) { return z; }
INLINE I bytes_add(I codes, I y, I z) {
  typedef uint8_t Codes __attribute__((vector_size(16)));
  typedef int8_t Bytes __attribute__((vector_size(16)));
  const Codes a = (Codes)codes;
  const Bytes b = (Bytes)y;
  for (int i = 0; i < 4 * W; i++) z[i / 4] += a[i] * b[i];
  return z;
}
INLINE I iadd(I x, I y) { return x + y; }
INLINE V to_float(I x) { return __builtin_convertvector(x, V); }
INLINE I rounded(V x) { return __builtin_convertvector(whole(x), I); }
INLINE I bits_of(V x) { return (I)x; }
INLINE I igreater(I x, I y) { return x > y ? x : y; }
INLINE int32_t ilargest(I x) {
  const I y = igreater(x, I{x[2], x[3], x[2], x[3]});
  return y[0] > y[1] ? y[0] : y[1];
}
INLINE int32_t isum(I x) { return x[0] + x[1] + x[2] + x[3]; }
INLINE void istore(int32_t* p, I x) { std::memcpy(p, &x, sizeof x); }
INLINE void istore_bytes(int8_t* p, I x) {
  for (int i = 0; i < W; i++) p[i] = static_cast<int8_t>(x[i]);
}
INLINE float sum(V x) { return (x[0] + x[2]) + (x[1] + x[3]); }

#endif

INLINE V load_part(const int8_t* p, int n) {
  int8_t some[W] = {};
  std::memcpy(some, p, static_cast<size_t>(n));
  return load(some);
}

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
