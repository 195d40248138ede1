// What simd.h names, in C++ alone; it says what each is. No #pragma once.

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
typedef uint32_t Bits __attribute__((vector_size(16)));
INLINE V low_of(I x) { return (V)((Bits)x << 16); }
INLINE V high_of(I x) { return (V)((Bits)x & 0xffff0000u); }
INLINE I low_only(I x) { return (I)((Bits)x & 0xffffu); }
INLINE I halves(V x) {
  const Bits bits = (Bits)x;
  return x == x ? (I)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16) : I{0x7fc0, 0x7fc0, 0x7fc0, 0x7fc0};
}
INLINE void istore_halves(uint16_t* p, I x) {
  for (int i = 0; i < W; i++) p[i] = static_cast<uint16_t>(x[i]);
}
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
