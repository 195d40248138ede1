// V: W floats, and what can be done with them, for the instruction set that each_isa.h has named. No #pragma once.
// The part functions take the first n lanes, 0 < n < W: the rest reads as 0 and is not written, nor touched in memory.
// REGISTERS: how many V the machine holds, which the tiles of a kernel are sized by.

namespace quire {
namespace ISA {

#define INLINE static inline __attribute__((always_inline)) TARGET

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
INLINE float sum(V x) { return (x[0] + x[2]) + (x[1] + x[3]); }

#endif

}  // namespace ISA
}  // namespace quire
