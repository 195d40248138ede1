// What simd.h names, in AVX-512, with VNNI where each_isa.h has named it; it says what each is. No #pragma once.

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
INLINE V low_of(I x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
INLINE V high_of(I x) { return _mm512_castsi512_ps(_mm512_and_si512(x, iall(-65536))); }
INLINE I low_only(I x) { return _mm512_and_si512(x, iall(65535)); }
INLINE I halves(V x) {
  const I bits = bits_of(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), iall(1));
  const I some = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, iall(0x7fff)), odd), 16);
  return _mm512_mask_mov_epi32(some, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), iall(0x7fc0));
}
INLINE void istore_halves(uint16_t* p, I x) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(x)); }
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
