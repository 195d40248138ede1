// Products with packed matrices, for one instruction set (see each_isa.h).
//
// Rows are taken by tiles of up to TILE, laid out so that a tile reads its inputs front to back: [step][rows]. A tile's
// product with a panel (or two, where there are few rows) stays in registers over a block of inputs, then is added to y.

#include "rows_body.h"

namespace quire {
namespace ISA {

constexpr int NV = static_cast<int>(LANES) / W;  // vectors of a panel

// Formats: how a step of a panel becomes vectors, and what a row gives to meet it.

struct AsF32 {
  using Weight = float;
  INLINE V get(const Weight* w) { return load(w); }
};
struct AsBF16 {
  using Weight = uint16_t;
  INLINE V get(const Weight* w) { return load_bf16(w); }
};
struct AsF16 {
  using Weight = uint16_t;
  INLINE V get(const Weight* w) { return load_f16(w); }
};

template <int R, int P>
INLINE void add_to(const Tile& t, const V (&acc)[R][P * NV]) {
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) {
      float* y = t.y + r * t.y_stride + c * W;
      store(y, t.first ? acc[r][c] : add(load(y), acc[r][c]));
    }
}

template <class F, int R, int P>
TARGET static void floats(const Tile& t) {
  V acc[R][P * NV];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) acc[r][c] = zero();
  const float* x = static_cast<const float*>(t.x);
  const typename F::Weight* w[P];
  for (int p = 0; p < P; p++) w[p] = reinterpret_cast<const typename F::Weight*>(t.w + p * t.panel);
  for (int64_t k = 0; k < t.count; k++) {
    V b[P * NV];
    for (int p = 0; p < P; p++) {
      for (int c = 0; c < NV; c++) b[p * NV + c] = F::get(w[p] + c * W);
      w[p] += LANES;
    }
    for (int r = 0; r < R; r++) {
      const V a = all(x[r]);
      for (int c = 0; c < P * NV; c++) acc[r][c] = mul_add(a, b[c], acc[r][c]);
    }
    x += R;
  }
  add_to<R, P>(t, acc);
}

// Few rows wait for memory, and few bytes a step are too slow a walk for the machine to run ahead of: bytes that are asked for
// ahead, with up to so many rows.
constexpr int AHEAD = 2048, AHEAD_ROWS = 4;

// Two inputs of int8 are LANES pairs of bytes, widened to 16 bits and multiplied with a row's pair of 16 bits.
struct AsI8 {
  template <int R, int P>
  INLINE void group(const int32_t* x, const char* (&w)[P], int64_t count, I (&acc)[R][P * NV]) {
    for (int64_t k = 0; k < count; k += 2) {
      I b[P * NV];
      for (int p = 0; p < P; p++) {
        if (R <= AHEAD_ROWS) __builtin_prefetch(w[p] + AHEAD);
        for (int c = 0; c < NV; c++) b[p * NV + c] = widened(reinterpret_cast<const int8_t*>(w[p]) + c * 2 * W);
        w[p] += 2 * LANES;
      }
      for (int r = 0; r < R; r++) {
        const I a = iall(x[r]);
        for (int c = 0; c < P * NV; c++) acc[r][c] = pairs_add(a, b[c], acc[r][c]);
      }
      x += R;
    }
  }
};

// A word of 16 bits holds four codes of int4, of which each shift and mask gives one. The pair of words of an output holds
// the inputs (0 1), (2 3), (4 5), (6 7), from the lowest bits on. Where rows are many, words that wait for their shifts would
// take the registers of sums: there a group is gone over four times. The order of whole numbers changes no sum.
struct AsI4 {
  template <int P>
  INLINE void words_of(const char* const (&w)[P], I (&words)[P * NV]) {
    for (int p = 0; p < P; p++)
      for (int c = 0; c < NV; c++) words[p * NV + c] = iload(w[p] + c * 4 * W);
  }
  template <int S, int R, int P>
  INLINE void quarter(const int32_t* x, const I (&words)[P * NV], I (&acc)[R][P * NV]) {
    I b[P * NV];
    for (int c = 0; c < P * NV; c++) {
      b[c] = down16<4 * S>(words[c]);
      if (S < 3) b[c] = both(b[c], iall16(15));
    }
    for (int r = 0; r < R; r++) {
      const I a = iall(x[S * R + r]);
      for (int c = 0; c < P * NV; c++) acc[r][c] = pairs_add(a, b[c], acc[r][c]);
    }
  }
  template <int S, int R, int P>
  INLINE void pass(const int32_t* x, const char* const (&first)[P], int64_t count, I (&acc)[R][P * NV]) {
    const char* w[P];
    for (int p = 0; p < P; p++) w[p] = first[p];
    for (int64_t k = 0; k < count; k += 8) {
      I words[P * NV];
      words_of<P>(w, words);
      quarter<S, R, P>(x, words, acc);
      x += 4 * R;
      for (int p = 0; p < P; p++) w[p] += 4 * LANES;
    }
  }
  template <int R, int P>
  INLINE void group(const int32_t* x, const char* (&w)[P], int64_t count, I (&acc)[R][P * NV]) {
    if (R <= AHEAD_ROWS)
      for (int p = 0; p < P; p++)
        for (int64_t at = 0; at < count / 2 * LANES; at += 64) __builtin_prefetch(w[p] + AHEAD + at);
    if constexpr (R <= 3) {
      for (int64_t k = 0; k < count; k += 8) {
        I words[P * NV];
        words_of<P>(w, words);
        quarter<0, R, P>(x, words, acc);
        quarter<1, R, P>(x, words, acc);
        quarter<2, R, P>(x, words, acc);
        quarter<3, R, P>(x, words, acc);
        x += 4 * R;
        for (int p = 0; p < P; p++) w[p] += 4 * LANES;
      }
      return;
    }
    pass<0, R, P>(x, w, count, acc);
    pass<1, R, P>(x, w, count, acc);
    pass<2, R, P>(x, w, count, acc);
    pass<3, R, P>(x, w, count, acc);
    for (int p = 0; p < P; p++) w[p] += count / 2 * LANES;
  }
};

// The sums of a group are whole numbers, which its scale turns into floats; MIDDLE is taken off them at their start.
template <class F, int MIDDLE, int R, int P>
TARGET static void wholes(const Tile& t) {
  const int32_t* x = static_cast<const int32_t*>(t.x);
  const char* w[P];
  for (int p = 0; p < P; p++) w[p] = t.w + p * t.panel;
  const int64_t groups = t.count / t.group;
  float room[R * P * LANES];
  for (int64_t g = 0; g < groups; g++) {
    const int32_t* sums = t.sums + g * R;
    I acc[R][P * NV];
    for (int r = 0; r < R; r++) {
      const I start = MIDDLE ? iall(-MIDDLE * sums[r]) : izero();
      for (int c = 0; c < P * NV; c++) acc[r][c] = start;
    }
    F::template group<R, P>(x, w, t.group, acc);
    x += t.group / 2 * R;
    for (int p = 0; p < P; p++)
      for (int c = 0; c < NV; c++) {
        const V scale = load(t.scale + p * t.scales + g * LANES + c * W);
        for (int r = 0; r < R; r++) {
          float* at = room + (r * P + p) * LANES + c * W;
          const V found = mul(to_float(acc[r][p * NV + c]), scale);
          store(at, g ? add(load(at), found) : found);
        }
        if (!t.low) continue;
        const V low = load(t.low + p * t.scales + g * LANES + c * W);
        for (int r = 0; r < R; r++) {
          float* at = room + (r * P + p) * LANES + c * W;
          store(at, mul_add(low, all(static_cast<float>(sums[r])), load(at)));
        }
      }
  }
  V acc[R][P * NV];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) acc[r][c] = load(room + r * P * LANES + c * W);
  add_to<R, P>(t, acc);
}

// By rows (from 1 on): one panel, and two where few rows would leave the multipliers waiting for sums.
template <class F>
TARGET static Kernel floats_of(int rows, bool two) {
  static const Kernel one[] = {floats<F, 1, 1>, floats<F, 2, 1>, floats<F, 3, 1>,
                               floats<F, 4, 1>, floats<F, 5, 1>, floats<F, 6, 1>};
  static const Kernel both[] = {floats<F, 1, 2>, floats<F, 2, 2>, floats<F, 3, 2>};
  return two ? both[rows - 1] : one[rows - 1];
}

template <class F, int MIDDLE>
TARGET static Kernel wholes_of(int rows, bool two) {
  static const Kernel one[] = {wholes<F, MIDDLE, 1, 1>, wholes<F, MIDDLE, 2, 1>, wholes<F, MIDDLE, 3, 1>,
                               wholes<F, MIDDLE, 4, 1>, wholes<F, MIDDLE, 5, 1>, wholes<F, MIDDLE, 6, 1>};
  static const Kernel both[] = {wholes<F, MIDDLE, 1, 2>, wholes<F, MIDDLE, 2, 2>, wholes<F, MIDDLE, 3, 2>};
  return two ? both[rows - 1] : one[rows - 1];
}

TARGET static Kernel kernel_of(Format format, int rows, bool two) {
  switch (format) {
    case Format::f32: return floats_of<AsF32>(rows, two);
    case Format::bf16: return floats_of<AsBF16>(rows, two);
    case Format::f16: return floats_of<AsF16>(rows, two);
    case Format::i8: return wholes_of<AsI8, 0>(rows, two);
    default: return wholes_of<AsI4, 8>(rows, two);
  }
}

// Rows of a tile into its layout. room: 2 * padded floats.
TARGET static void lay_floats(const Inputs& in, const Layout& to, float* room) {
  for (int r = 0; r < to.rows; r++) {
    const float* from = prepared(in, to.first + r, room);
    for (int64_t begin = 0; begin < in.width; begin += to.block) {
      const int64_t count = in.width - begin < to.block ? in.width - begin : to.block;
      float* x = static_cast<float*>(to.x) + to.at(begin, count) + r;
      for (int64_t k = 0; k < count; k++) x[k * to.rows] = from[begin + k];
    }
  }
}

// Whole numbers of 16 bits, by the largest of a row; units[r] is what they count in. NaN and infinity have no code: a row
// that has one counts in NaN.
TARGET static void lay_wholes(const Inputs& in, const Layout& to, float* room) {
  int32_t* codes = reinterpret_cast<int32_t*>(room + to.padded);
  for (int r = 0; r < to.rows; r++) {
    const float* from = prepared(in, to.first + r, room);
    V most = zero(), odd = zero();  // odd: NaN where a value is no number
    for (int64_t i = 0; i < in.width; i += W) {
      const V v = load_some(from + i, in.width - i);
      most = greater(most, magnitude(v));
      odd = add(odd, mul(v, zero()));
    }
    const float top = largest(most);
    const bool sound = sum(odd) == 0 && top <= 3.4e38f;
    to.units[r] = sound ? top / 32767 : NAN;
    const V scale = all(sound && top > 1e-30f ? 32767 / top : 0.0f);  // of less its inverse could be infinite: that is 0
    for (int64_t i = 0; i < in.width; i += W)  // a group, so what is padded, is a multiple of W
      store_int(codes + i, sound ? mul(load_some(from + i, in.width - i), scale) : zero());
    for (int64_t i = (in.width + W - 1) / W * W; i < to.padded; i++) codes[i] = 0;
    for (int64_t begin = 0; begin < to.padded; begin += to.block) {
      const int64_t count = to.padded - begin < to.block ? to.padded - begin : to.block;
      int32_t* x = static_cast<int32_t*>(to.x) + to.at(begin / 2, count / 2) + r;
      for (int64_t k = 0; k < count; k += 2) {
        const uint32_t low = static_cast<uint32_t>(codes[begin + k]), high = static_cast<uint32_t>(codes[begin + k + 1]);
        x[k / 2 * to.rows] = static_cast<int32_t>((low & 0xffff) | high << 16);
      }
    }
    for (int64_t g = 0; g < to.padded / to.group; g++) {
      int32_t total = 0;
      for (int64_t k = g * to.group; k < (g + 1) * to.group; k++) total += codes[k];
      to.sums[g * to.rows + r] = total;
    }
  }
}

// The last act on y: times[r] (of whole numbers), bias, add.
TARGET static void finish(
    float* y, int64_t stride, int rows, int64_t count, const float* times, const float* bias, const float* more, int64_t more_stride) {
  for (int r = 0; r < rows; r++)
    for (int64_t i = 0; i < count; i += W) {
      const int64_t n = count - i;
      V v = load_some(y + r * stride + i, n);
      if (times) v = mul(v, all(times[r]));
      if (bias) v = add(v, load_some(bias + i, n));
      if (more) v = add(v, load_some(more + r * more_stride + i, n));
      store_some(y + r * stride + i, v, n);
    }
}

// One row of the matrix, from its panel.
TARGET static void weights_row(const Matrix& m, int64_t row, float* y) {
  const int64_t panel = row / LANES, lane = row % LANES;
  const char* at = static_cast<const char*>(m.panels) + panel * panel_bytes(m);
  const int64_t groups = whole_numbers(m.format) ? groups_of(m) : 0;
  for (int64_t k = 0; k < m.inputs; k++) {
    if (!whole_numbers(m.format)) {
      float some[W];
      const int64_t from = k * LANES + lane / W * W;
      if (m.format == Format::f32) {
        y[k] = reinterpret_cast<const float*>(at)[k * LANES + lane];
        continue;
      }
      const uint16_t* half = reinterpret_cast<const uint16_t*>(at) + from;
      store(some, m.format == Format::bf16 ? load_bf16(half) : load_f16(half));
      y[k] = some[lane % W];
      continue;
    }
    const int64_t g = (panel * groups + k / m.group) * LANES + lane;
    int code;
    if (m.format == Format::i8) {
      code = reinterpret_cast<const int8_t*>(at)[k / 2 * 2 * LANES + 2 * lane + k % 2];
    } else {
      const uint16_t word = reinterpret_cast<const uint16_t*>(at)[k / 8 * 2 * LANES + 2 * lane + k % 2];
      code = (word >> k % 8 / 2 * 4 & 15) - 8;
    }
    y[k] = static_cast<float>(code) * m.scale[g] + (m.low ? m.low[g] : 0);
  }
}

}  // namespace ISA
}  // namespace quire
