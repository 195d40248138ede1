// What happens to rows one by one, for one instruction set (see each_isa.h). An element's bits depend on its row alone:
// what is left over at the end of a row is computed by the same operations on a part of a vector.

namespace quire {
namespace ISA {

// The error function to within 1.5e-7 (Abramowitz and Stegun 7.1.26).
INLINE V erf(V x) {
  const V a = magnitude(x);
  const V t = div(all(1.0f), mul_add(a, all(0.3275911f), all(1.0f)));
  V p = all(1.061405429f);
  p = mul_add(p, t, all(-1.453152027f));
  p = mul_add(p, t, all(1.421413741f));
  p = mul_add(p, t, all(-0.284496736f));
  p = mul_add(p, t, all(0.254829592f));
  const V y = sub(all(1.0f), mul(mul(p, t), exp(sub(zero(), mul(x, x)))));
  return with_sign(y, x);
}

INLINE V sigmoid(V x) { return div(all(1.0f), add(all(1.0f), exp(sub(zero(), x)))); }
INLINE V tanh(V x) { return sub(mul(all(2.0f), sigmoid(add(x, x))), all(1.0f)); }

template <Gate gate>
INLINE V activated(V x) {
  if (gate == Gate::silu) return div(x, add(all(1.0f), exp(sub(zero(), x))));
  if (gate == Gate::relu) return greater(zero(), x);  // NaN stays
  const V half = mul(x, all(0.5f));
  if (gate == Gate::gelu) return mul_add(half, erf(mul(x, all(0.70710678f))), half);
  // x / 2 * (1 + tanh(u)) = x * sigmoid(2 u)
  const V u = mul(all(0.79788456f), mul_add(mul(mul(x, x), x), all(0.044715f), x));
  return mul(x, sigmoid(add(u, u)));
}

INLINE V load_some(const float* p, int64_t n) { return n >= W ? load(p) : load_part(p, static_cast<int>(n)); }
INLINE void store_some(float* p, V x, int64_t n) {
  if (n >= W) store(p, x); else store_part(p, x, static_cast<int>(n));
}

// The largest magnitude of `count` values; infinite or NaN where one is no number: as bits magnitudes are in their order,
// infinity and then NaN above all numbers.
INLINE float largest_magnitude(const float* from, int64_t count) {
  I greatest = izero();
  for (int64_t i = 0; i < count; i += W) greatest = igreater(greatest, bits_of(magnitude(load_some(from + i, count - i))));
  const int32_t bits = ilargest(greatest);
  float top;
  std::memcpy(&top, &bits, sizeof top);
  return top;
}

// What `count` values from `from` on count in as whole numbers of -most to most, and what each is multiplied with to be
// one. NaN and infinity have no number: where there is one, all are 0 and count in NaN.
struct Unit {
  float unit, scale;
};
INLINE Unit unit_of(const float* from, int64_t count, int most) {
  const float top = largest_magnitude(from, count), limit = static_cast<float>(most);
  if (!(top <= 3.4e38f)) return {NAN, 0};
  return {top / limit, top > 1e-30f ? limit / top : 0.0f};  // of less its inverse could be infinite: that is 0
}

// Value i of a row in such units; of one that is no number 0.
INLINE I numbers_at(const float* from, int64_t i, int64_t count, Unit in) {
  return in.scale == 0 ? izero() : rounded(mul(load_some(from + i, count - i), all(in.scale)));
}

// The same as bytes, -127 to 127; their sum goes to `total`. `to` has room for whole vectors.
INLINE float as_bytes(const float* from, int64_t count, int8_t* to, int32_t* total) {
  const Unit in = unit_of(from, count, 127);
  I sums = izero();
  for (int64_t i = 0; i < count; i += W) {
    const I some = numbers_at(from, i, count, in);
    istore_bytes(to + i, some);
    sums = iadd(sums, some);
  }
  *total = isum(sums);
  return in.unit;
}

template <Gate gate>
TARGET static void gated_row(const float* x, int64_t width, float* y) {
  for (int64_t i = 0; i < width; i += W) {
    const int64_t n = width - i;
    store_some(y + i, mul(activated<gate>(load_some(x + i, n)), load_some(x + width + i, n)), n);
  }
}

TARGET static float inverse_rms(const float* x, int64_t width, float eps) {
  V some[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * W <= width; i += 4 * W)
    for (int j = 0; j < 4; j++) {
      const V v = load(x + i + j * W);
      some[j] = mul_add(v, v, some[j]);
    }
  for (; i < width; i += W) {
    const V v = load_some(x + i, width - i);
    some[0] = mul_add(v, v, some[0]);
  }
  const float squares = sum(add(add(some[0], some[1]), add(some[2], some[3])));
  return 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
}

TARGET static void normed_row(const float* x, const float* norm, float eps, int64_t width, float* y) {
  const V by = all(inverse_rms(x, width, eps));
  for (int64_t i = 0; i < width; i += W) {
    const int64_t n = width - i;
    store_some(y + i, mul(load_some(norm + i, n), mul(load_some(x + i, n), by)), n);
  }
}

// The row as it goes into the product: where it lies if nothing becomes of it, else in `room`.
TARGET static const float* prepared(const Inputs& in, int64_t row, float* room) {
  const float* x = in.x + row * in.stride;
  switch (in.gate) {
    case Gate::silu: gated_row<Gate::silu>(x, in.width, room); return room;
    case Gate::gelu: gated_row<Gate::gelu>(x, in.width, room); return room;
    case Gate::gelu_tanh: gated_row<Gate::gelu_tanh>(x, in.width, room); return room;
    case Gate::relu: gated_row<Gate::relu>(x, in.width, room); return room;
    default: break;
  }
  if (!in.norm) return x;
  normed_row(x, in.norm, in.eps, in.width, room);
  return room;
}

}  // namespace ISA
}  // namespace quire
