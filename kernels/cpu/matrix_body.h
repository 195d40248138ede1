// Products with packed matrices, for one instruction set (see each_isa.h).
//
// Rows are taken by tiles of up to TILE, laid out so that a tile reads its inputs front to back: [step][rows]. A tile's
// product with its panels stays in registers over a block of inputs, then is added to y. Where the machine has registers
// enough and more than one tile meets them, two panels are taken together: each row is loaded once for both, and twice as
// many sums are under way, as machines that multiply two vectors a cycle need. A tile alone waits for memory, which is read
// best front to back: one panel.

#include "rows_body.h"

namespace quire {
namespace ISA {

constexpr int NV = static_cast<int>(LANES) / W;  // vectors of a panel
constexpr int TOGETHER_AT_MOST = REGISTERS >= 32 ? 2 : 1;  // panels

template <int R, int C>
INLINE void add_to(const Tile& t, const V (&acc)[R][C]) {
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      float* y = t.y + r * t.y_stride + c * W;
      store(y, t.first ? acc[r][c] : add(load(y), acc[r][c]));
    }
}

// Vector c of the panels, at w of the first: where it lies, and the same of their scales.
INLINE const char* panel_at(const Tile& t, const char* w, int c, int64_t bytes) {
  return w + c / NV * t.apart + c % NV * bytes;
}
INLINE const float* scales_at(const Tile& t, const float* scale, int c) {
  return scale + c / NV * t.scales_apart + c % NV * W;
}
template <int P>
INLINE void ask_for(const Tile& t, const char* w) {
  for (int p = 0; p < P; p++) __builtin_prefetch(w + p * t.apart + t.ahead, 0, 2);
}

template <class F, int R, int P>
TARGET static void floats(const Tile& t) {
  using Weight = typename F::Weight;
  constexpr int C = P * NV;
  V acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = zero();
  const float* x = static_cast<const float*>(t.x);
  const char* w = t.w;
  for (int64_t k = 0; k < t.count; k++) {
    V b[C];
    ask_for<P>(t, w);
    for (int c = 0; c < C; c++) b[c] = F::get(reinterpret_cast<const Weight*>(panel_at(t, w, c, W * sizeof(Weight))));
    w += LANES * sizeof(Weight);
    for (int r = 0; r < R; r++) {
      const V a = all(x[r]);
      for (int c = 0; c < C; c++) acc[r][c] = mul_add(a, b[c], acc[r][c]);
    }
    x += R;
  }
  add_to<R, C>(t, acc);
}

// Two inputs of int8 are LANES pairs of bytes, widened to 16 bits and multiplied with a row's pair of 16 bits. The sums of a
// group are whole numbers, which its scale turns into floats.
template <int R>
TARGET static void wholes(const Tile& t) {
  const int32_t* x = static_cast<const int32_t*>(t.x);
  const char* w = t.w;
  const int64_t groups = t.count / t.group;
  float room[R * LANES];
  for (int64_t g = 0; g < groups; g++) {
    const int32_t* sums = t.sums + g * R;
    I acc[R][NV];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < NV; c++) acc[r][c] = izero();
    for (int64_t k = 0; k < t.group; k += 2) {
      I b[NV];
      __builtin_prefetch(w + t.ahead, 0, 2);
      for (int c = 0; c < NV; c++) b[c] = widened(reinterpret_cast<const int8_t*>(w) + c * 2 * W);
      w += 2 * LANES;
      for (int r = 0; r < R; r++) {
        const I a = iall(x[r]);
        for (int c = 0; c < NV; c++) acc[r][c] = pairs_add(a, b[c], acc[r][c]);
      }
      x += R;
    }
    for (int c = 0; c < NV; c++) {
      const V scale = load(t.scale + g * LANES + c * W);
      for (int r = 0; r < R; r++) {
        float* at = room + r * LANES + c * W;
        const V found = mul(to_float(acc[r][c]), scale);
        store(at, g ? add(load(at), found) : found);
      }
      if (!t.low) continue;
      const V low = load(t.low + g * LANES + c * W);
      for (int r = 0; r < R; r++) {
        float* at = room + r * LANES + c * W;
        store(at, mul_add(low, all(static_cast<float>(sums[r])), load(at)));
      }
    }
  }
  V acc[R][NV];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < NV; c++) acc[r][c] = load(room + r * LANES + c * W);
  add_to<R, NV>(t, acc);
}

// The codes of i4 for four inputs, as bytes: vector c of the panels.
INLINE I codes_at(const Tile& t, const char* w, int c) {
#if defined(ISA_AVX512)
  return low_then_high_nibbles(w + c * t.apart);
#else
  (void)t;  // one panel
  const I some = iload(w + c % (NV / 2) * 4 * W);
  return c < NV / 2 ? low_nibbles(some) : high_nibbles(some);
#endif
}

// Codes of 0 to 15 meet bytes of -127 to 127, over a run of QUADS times four inputs, 8 times at most: see quads_add.
template <int R, int QUADS, int P>
INLINE void run_of_codes(const Tile& t, const int32_t* x, const char* w, I (&found)[R][P * NV]) {
  constexpr int C = P * NV;
  I acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = izero();
#pragma GCC unroll 2
  for (int q = 0; q < QUADS; q++) {
    I b[C];
    const char* from = w + q * 2 * LANES;
    if (q % 2 == 0) ask_for<P>(t, from);
    for (int c = 0; c < C; c++) b[c] = codes_at(t, from, c);
    for (int r = 0; r < R; r++) {
      const I a = iall(x[q * R + r]);
      for (int c = 0; c < C; c++) acc[r][c] = quads_add(b[c], a, acc[r][c]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) found[r][c] = quads_sum(acc[r][c]);
}

template <int R, int QUADS, int P>
TARGET static void codes_by(const Tile& t) {
  constexpr int C = P * NV;
  const int32_t *x = static_cast<const int32_t*>(t.x), *middles = t.sums;
  const float *units = t.units, *scale = t.scale, *low = t.low;
  const char* w = t.w;
  V acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = zero();
  const int64_t group = t.group / t.run, runs = t.count / t.run;
  for (int64_t n = 0, left = group; n < runs; n++) {
    I found[R][C];
    run_of_codes<R, QUADS, P>(t, x, w, found);
    for (int r = 0; r < R; r++) {
      const I middle = iall(middles[r]);
      const V unit = all(units[r]);
      for (int c = 0; c < C; c++) {
        const V by = mul(unit, load(scales_at(t, scale, c)));
        acc[r][c] = mul_add(to_float(iadd(found[r][c], middle)), by, acc[r][c]);
      }
    }
    if (low)
      for (int r = 0; r < R; r++) {
        const V all_of_it = all(units[r] * static_cast<float>(middles[r]) / -8);
        for (int c = 0; c < C; c++) acc[r][c] = mul_add(load(scales_at(t, low, c)), all_of_it, acc[r][c]);
      }
    x += QUADS * R;
    w += QUADS * 2 * LANES;
    middles += R;
    units += R;
    if (--left) continue;
    left = group;
    scale += LANES;
    if (low) low += LANES;
  }
  add_to<R, C>(t, acc);
}
template <int R, int P>
TARGET static void codes(const Tile& t) {
  t.run == RUN ? codes_by<R, RUN / 4, P>(t) : codes_by<R, 4, P>(t);  // the smallest group has 16
}

// Codes of 0 to 255 meet bytes of -127 to 127, over runs of QUADS times four inputs. The sums of a group's runs are floats,
// each in the row's unit, until the group's scale makes them those of the product.
template <int R, int QUADS, int P>
TARGET static void bytes_by(const Tile& t) {
  constexpr int C = P * NV;
  const int32_t *x = static_cast<const int32_t*>(t.x), *middles = t.sums;
  const float* units = t.units;
  const char* w = t.w;
  const int64_t groups = t.count / t.group, runs = t.group / t.run;
  V acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = all(-0.0f);  // whose sum with anything is that
  for (int64_t g = 0; g < groups; g++) {
    V sums[R][C];
    float all_of_it[R] = {};  // the inputs of the group
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) sums[r][c] = zero();
    for (int64_t n = 0; n < runs; n++) {
      I found[R][C];
      for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) found[r][c] = iall(middles[r]);
#pragma GCC unroll 2
      for (int q = 0; q < QUADS; q++) {
        I b[C];
        ask_for<P>(t, w);
        for (int c = 0; c < C; c++) b[c] = iload(panel_at(t, w, c, 4 * W));
        w += 4 * LANES;
        for (int r = 0; r < R; r++) {
          const I a = iall(x[r]);
          for (int c = 0; c < C; c++) found[r][c] = bytes_add(b[c], a, found[r][c]);
        }
        x += R;
      }
      for (int r = 0; r < R; r++) {
        const V unit = all(units[r]);
        for (int c = 0; c < C; c++) sums[r][c] = mul_add(to_float(found[r][c]), unit, sums[r][c]);
      }
      if (t.low)
        for (int r = 0; r < R; r++) all_of_it[r] += units[r] * static_cast<float>(middles[r]);
      middles += R;
      units += R;
    }
    for (int c = 0; c < C; c++) {
      const V scale = load(scales_at(t, t.scale + g * LANES, c));
      for (int r = 0; r < R; r++) {
        V sum = mul(sums[r][c], scale);
        if (t.low) sum = mul_add(load(scales_at(t, t.low + g * LANES, c)), all(all_of_it[r] / -128), sum);
        acc[r][c] = add(acc[r][c], sum);
      }
    }
  }
  add_to<R, C>(t, acc);
}
template <int R, int P>
TARGET static void bytes(const Tile& t) {
  t.run == RUN ? bytes_by<R, RUN / 4, P>(t) : bytes_by<R, 4, P>(t);
}

// Kernels by the rows of a tile, from 1 on.
template <class F, int P>
TARGET static const Kernel* floats_of() {
  static const Kernel by_rows[] = {floats<F, 1, P>, floats<F, 2, P>, floats<F, 3, P>,
                                   floats<F, 4, P>, floats<F, 5, P>, floats<F, 6, P>};
  return by_rows;
}

TARGET static const Kernel* wholes_of() {
  static const Kernel by_rows[] = {wholes<1>, wholes<2>, wholes<3>, wholes<4>, wholes<5>, wholes<6>};
  return by_rows;
}

template <int P>
TARGET static const Kernel* codes_of() {
  static const Kernel by_rows[] = {codes<1, P>, codes<2, P>, codes<3, P>, codes<4, P>, codes<5, P>, codes<6, P>};
  return by_rows;
}

template <int P>
TARGET static const Kernel* bytes_of() {
  static const Kernel by_rows[] = {bytes<1, P>, bytes<2, P>, bytes<3, P>, bytes<4, P>, bytes<5, P>, bytes<6, P>};
  return by_rows;
}

template <int P>
TARGET static const Kernel* kernels_for(Format format) {
  switch (format) {
    case Format::f32: return floats_of<AsF32, P>();
    case Format::bf16: return floats_of<AsBF16, P>();
    case Format::f16: return floats_of<AsF16, P>();
    case Format::i8: return P == 1 ? wholes_of() : nullptr;
    case Format::b8: return bytes_of<P>();
    default: return codes_of<P>();
  }
}

// Of tiles with that many panels, one or two; null where this machine does not take two together.
TARGET static const Kernel* kernels_of(Format format, int panels) {
  return panels == 1 ? kernels_for<1>(format) : TOGETHER_AT_MOST == 2 ? kernels_for<TOGETHER_AT_MOST>(format) : nullptr;
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

INLINE int32_t total(const int32_t* codes, int64_t count) {
  int32_t found = 0;
  for (int64_t k = 0; k < count; k++) found += codes[k];
  return found;
}

// Pairs of 16 bits, which a row counts in one unit. A run, so what is padded, is a multiple of W.
TARGET static void lay_words(const Inputs& in, const Layout& to, float* room) {
  int32_t* codes = reinterpret_cast<int32_t*>(room + to.padded);
  for (int r = 0; r < to.rows; r++) {
    const float* from = prepared(in, to.first + r, room);
    const Unit unit = unit_of(from, in.width, 32767);
    to.units[r] = unit.unit;
    for (int64_t i = 0; i < to.padded; i += W) istore(codes + i, i < in.width ? numbers_at(from, i, in.width, unit) : izero());
    for (int64_t begin = 0; begin < to.padded; begin += to.block) {
      const int64_t count = to.padded - begin < to.block ? to.padded - begin : to.block;
      int32_t* x = static_cast<int32_t*>(to.x) + to.at(begin / 2, count / 2) + r;
      for (int64_t k = 0; k < count; k += 2) {
        const uint32_t low = static_cast<uint32_t>(codes[begin + k]), high = static_cast<uint32_t>(codes[begin + k + 1]);
        x[k / 2 * to.rows] = static_cast<int32_t>((low & 0xffff) | high << 16);
      }
    }
    for (int64_t n = 0; n < to.padded / to.run; n++) to.sums[n * to.rows + r] = total(codes + n * to.run, to.run);
  }
}

// Four bytes, which each run of a row counts in a unit of its own. The sums are times what takes the middle off the codes.
TARGET static void lay_bytes(const Inputs& in, const Layout& to, float* room) {
  int8_t codes[RUN] = {};
  for (int r = 0; r < to.rows; r++) {
    const float* from = prepared(in, to.first + r, room);
    for (int64_t begin = 0; begin < to.padded; begin += to.block) {
      const int64_t count = to.padded - begin < to.block ? to.padded - begin : to.block;
      int32_t* x = static_cast<int32_t*>(to.x) + to.at(begin / 4, count / 4) + r;
      for (int64_t k = begin; k < begin + count; k += to.run) {
        const int64_t left = in.width - k, there = left < 0 ? 0 : left < to.run ? left : to.run, n = k / to.run * to.rows + r;
        if (there < to.run) std::memset(codes, 0, sizeof codes);
        int32_t total;
        to.units[n] = as_bytes(from + k, there, codes, &total);
        to.sums[n] = -to.middle * total;
        for (int64_t i = 0; i < to.run; i += 4, x += to.rows) std::memcpy(x, codes + i, 4);
      }
    }
  }
}

// The last act on y: times[r] (of whole numbers), bias, add.
TARGET static void finish(
    float* y, int64_t stride, int rows, int64_t count, const float* times, const float* bias, const float* more, int64_t more_stride) {
  if (!times && !bias && !more) return;
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
    if (m.format == Format::b8) {
      code = reinterpret_cast<const uint8_t*>(at)[k / 4 * 4 * LANES + 4 * lane + k % 4] - middle_of(m.format);
    } else if (m.format == Format::i8) {
      code = reinterpret_cast<const int8_t*>(at)[k / 2 * 2 * LANES + 2 * lane + k % 2];
    } else {
      code = (reinterpret_cast<const uint8_t*>(at)[nibble_byte(k, lane)] >> nibble_shift(lane) & 15) - middle_of(m.format);
    }
    y[k] = static_cast<float>(code) * m.scale[g] + (m.low ? m.low[g] : 0);
  }
}

}  // namespace ISA
}  // namespace quire
