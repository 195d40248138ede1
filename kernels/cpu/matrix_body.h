// Products with packed matrices, for one instruction set (see each_isa.h).
//
// Rows are taken by tiles of up to TILE, laid out so that a tile reads its inputs front to back: [step][rows]. A tile's
// product with a panel (or two, where there are few rows) stays in registers over a block of inputs, then is added to y.

#include "rows_body.h"

namespace quire {
namespace ISA {

constexpr int NV = static_cast<int>(LANES) / W;  // vectors of a panel
constexpr int TWO = REGISTERS >= 32 ? TILE : TILE / 2;  // rows up to which the sums of two panels stay in registers
constexpr int within(int rows) { return rows < TWO ? rows : TWO; }
TARGET static int rows_of_two() { return TWO; }

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

// Two inputs of int8 are LANES pairs of bytes, widened to 16 bits and multiplied with a row's pair of 16 bits. The sums of a
// group are whole numbers, which its scale turns into floats.
template <int R, int P>
TARGET static void wholes(const Tile& t) {
  const int32_t* x = static_cast<const int32_t*>(t.x);
  const char* w[P];
  for (int p = 0; p < P; p++) w[p] = t.w + p * t.panel;
  const int64_t groups = t.count / t.group;
  float room[R * P * LANES];
  for (int64_t g = 0; g < groups; g++) {
    const int32_t* sums = t.sums + g * R;
    I acc[R][P * NV];
    for (int r = 0; r < R; r++)
      for (int c = 0; c < P * NV; c++) acc[r][c] = izero();
    for (int64_t k = 0; k < t.group; k += 2) {
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

// The codes of i4 for four inputs, as bytes: vector c of the panel.
INLINE I codes_at(const char* w, int c) {
#if defined(ISA_AVX512)
  return low_then_high_nibbles(w);
#else
  const I some = iload(w + c % (NV / 2) * 4 * W);
  return c < NV / 2 ? low_nibbles(some) : high_nibbles(some);
#endif
}

// Codes of 0 to 15 meet bytes of -127 to 127, over a run of QUADS times four inputs, 8 times at most: see quads_add.
// found: [R][P * NV].
template <int R, int P, int QUADS>
INLINE void run_of_codes(const int32_t* x, const char* const (&w)[P], I (&found)[R][P * NV]) {
  I acc[R][P * NV];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) acc[r][c] = izero();
#pragma GCC unroll 2
  for (int q = 0; q < QUADS; q++) {
    I b[P * NV];
    for (int p = 0; p < P; p++) {
      const char* from = w[p] + q * 2 * LANES;
      if (R <= AHEAD_ROWS && q % 2 == 0) __builtin_prefetch(from + AHEAD);
      for (int c = 0; c < NV; c++) b[p * NV + c] = codes_at(from, c);
    }
    for (int r = 0; r < R; r++) {
      const I a = iall(x[q * R + r]);
      for (int c = 0; c < P * NV; c++) acc[r][c] = quads_add(b[c], a, acc[r][c]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) found[r][c] = quads_sum(acc[r][c]);
}

template <int R, int P, int QUADS>
TARGET static void codes_by(const Tile& t) {
  const int32_t *x = static_cast<const int32_t*>(t.x), *middles = t.sums;
  const float *units = t.units, *scale = t.scale, *low = t.low;
  const char* w[P];
  for (int p = 0; p < P; p++) w[p] = t.w + p * t.panel;
  V acc[R][P * NV];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) acc[r][c] = zero();
  const int64_t group = t.group / t.run, runs = t.count / t.run;
  for (int64_t n = 0, left = group; n < runs; n++) {
    I found[R][P * NV];
    run_of_codes<R, P, QUADS>(x, w, found);
    for (int r = 0; r < R; r++) {
      const I middle = iall(middles[r]);
      const V unit = all(units[r]);
      for (int p = 0; p < P; p++)
        for (int c = 0; c < NV; c++) {
          V& sum = acc[r][p * NV + c];
          const V by = mul(unit, load(scale + p * t.scales + c * W));
          sum = mul_add(to_float(iadd(found[r][p * NV + c], middle)), by, sum);
        }
    }
    if (low)
      for (int r = 0; r < R; r++) {
        const V all_of_it = all(units[r] * static_cast<float>(middles[r]) / -8);
        for (int p = 0; p < P; p++)
          for (int c = 0; c < NV; c++) {
            V& sum = acc[r][p * NV + c];
            sum = mul_add(load(low + p * t.scales + c * W), all_of_it, sum);
          }
      }
    x += QUADS * R;
    for (int p = 0; p < P; p++) w[p] += QUADS * 2 * LANES;
    middles += R;
    units += R;
    if (--left) continue;
    left = group;
    scale += LANES;
    if (low) low += LANES;
  }
  add_to<R, P>(t, acc);
}
template <int R, int P>
TARGET static void codes(const Tile& t) {
  t.run == RUN ? codes_by<R, P, RUN / 4>(t) : codes_by<R, P, 4>(t);  // the smallest group has 16
}

// Codes of 0 to 255 meet bytes of -127 to 127, over runs of QUADS times four inputs. The sums of a group's runs are floats,
// each in the row's unit, until the group's scale makes them those of the product, which wait in registers if there are as many.
template <int R, int P, int QUADS>
TARGET static void bytes_by(const Tile& t) {
  constexpr bool KEPT = (3 * R + 1) * P * NV + 2 <= REGISTERS;
  const int32_t *x = static_cast<const int32_t*>(t.x), *middles = t.sums;
  const float* units = t.units;
  const char* w[P];
  for (int p = 0; p < P; p++) w[p] = t.w + p * t.panel;
  const int64_t groups = t.count / t.group, runs = t.group / t.run;
  V kept[KEPT ? R * P * NV : 1];
  float room[KEPT ? W : R * P * LANES];
  for (V& sum : kept) sum = all(-0.0f);  // whose sum with anything is that
  for (int i = 0; i < (KEPT ? 0 : R * P * NV); i++) store(room + i * W, all(-0.0f));
  for (int64_t g = 0; g < groups; g++) {
    V sums[R][P * NV];
    float all_of_it[R] = {};  // the inputs of the group
    for (int r = 0; r < R; r++)
      for (int c = 0; c < P * NV; c++) sums[r][c] = zero();
    for (int64_t n = 0; n < runs; n++) {
      I acc[R][P * NV];
      for (int r = 0; r < R; r++)
        for (int c = 0; c < P * NV; c++) acc[r][c] = iall(middles[r]);
#pragma GCC unroll 2
      for (int q = 0; q < QUADS; q++) {
        I b[P * NV];
        for (int p = 0; p < P; p++) {
          if (R <= AHEAD_ROWS) __builtin_prefetch(w[p] + AHEAD);
          for (int c = 0; c < NV; c++) b[p * NV + c] = iload(w[p] + c * 4 * W);
          w[p] += 4 * LANES;
        }
        for (int r = 0; r < R; r++) {
          const I a = iall(x[r]);
          for (int c = 0; c < P * NV; c++) acc[r][c] = bytes_add(b[c], a, acc[r][c]);
        }
        x += R;
      }
      for (int r = 0; r < R; r++) {
        const V unit = all(units[r]);
        for (int c = 0; c < P * NV; c++) sums[r][c] = mul_add(to_float(acc[r][c]), unit, sums[r][c]);
      }
      if (t.low)
        for (int r = 0; r < R; r++) all_of_it[r] += units[r] * static_cast<float>(middles[r]);
      middles += R;
      units += R;
    }
    for (int p = 0; p < P; p++)
      for (int c = 0; c < NV; c++) {
        const V scale = load(t.scale + p * t.scales + g * LANES + c * W);
        for (int r = 0; r < R; r++) {
          V sum = mul(sums[r][p * NV + c], scale);
          if (t.low) sum = mul_add(load(t.low + p * t.scales + g * LANES + c * W), all(all_of_it[r] / -128), sum);
          const int at = (r * P + p) * NV + c;
          if constexpr (KEPT) kept[at] = add(kept[at], sum); else store(room + at * W, add(load(room + at * W), sum));
        }
      }
  }
  V acc[R][P * NV];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) {
      const int at = r * P * NV + c;
      if constexpr (KEPT) acc[r][c] = kept[at]; else acc[r][c] = load(room + at * W);
    }
  add_to<R, P>(t, acc);
}
template <int R, int P>
TARGET static void bytes(const Tile& t) {
  t.run == RUN ? bytes_by<R, P, RUN / 4>(t) : bytes_by<R, P, 4>(t);
}

// By rows (from 1 on): one panel, and two where the sums of one would leave the multipliers waiting for each other.
template <class F>
TARGET static Kernel floats_of(int rows, bool two) {
  static const Kernel one[] = {floats<F, 1, 1>, floats<F, 2, 1>, floats<F, 3, 1>,
                               floats<F, 4, 1>, floats<F, 5, 1>, floats<F, 6, 1>};
  static const Kernel both[] = {floats<F, within(1), 2>, floats<F, within(2), 2>, floats<F, within(3), 2>,
                                floats<F, within(4), 2>, floats<F, within(5), 2>, floats<F, within(6), 2>};
  return two ? both[rows - 1] : one[rows - 1];
}

TARGET static Kernel wholes_of(int rows, bool two) {
  static const Kernel one[] = {wholes<1, 1>, wholes<2, 1>, wholes<3, 1>, wholes<4, 1>, wholes<5, 1>, wholes<6, 1>};
  static const Kernel both[] = {wholes<within(1), 2>, wholes<within(2), 2>, wholes<within(3), 2>,
                                wholes<within(4), 2>, wholes<within(5), 2>, wholes<within(6), 2>};
  return two ? both[rows - 1] : one[rows - 1];
}

TARGET static Kernel codes_of(int rows, bool two) {
  static const Kernel one[] = {codes<1, 1>, codes<2, 1>, codes<3, 1>, codes<4, 1>, codes<5, 1>, codes<6, 1>};
  static const Kernel both[] = {codes<within(1), 2>, codes<within(2), 2>, codes<within(3), 2>,
                                codes<within(4), 2>, codes<within(5), 2>, codes<within(6), 2>};
  return two ? both[rows - 1] : one[rows - 1];
}

TARGET static Kernel bytes_of(int rows, bool two) {
  static const Kernel one[] = {bytes<1, 1>, bytes<2, 1>, bytes<3, 1>, bytes<4, 1>, bytes<5, 1>, bytes<6, 1>};
  static const Kernel both[] = {bytes<within(1), 2>, bytes<within(2), 2>, bytes<within(3), 2>,
                                bytes<within(4), 2>, bytes<within(5), 2>, bytes<within(6), 2>};
  return two ? both[rows - 1] : one[rows - 1];
}

TARGET static Kernel kernel_of(Format format, int rows, bool two) {
  switch (format) {
    case Format::f32: return floats_of<AsF32>(rows, two);
    case Format::bf16: return floats_of<AsBF16>(rows, two);
    case Format::f16: return floats_of<AsF16>(rows, two);
    case Format::i8: return wholes_of(rows, two);
    case Format::b8: return bytes_of(rows, two);
    default: return codes_of(rows, two);
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

INLINE int32_t total(const int32_t* codes, int64_t count) {
  int32_t found = 0;
  for (int64_t k = 0; k < count; k++) found += codes[k];
  return found;
}

// Pairs of 16 bits, which a row counts in one unit. A run, so what is padded, is a multiple of W.
TARGET static void lay_words(const Inputs& in, const Layout& to, float* room) {
  int32_t* codes = reinterpret_cast<int32_t*>(room + to.padded);
  for (int r = 0; r < to.rows; r++) {
    to.units[r] = counted(prepared(in, to.first + r, room), in.width, 32767, codes);
    for (int64_t i = (in.width + W - 1) / W * W; i < to.padded; i++) codes[i] = 0;
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
  int32_t codes[RUN];
  int8_t narrow[RUN];
  for (int r = 0; r < to.rows; r++) {
    const float* from = prepared(in, to.first + r, room);
    for (int64_t begin = 0; begin < to.padded; begin += to.block) {
      const int64_t count = to.padded - begin < to.block ? to.padded - begin : to.block;
      int32_t* x = static_cast<int32_t*>(to.x) + to.at(begin / 4, count / 4) + r;
      for (int64_t k = begin; k < begin + count; k += to.run) {
        const int64_t there = in.width - k < to.run ? in.width - k : to.run;
        if (there < to.run) std::memset(codes, 0, sizeof codes);
        const int64_t n = k / to.run;
        to.units[n * to.rows + r] = there > 0 ? counted(from + k, there, 127, codes) : 0;
        to.sums[n * to.rows + r] = -to.middle * total(codes, to.run);
        for (int64_t i = 0; i < to.run; i++) narrow[i] = static_cast<int8_t>(codes[i]);
        for (int64_t i = 0; i < to.run; i += 4, x += to.rows) std::memcpy(x, narrow + i, 4);
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
