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

// How many dimensions of a key lie in one T, and how many tokens' values.
template <class T>
constexpr int64_t TOGETHER = std::is_same_v<T, Pair> ? 2 : 1;
template <class T>
using Row = std::conditional_t<std::is_same_v<T, Pair>, Twin, float>;  // what meets them
INLINE int64_t groups_of(int64_t count, int64_t together) { return (count + together - 1) / together; }

// A key x [dim] to a page of its head, a value to its; what they count in is returned. some: room for dim and W more.
INLINE float put_key(const float* x, int64_t dim, float* page, int64_t place, int8_t*) {
  for (int64_t d = 0; d < dim; d++) page[d * PAGE + place] = x[d];
  return 1;
}
INLINE float put_value(const float* x, int64_t dim, float* page, int64_t place, int8_t*) {
  std::memcpy(page + place * dim, x, static_cast<size_t>(dim) * sizeof(float));
  return 1;
}

INLINE float put_key(const float* x, int64_t dim, int8_t* page, int64_t place, int8_t* some) {
  int32_t total;
  const float unit = as_bytes(x, dim, some, &total);
  for (int64_t d = 0; d < dim; d++) page[d * PAGE + place] = some[d];
  return unit;
}
INLINE float put_value(const float* x, int64_t dim, int8_t* page, int64_t place, int8_t* some) {
  int32_t total;
  const float unit = as_bytes(x, dim, some, &total);
  std::memcpy(page + place * dim, some, static_cast<size_t>(dim));
  return unit;
}

INLINE void as_halves(const float* x, int64_t dim, uint16_t* to) {
  for (int64_t d = 0; d < dim; d += W) istore_halves(to + d, halves(load_some(x + d, dim - d)));  // behind the last is 0
}
INLINE float put_key(const float* x, int64_t dim, Pair* page, int64_t place, int8_t* some) {
  as_halves(x, dim, reinterpret_cast<uint16_t*>(some));
  const Pair* pairs = reinterpret_cast<const Pair*>(some);
  for (int64_t d = 0; d < groups_of(dim, 2); d++) page[d * PAGE + place] = pairs[d];
  return 1;
}
INLINE float put_value(const float* x, int64_t dim, Pair* page, int64_t place, int8_t* some) {
  as_halves(x, dim, reinterpret_cast<uint16_t*>(some));
  uint16_t* to = reinterpret_cast<uint16_t*>(page + place / 2 * dim) + place % 2;
  for (int64_t d = 0; d < dim; d++) to[2 * d] = reinterpret_cast<const uint16_t*>(some)[d];
  return 1;
}

// Where a page's keys of one head begin, and its values.
template <class T>
INLINE T* keys_of(const AttentionLayer& layer, int64_t page, int64_t head) {
  return of_page<T>(layer, layer.keys, page) + head * groups_of(layer.head_dim, TOGETHER<T>) * PAGE;
}
template <class T>
INLINE T* values_of(const AttentionLayer& layer, int64_t page, int64_t head) {
  return of_page<T>(layer, layer.values, page) + head * (PAGE / TOGETHER<T>) * layer.v_dim;
}

// room [head_dim], some [head_dim or v_dim, and W more] of what is kept.
template <class T>
TARGET static void write_row(
    const AttentionLayer& layer, const AttentionStep& step, const Turned& t, Heads k, Heads v, int64_t row, float* room,
    int8_t* some) {
  const int64_t page = step.slots[row] / PAGE, place = step.slots[row] % PAGE;
  for (int64_t h = 0; h < layer.kv_heads; h++) {
    turned(k.x + row * k.stride + h * layer.head_dim, layer.head_dim, t, row, t.k_norm, t.k_eps, room);
    const float key = put_key(room, layer.head_dim, keys_of<T>(layer, page, h), place, some);
    const float value = put_value(v.x + row * v.stride + h * layer.v_dim, layer.v_dim, values_of<T>(layer, page, h), place, some);
    if constexpr (sizeof(T) > 1) continue;
    of_page<float>(layer, layer.key_units, page)[h * PAGE + place] = key;
    of_page<float>(layer, layer.value_units, page)[h * PAGE + place] = value;
  }
}

using Write = void (*)(const AttentionLayer&, const AttentionStep&, const Turned&, Heads, Heads, int64_t, float*, int8_t*);

TARGET static Write write_for(const AttentionLayer& layer) {
  switch (layer.kept) {
    case Kept::bytes: return write_row<int8_t>;
    case Kept::pairs: return write_row<Pair>;
    default: return write_row<float>;
  }
}

// Of the pages that a tile's keys lie in, for one head; behind them those whose keys will be met next.
template <class T>
struct Tile {
  const T *keys[2 * KEYS / PAGE], *values[KEYS / PAGE];
  const float* key_units[KEYS / PAGE];  // where T is a byte
  float value_units[KEYS];
  int64_t pages;
};

// R queries with P pages of keys, from `page` on -> scores [R][KEYS]. q [R][width] floats or what became of them in their
// place. Pages lie anywhere, so no machine guesses the next one: its keys, and the values that will be weighed (`lines` of
// 64 bytes each), are asked for meanwhile, a line at a time.
template <int R, int P, class T>
TARGET static void meet(
    const float* q, int64_t width, int64_t groups, const Tile<T>& tile, int64_t lines, int64_t page, float* scores) {
  constexpr int NV = static_cast<int>(PAGE) / W;
  constexpr int64_t LINE = 64 / sizeof(T), EACH = LINE / PAGE;  // Ts of a line, groups of keys' dimensions in it
  V acc[R][P * NV];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) acc[r][c] = zero();
  const T *k[P], *next[P], *v[P];
  for (int p = 0; p < P; p++) {
    k[p] = tile.keys[page + p];
    next[p] = tile.keys[page + P + p];
    v[p] = tile.values[page + p];
  }
  for (int64_t d = 0; d < groups; d++) {
    decltype(load(k[0])) b[P * NV];
    for (int p = 0; p < P; p++) {
      for (int c = 0; c < NV; c++) b[p * NV + c] = load(k[p] + d * PAGE + c * W);
      if (d % EACH == 0) __builtin_prefetch(next[p] + d * PAGE);
      if (d < lines) __builtin_prefetch(v[p] + d * LINE, 0, 2);
    }
    for (int r = 0; r < R; r++) {
      const auto a = spread(reinterpret_cast<const Row<T>*>(q + r * width) + d);
      for (int c = 0; c < P * NV; c++) acc[r][c] = add_products(b[c], a, acc[r][c]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < P * NV; c++) {
      if constexpr (sizeof(T) == 1) acc[r][c] = mul(acc[r][c], load(tile.key_units[page + c / NV] + c % NV * W));
      store(scores + r * KEYS + page * PAGE + c * W, acc[r][c]);
    }
}

template <int R, class T>
TARGET static void meet_all(const float* q, int64_t width, int64_t dim, const Tile<T>& tile, int64_t v_dim, float* scores) {
  constexpr int P = R == 1 ? 4 : R == 2 || REGISTERS >= 32 ? 2 : 1;
  const int64_t groups = groups_of(dim, TOGETHER<T>);
  const int64_t lines = (v_dim * PAGE / TOGETHER<T> * static_cast<int64_t>(sizeof(T)) + 63) / 64;
  int64_t page = 0;
  for (; page + P <= tile.pages; page += P) meet<R, P>(q, width, groups, tile, lines, page, scores);
  for (; page < tile.pages; page++) meet<R, 1>(q, width, groups, tile, lines, page, scores);
}

// C vectors of the values of `count` keys, weighed: sums[r] = sums[r] * factors[r] + sum of weights[r][key] * value. With
// part > 0 it is the first `part` floats of one vector. next: pages of keys to ask for meanwhile. What lies behind an odd
// count may be no number.
template <int R, int C, class T>
TARGET static void weigh(
    const float* weights, const float* factors, const T* const* values, const T* const* next, int64_t count, int64_t dim,
    int64_t at, int part, float* sums) {
  constexpr int64_t EACH = PAGE / TOGETHER<T>;
  V acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      const float* from = sums + r * dim + at + c * W;
      acc[r][c] = mul(part ? load_part(from, part) : load(from), all(factors[r]));
    }
  const int64_t groups = groups_of(count, TOGETHER<T>);
  for (int64_t g = 0; g < groups; g++) {
    const T* v = values[g / EACH] + g % EACH * dim + at;
    const T* ahead = next[g / EACH] + g % EACH * dim + at;
    for (int c = 0; c < C; c++)
      if (c * W * sizeof(T) % 64 == 0) __builtin_prefetch(ahead + c * W, 0, 2);
    decltype(load(v)) b[C];
    for (int c = 0; c < C; c++) b[c] = part ? load_part(v, part) : load(v + c * W);
    if constexpr (TOGETHER<T> == 2)
      if (g == count / 2)
        for (int c = 0; c < C; c++) b[c] = low_only(b[c]);
    for (int r = 0; r < R; r++) {
      const auto a = spread(reinterpret_cast<const Row<T>*>(weights + r * KEYS) + g);
      for (int c = 0; c < C; c++) acc[r][c] = add_products(b[c], a, acc[r][c]);
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

// R queries of one head [R][width] (scaled, 0 behind the last dimension; not the same afterwards), rows `row[r]` of the
// step, over the places [begin, end) of their sequence, which begin at a tile -> for each its peak, its total and the
// weighed sum of values [R][v_dim].
template <int R, class T>
TARGET static void segment_of(
    const AttentionLayer& layer, const AttentionStep& step, const int64_t* pages, int64_t kv_head, const int64_t* row,
    float* q, int64_t width, int64_t begin, int64_t end, float* peaks, float* totals, float* sums) {
  if constexpr (TOGETHER<T> == 2)
    for (int r = 0; r < R; r++) to_twins(q + r * width, width);
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
      tile.keys[i] = keys_of<T>(layer, page, over < 0 ? kv_head : next_head);
    }
    for (int64_t i = 0; i < count; i++) {
      const int64_t page = pages[at / PAGE + i];
      tile.values[i] = values_of<T>(layer, page, kv_head);
      if constexpr (sizeof(T) == 1) {
        tile.key_units[i] = of_page<float>(layer, layer.key_units, page) + kv_head * PAGE;
        const float* units = of_page<float>(layer, layer.value_units, page) + kv_head * PAGE;
        std::memcpy(tile.value_units + i * PAGE, units, PAGE * sizeof(float));
      }
    }
    meet_all<R>(q, width, layer.head_dim, tile, layer.v_dim, scores);
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
      if constexpr (TOGETHER<T> == 2) to_twins(mine, count * PAGE);
    }
    weigh_all<R>(scores, factors, tile.values, tile.keys + count, keys, layer.v_dim, sums);
  }
}

using Segment = void (*)(const AttentionLayer&, const AttentionStep&, const int64_t*, int64_t, const int64_t*, float*,
                         int64_t, int64_t, int64_t, float*, float*, float*);

template <class T>
TARGET static Segment segment_of_rows(int rows) {
  static const Segment by_rows[] = {segment_of<1, T>, segment_of<2, T>, segment_of<3, T>,
                                    segment_of<4, T>, segment_of<5, T>, segment_of<6, T>};
  return by_rows[rows - 1];
}

TARGET static Segment segment_for(const AttentionLayer& layer, int rows) {
  switch (layer.kept) {
    case Kept::bytes: return segment_of_rows<int8_t>(rows);
    case Kept::pairs: return segment_of_rows<Pair>(rows);
    default: return segment_of_rows<float>(rows);
  }
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
