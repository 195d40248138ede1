// What simd.h names, in AVX2; it says what each is. No #pragma once.

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
INLINE V low_of(I x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
INLINE V high_of(I x) { return _mm256_castsi256_ps(_mm256_and_si256(x, iall(-65536))); }
INLINE I low_only(I x) { return _mm256_and_si256(x, iall(65535)); }
INLINE I halves(V x) {
  const I bits = bits_of(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), iall(1));
  const I some = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, iall(0x7fff)), odd), 16);
  return _mm256_blendv_epi8(some, iall(0x7fc0), _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
INLINE void istore_halves(uint16_t* p, I x) {
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}
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
