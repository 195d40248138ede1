#include "attention.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "pool.h"
#include "room.h"
#include "rows.h"

#define BODY "attention_body.h"
#include "each_isa.h"

namespace quire {

namespace {

constexpr int TILE = 6;            // queries that share the reads of keys
constexpr int64_t QUERIES = 48;    // queries of a unit, about: they share keys and values in the second cache
constexpr int64_t WORTH_A_THREAD = 8;  // rows to write

// Some rows of one sequence, by their places among those asked for, and one key/value head: the queries are rows x heads of
// the group.
struct Block {
  int64_t sequence, first, rows, kv_head;
};

struct Step {
  const AttentionLayer& layer;
  const AttentionStep& step;
  const Turned& turned;
  Heads q;
  Asked asked;
  float* out;
  decltype(plain::query)* query;
  plain::Segment (*segment_for)(const AttentionLayer&, int);
  decltype(plain::merge)* merge;
  decltype(plain::divide)* divide;

  int64_t group() const { return layer.heads / layer.kv_heads; }
  int64_t row_of(int64_t place) const { return asked.all() ? place : asked.rows[place]; }
  int64_t place_of(int64_t row) const {
    return asked.all() ? row : std::lower_bound(asked.rows, asked.rows + asked.count, row) - asked.rows;
  }

  // The places that a block sees, in segments.
  void span(const Block& b, int64_t* begin, int64_t* end) const {
    *begin = step.first[row_of(b.first)], *end = 0;
    for (int64_t place = b.first; place < b.first + b.rows; place++) {
      *begin = std::min(*begin, step.first[row_of(place)]);
      *end = std::max(*end, step.last[row_of(place)] + 1);
    }
    *begin = *begin / SEGMENT * SEGMENT;
  }
  int64_t segments(const Block& b) const {
    int64_t begin, end;
    span(b, &begin, &end);
    return (end - begin + SEGMENT - 1) / SEGMENT;
  }

  // Of each query its peak, total and sum of values, [queries][2 + v_dim], over one segment.
  int64_t width() const { return 2 + layer.v_dim; }
  void segment(const Block& b, int64_t index, float* found) const {
    int64_t begin, end;
    span(b, &begin, &end);
    const int64_t from = begin + index * SEGMENT, queries = b.rows * group();
    const int64_t apart = (layer.head_dim + 15) / 16 * 16;  // whole vectors, with 0 behind the last dimension
    float* q_room = room<2>(TILE * (apart + width()));
    std::fill_n(q_room, TILE * apart, 0.0f);
    float *peaks = q_room + TILE * apart, *totals = peaks + TILE, *sums = totals + TILE;
    for (int64_t first = 0; first < queries; first += TILE) {
      const int count = static_cast<int>(std::min<int64_t>(TILE, queries - first));
      int64_t row[TILE], low = end, high = 0;
      for (int i = 0; i < count; i++) {
        row[i] = row_of(b.first + (first + i) / group());
        low = std::min(low, step.first[row[i]]);
        high = std::max(high, step.last[row[i]] + 1);
        query(layer, turned, q, row[i], b.kv_head * group() + (first + i) % group(), q_room + i * apart);
      }
      // Tiles of keys that none of these queries sees are left out.
      const int64_t start = std::max(from, low / KEYS * KEYS), stop = std::min(from + SEGMENT, high);
      segment_for(layer, count)(layer, step, step.pages + step.tables[b.sequence], b.kv_head, row, q_room, apart, start,
                         std::max(start, stop), peaks, totals, sums);
      for (int i = 0; i < count; i++) {
        float* to = found + (first + i) * width();
        to[0] = peaks[i], to[1] = totals[i];
        std::copy_n(sums + i * layer.v_dim, layer.v_dim, to + 2);
      }
    }
  }

  void finish(const Block& b, float* total) const {
    for (int64_t i = 0; i < b.rows * group(); i++) {
      const int64_t place = b.first + i / group(), head = b.kv_head * group() + i % group();
      divide(total + i * width() + 2, total[i * width() + 1], layer.v_dim, out + (place * layer.heads + head) * layer.v_dim);
    }
  }

  void join(const Block& b, float* total, const float* more) const {
    for (int64_t i = 0; i < b.rows * group(); i++) {
      float* to = total + i * width();
      const float* from = more + i * width();
      merge(to, to + 1, to + 2, from[0], from[1], from + 2, layer.v_dim);
    }
  }

  // All of a block, one segment after the other.
  void whole(const Block& b) const {
    const int64_t size = b.rows * group() * width();
    float *total = room<3>(2 * size), *more = total + size;
    segment(b, 0, total);
    for (int64_t i = 1; i < segments(b); i++) {
      segment(b, i, more);
      join(b, total, more);
    }
    finish(b, total);
  }
};

}  // namespace

void attention(
    Isa isa, const AttentionLayer& layer, const AttentionStep& step, const Turned& turned, Heads q, Heads k, Heads v, Asked asked,
    float* out) {
  (void)isa;
  const auto write_row = PICK(isa, write_for)(layer);
  // What is kept is stored there first by vectors, of 16 numbers at most.
  const auto write = [&](int64_t row) {
    float* some = room<1>(layer.head_dim + std::max(layer.head_dim, layer.v_dim) + 16);
    write_row(layer, step, turned, k, v, row, some, reinterpret_cast<int8_t*>(some + layer.head_dim));
  };
  if (step.rows < WORTH_A_THREAD) {
    for (int64_t row = 0; row < step.rows; row++) write(row);
  } else {
    pool.each(step.rows, write);
  }

  const Step s{layer, step, turned, q, asked, out, PICK(isa, query), PICK(isa, segment_for), PICK(isa, merge), PICK(isa, divide)};
  const int64_t positions = std::max<int64_t>(1, QUERIES / s.group());
  static thread_local std::vector<Block> blocks;
  blocks.clear();
  int64_t most = 0;
  for (int64_t i = 0; i < step.sequences; i++) {
    const int64_t end = s.place_of(step.begins[i + 1]);
    for (int64_t place = s.place_of(step.begins[i]); place < end; place += positions)
      for (int64_t h = 0; h < layer.kv_heads; h++) {
        blocks.push_back({i, place, std::min(positions, end - place), h});
        most = std::max(most, s.segments(blocks.back()));
      }
  }
  const int64_t count = static_cast<int64_t>(blocks.size());
  const Block* of = blocks.data();
  if (most == 1 || count >= 4 * pool.threads()) {
    // Taken by turns, more or less: so each thread goes on with the sequence that it is at, whose keys it has asked for.
    const int64_t threads = pool.threads(), each = (count + threads - 1) / threads;
    pool.each(each * threads, [&](int64_t turn) {
      const int64_t i = turn % threads * each + turn / threads;
      if (i < count) s.whole(of[i]);
    });
    return;
  }
  // Few blocks with much to read: their segments at the same time.
  static thread_local std::vector<int64_t> begins, owner;
  begins.assign(1, 0);
  owner.clear();
  int64_t floats = 0;
  static thread_local std::vector<int64_t> places;
  places.clear();
  for (int64_t i = 0; i < count; i++) {
    for (int64_t j = 0; j < s.segments(of[i]); j++) {
      owner.push_back(i);
      places.push_back(floats);
      floats += of[i].rows * s.group() * s.width();
    }
    begins.push_back(static_cast<int64_t>(owner.size()));
  }
  float* parts = room<4>(floats);
  const int64_t *b = begins.data(), *o = owner.data(), *p = places.data();
  pool.each(static_cast<int64_t>(owner.size()), [&](int64_t i) { s.segment(of[o[i]], i - b[o[i]], parts + p[i]); });
  for (int64_t i = 0; i < count; i++) {
    float* total = parts + p[b[i]];
    for (int64_t j = b[i] + 1; j < b[i + 1]; j++) s.join(of[i], total, parts + p[j]);
    s.finish(of[i], total);
  }
}

}  // namespace quire
