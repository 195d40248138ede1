// Attention, for one instruction set (see each_isa.h).

#include "rows_body.h"

namespace quire {
namespace ISA {

// One head's query or key: normed, turned.
TARGET static void turned(const float* x, int64_t dim, const Turned& t, int64_t row, const float* norm, float eps, float* y) {
  if (norm) {
    normed_row(x, norm, eps, dim, y);
  } else {
    std::memcpy(y, x, static_cast<size_t>(dim) * sizeof(float));
  }
  const float *cos = t.cos + row * t.angles, *sin = t.sin + row * t.angles;
  for (int64_t i = 0; i < t.angles; i += W) {
    const int64_t n = t.angles - i;
    const V a = load_some(y + i, n), b = load_some(y + t.angles + i, n);
    const V c = load_some(cos + i, n), s = load_some(sin + i, n);
    store_some(y + i, sub(mul(a, c), mul(b, s)), n);
    store_some(y + t.angles + i, add(mul(b, c), mul(a, s)), n);
  }
}

template <class T>
INLINE T* of_page(const AttentionLayer& layer, void* first, int64_t page) {
  return reinterpret_cast<T*>(static_cast<char*>(first) + page * layer.apart);
}

// x [dim] to every `stride`-th element from `to` on: as it is, or as bytes; what these count in is returned.
INLINE float put(const float* x, int64_t dim, float* to, int64_t stride, int8_t*) {
  for (int64_t d = 0; d < dim; d++) to[d * stride] = x[d];
  return 1;
}

INLINE float put(const float* x, int64_t dim, int8_t* to, int64_t stride, int8_t* codes) {
  int32_t total;
  const float unit = as_bytes(x, dim, codes, &total);
  for (int64_t d = 0; d < dim; d++) to[d * stride] = codes[d];
  return unit;
}

// room [head_dim], codes [head_dim or v_dim, and W more].
template <class T>
TARGET static void write_row(
    const AttentionLayer& layer, const AttentionStep& step, const Turned& t, Heads k, Heads v, int64_t row, float* room,
    int8_t* codes) {
  const int64_t page = step.slots[row] / PAGE, place = step.slots[row] % PAGE;
  T *keys = of_page<T>(layer, layer.keys, page), *values = of_page<T>(layer, layer.values, page);
  for (int64_t h = 0; h < layer.kv_heads; h++) {
    turned(k.x + row * k.stride + h * layer.head_dim, layer.head_dim, t, row, t.k_norm, t.k_eps, room);
    const float key = put(room, layer.head_dim, keys + h * layer.head_dim * PAGE + place, PAGE, codes);
    T* to = values + (h * PAGE + place) * layer.v_dim;
    const float value = put(v.x + row * v.stride + h * layer.v_dim, layer.v_dim, to, 1, codes);
    if (!layer.key_units) continue;
    of_page<float>(layer, layer.key_units, page)[h * PAGE + place] = key;
    of_page<float>(layer, layer.value_units, page)[h * PAGE + place] = value;
  }
}

using Write = void (*)(const AttentionLayer&, const AttentionStep&, const Turned&, Heads, Heads, int64_t, float*, int8_t*);

TARGET static Write write_for(const AttentionLayer& layer) { return layer.key_units ? write_row<int8_t> : write_row<float>; }

// Of the pages that a tile's keys lie in, for one head; behind them those whose keys will be met next.
template <class T>
struct Tile {
  const T *keys[2 * KEYS / PAGE], *values[KEYS / PAGE];
  const float* key_units[KEYS / PAGE];  // where T is a byte
  float value_units[KEYS];
  int64_t pages;
};

// R queries with P pages of keys, from `page` on -> scores [R][KEYS]. Pages lie anywhere, so no machine guesses the next
// one: its keys, and the values that will be weighed (v_dim each), are asked for meanwhile, a line of 64 bytes at a time.
template <int R, int P, class T>
TARGET static void meet(const float* q, int64_t dim, const Tile<T>& tile, int64_t v_dim, int64_t page, float* scores) {
  constexpr int NV = static_cast<int>(PAGE) / W;
  constexpr int64_t LINE = 64 / sizeof(T), EACH = LINE / PAGE;  // elements of a line, dimensions of keys in it
  V acc[R][P * NV];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) acc[r][c] = zero();
  const T *k[P], *next[P], *v[P];
  for (int p = 0; p < P; p++) {
    k[p] = tile.keys[page + p];
    next[p] = tile.keys[page + P + p];
    v[p] = tile.values[page + p];
  }
  const int64_t lines = (v_dim * PAGE + LINE - 1) / LINE;
  for (int64_t d = 0; d < dim; d++) {
    V b[P * NV];
    for (int p = 0; p < P; p++) {
      for (int c = 0; c < NV; c++) b[p * NV + c] = load(k[p] + d * PAGE + c * W);
      if (d % EACH == 0) __builtin_prefetch(next[p] + d * PAGE);
      if (d < lines) __builtin_prefetch(v[p] + d * LINE, 0, 2);
    }
    for (int r = 0; r < R; r++) {
      const V a = all(q[r * dim + d]);
      for (int c = 0; c < P * NV; c++) acc[r][c] = mul_add(a, b[c], acc[r][c]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) {
      if constexpr (sizeof(T) == 1) acc[r][c] = mul(acc[r][c], load(tile.key_units[page + c / NV] + c % NV * W));
      store(scores + r * KEYS + page * PAGE + c * W, acc[r][c]);
    }
}

template <int R, class T>
TARGET static void meet_all(const float* q, int64_t dim, const Tile<T>& tile, int64_t v_dim, float* scores) {
  constexpr int P = R == 1 ? 4 : R == 2 || REGISTERS >= 32 ? 2 : 1;
  int64_t page = 0;
  for (; page + P <= tile.pages; page += P) meet<R, P>(q, dim, tile, v_dim, page, scores);
  for (; page < tile.pages; page++) meet<R, 1>(q, dim, tile, v_dim, page, scores);
}

// C vectors of the values of `count` keys, weighed: sums[r] = sums[r] * factors[r] + sum of weights[r][key] * value. With
// part > 0 it is the first `part` floats of one vector. next: pages of keys to ask for meanwhile.
template <int R, int C, class T>
TARGET static void weigh(
    const float* weights, const float* factors, const T* const* values, const T* const* next, int64_t count, int64_t dim,
    int64_t at, int part, float* sums) {
  V acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      const float* from = sums + r * dim + at + c * W;
      acc[r][c] = mul(part ? load_part(from, part) : load(from), all(factors[r]));
    }
  for (int64_t key = 0; key < count; key++) {
    const T* v = values[key / PAGE] + key % PAGE * dim + at;
    const T* ahead = next[key / PAGE] + key % PAGE * dim + at;
    for (int c = 0; c < C; c++)
      if (c * W * sizeof(T) % 64 == 0) __builtin_prefetch(ahead + c * W, 0, 2);
    V b[C];
    for (int c = 0; c < C; c++) b[c] = part ? load_part(v, part) : load(v + c * W);
    for (int r = 0; r < R; r++) {
      const V a = all(weights[r * KEYS + key]);
      for (int c = 0; c < C; c++) acc[r][c] = mul_add(a, b[c], acc[r][c]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      float* to = sums + r * dim + at + c * W;
      if (part) store_part(to, acc[r][c], part); else store(to, acc[r][c]);
    }
}

template <int R, class T>
TARGET static void weigh_all(
    const float* weights, const float* factors, const T* const* values, const T* const* next, int64_t count, int64_t dim,
    float* sums) {
  constexpr int C = R == 1 ? 8 : R <= 3 ? 4 : 2;
  int64_t at = 0;
  for (; at + C * W <= dim; at += C * W) weigh<R, C>(weights, factors, values, next, count, dim, at, 0, sums);
  for (; at + W <= dim; at += W) weigh<R, 1>(weights, factors, values, next, count, dim, at, 0, sums);
  if (at < dim) weigh<R, 1>(weights, factors, values, next, count, dim, at, static_cast<int>(dim - at), sums);
}

// Scores of one row [KEYS], of which [low, high) are seen -> weights e^(score - peak) in their place, and 0 elsewhere up to
// `count`. Returns what the sums so far must be multiplied with; peak and total are of all tiles so far.
TARGET static float soften(float* scores, int64_t low, int64_t high, int64_t count, float softcap, float* peak, float* total) {
  if (low >= high) {
    std::memset(scores, 0, static_cast<size_t>(count) * sizeof(float));
    return 1;
  }
  for (int64_t i = 0; i < low; i++) scores[i] = -INFINITY;
  for (int64_t i = high; i < count; i++) scores[i] = -INFINITY;
  V most = all(-INFINITY);
  for (int64_t i = 0; i < count; i += W) {
    V v = load(scores + i);
    if (softcap > 0) {
      // What is hidden stays so: the cap of -inf would be a score.
      for (int j = 0; j < W; j++)
        if (i + j < low || i + j >= high) scores[i + j] = -INFINITY;
      float some[W];
      store(some, mul(all(softcap), tanh(div(v, all(softcap)))));
      for (int j = 0; j < W; j++)
        if (scores[i + j] != -INFINITY) scores[i + j] = some[j];
      v = load(scores + i);
    }
    most = greater(most, v);
  }
  const float top = largest(most) > *peak ? largest(most) : *peak;
  if (top == -INFINITY) {  // what could be seen here is ruled out key by key, and nothing was seen before; or is no number
    for (int64_t i = low; i < high; i++)
      if (scores[i] != scores[i]) *total = NAN;
    std::memset(scores, 0, static_cast<size_t>(count) * sizeof(float));
    return 1;
  }
  // -inf where nothing was seen so far: e^-inf, which is 0, takes away what is 0 already.
  float factor[W];
  store(factor, exp(all(*peak - top)));
  V sums = zero();
  for (int64_t i = 0; i < count; i += W) {
    const V w = exp(sub(load(scores + i), all(top)));
    store(scores + i, w);
    sums = add(sums, w);
  }
  *peak = top;
  *total = *total * factor[0] + sum(sums);
  return factor[0];
}

// Weights [count] times the units of their values. What is not seen weighs nothing, in whatever unit: NaN may be one.
TARGET static void in_units(float* weights, const float* units, int64_t count) {
  V odd = zero();
  for (int64_t i = 0; i < count; i += W) odd = add(odd, mul(load(units + i), zero()));
  if (sum(odd) == 0) {
    for (int64_t i = 0; i < count; i += W) store(weights + i, mul(load(weights + i), load(units + i)));
    return;
  }
  for (int64_t i = 0; i < count; i++)
    if (weights[i] != 0) weights[i] *= units[i];
}

// R queries of one head [R][dim] (scaled), rows `row[r]` of the step, over the places [begin, end) of their sequence, which
// begin at a tile -> for each its peak, its total and the weighed sum of values [R][v_dim].
template <int R, class T>
TARGET static void segment_of(
    const AttentionLayer& layer, const AttentionStep& step, const int64_t* pages, int64_t kv_head, const int64_t* row,
    const float* q, int64_t begin, int64_t end, float* peaks, float* totals, float* sums) {
  for (int r = 0; r < R; r++) peaks[r] = -INFINITY, totals[r] = 0;
  std::memset(sums, 0, static_cast<size_t>(R * layer.v_dim) * sizeof(float));
  float softcap;
  const int32_t bits = static_cast<int32_t>(layer.softcap);
  std::memcpy(&softcap, &bits, sizeof softcap);
  alignas(64) float scores[R * KEYS];
  Tile<T> tile;
  const int64_t first = begin / PAGE, last = (end + PAGE - 1) / PAGE, next_head = std::min(kv_head + 1, layer.kv_heads - 1);
  for (int64_t at = begin; at < end; at += KEYS) {
    const int64_t keys = end - at < KEYS ? end - at : KEYS, count = (keys + PAGE - 1) / PAGE;
    tile.pages = count;
    for (int64_t i = 0; i < count + KEYS / PAGE; i++) {
      // Behind the last page it goes on with the next head's keys, where the first of this one's lie.
      const int64_t place = at / PAGE + i, over = place - last, page = pages[over < 0 ? place : first + over % (last - first)];
      tile.keys[i] = of_page<T>(layer, layer.keys, page) + (over < 0 ? kv_head : next_head) * layer.head_dim * PAGE;
    }
    for (int64_t i = 0; i < count; i++) {
      const int64_t page = pages[at / PAGE + i];
      tile.values[i] = of_page<T>(layer, layer.values, page) + kv_head * layer.v_dim * PAGE;
      if constexpr (sizeof(T) == 1) {
        tile.key_units[i] = of_page<float>(layer, layer.key_units, page) + kv_head * PAGE;
        const float* units = of_page<float>(layer, layer.value_units, page) + kv_head * PAGE;
        std::memcpy(tile.value_units + i * PAGE, units, PAGE * sizeof(float));
      }
    }
    meet_all<R>(q, layer.head_dim, tile, layer.v_dim, scores);
    float factors[R];
    for (int r = 0; r < R; r++) {
      const int64_t low = step.first[row[r]] - at, high = step.last[row[r]] + 1 - at;
      float* mine = scores + r * KEYS;
      if (step.unseen_begins)
        for (int64_t i = step.unseen_begins[row[r]]; i < step.unseen_begins[row[r] + 1]; i++) {
          const int64_t place = step.unseen[i] - at;
          if (place >= 0 && place < count * PAGE) mine[place] = -INFINITY;
        }
      factors[r] = soften(mine, low < 0 ? 0 : low, high < keys ? high : keys, count * PAGE, softcap, &peaks[r], &totals[r]);
      if constexpr (sizeof(T) == 1) in_units(mine, tile.value_units, count * PAGE);
    }
    weigh_all<R>(scores, factors, tile.values, tile.keys + count, keys, layer.v_dim, sums);
  }
}

using Segment = void (*)(const AttentionLayer&, const AttentionStep&, const int64_t*, int64_t, const int64_t*, const float*,
                         int64_t, int64_t, float*, float*, float*);

template <class T>
TARGET static Segment segment_of_rows(int rows) {
  static const Segment by_rows[] = {segment_of<1, T>, segment_of<2, T>, segment_of<3, T>,
                                    segment_of<4, T>, segment_of<5, T>, segment_of<6, T>};
  return by_rows[rows - 1];
}

TARGET static Segment segment_for(const AttentionLayer& layer, int rows) {
  return layer.key_units ? segment_of_rows<int8_t>(rows) : segment_of_rows<float>(rows);
}

// One row's next segment onto those before it: sums [v_dim].
TARGET static void merge(float* peak, float* total, float* sums, float more_peak, float more_total, const float* more, int64_t dim) {
  if (more_total == 0) return;
  if (*total == 0) {
    *peak = more_peak, *total = more_total;
    std::memcpy(sums, more, static_cast<size_t>(dim) * sizeof(float));
    return;
  }
  const float top = *peak > more_peak ? *peak : more_peak;
  float a[W], b[W];
  store(a, exp(all(*peak - top)));
  store(b, exp(all(more_peak - top)));
  for (int64_t i = 0; i < dim; i += W) {
    const int64_t n = dim - i;
    store_some(sums + i, mul_add(load_some(more + i, n), all(b[0]), mul(load_some(sums + i, n), all(a[0]))), n);
  }
  *peak = top, *total = *total * a[0] + more_total * b[0];
}

TARGET static void divide(const float* sums, float total, int64_t dim, float* out) {
  for (int64_t i = 0; i < dim; i += W) {
    const int64_t n = dim - i;
    store_some(out + i, div(load_some(sums + i, n), all(total)), n);
  }
}

TARGET static void query(
    const AttentionLayer& layer, const Turned& t, Heads q, int64_t row, int64_t head, float* y) {
  turned(q.x + row * q.stride + head * layer.head_dim, layer.head_dim, t, row, t.q_norm, t.q_eps, y);
  float scale;
  const int32_t bits = static_cast<int32_t>(layer.scale);
  std::memcpy(&scale, &bits, sizeof scale);
  for (int64_t i = 0; i < layer.head_dim; i += W) {
    const int64_t n = layer.head_dim - i;
    store_some(y + i, mul(load_some(y + i, n), all(scale)), n);
  }
}

}  // namespace ISA
}  // namespace quire
