// Rows over a vocabulary, for one instruction set (see each_isa.h).

#include "rows_body.h"

namespace quire {
namespace ISA {

constexpr int64_t BLOCK = 1024;  // weights that are summed as one

INLINE V load_or(const float* p, int64_t n, float other) {
  if (n >= W) return load(p);
  float some[W];
  for (int i = 0; i < W; i++) some[i] = i < n ? p[i] : other;
  return load(some);
}

TARGET static float greatest_of(const float* x, int64_t n) {
  V most[4] = {all(-INFINITY), all(-INFINITY), all(-INFINITY), all(-INFINITY)}, odd[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; j++) {
      const V v = load(x + i + j * W);
      most[j] = greater(most[j], v);
      odd[j] = marked(odd[j], v);
    }
  for (; i < n; i += W) {
    const V v = load_or(x + i, n - i, -INFINITY);
    most[0] = greater(most[0], v);
    odd[0] = marked(odd[0], v);
  }
  if (sum(add(add(odd[0], odd[1]), add(odd[2], odd[3]))) != 0) return NAN;
  return largest(greater(greater(most[0], most[1]), greater(most[2], most[3])));
}

TARGET static void greatest_row(const float* x, int64_t n, float* value, int64_t* token) {
  float top = -INFINITY;
  int64_t first = 0;  // where the block of the first greatest begins
  for (int64_t at = 0; at < n; at += BLOCK) {
    const float here = greatest_of(x + at, n - at < BLOCK ? n - at : BLOCK);
    if (here <= top) continue;
    top = here, first = at;
    if (here != here) break;
  }
  *value = top;
  int64_t i = first;
  while (i < n && x[i] != top && top == top) i++;
  *token = i < n && top == top ? i : 0;
}

INLINE double total_of(const Wide& sums) {
  double lanes[W], total = 0;
  store(lanes, sums);
  for (int i = 0; i < W; i++) total += lanes[i];
  return total;
}

INLINE V weight_of(const float* x, int64_t n, float top) { return exp(sub(load_or(x, n, -INFINITY), all(top))); }

// The weights of a block into `weights` [BLOCK], behind them zeros up to a multiple of W; their sum.
TARGET static double block_of(const float* x, int64_t n, float top, float* weights) {
  Wide sums = widely_zero();
  for (int64_t i = 0; i < n; i += W) {
    const V some = weight_of(x + i, n - i, top);
    store(weights + i, some);
    widely_add(sums, some);
  }
  return total_of(sums);
}

// The same sum.
TARGET static double total_of_block(const float* x, int64_t n, float top) {
  Wide sums = widely_zero();
  int64_t i = 0;
  for (; i + W <= n; i += W) widely_add(sums, exp(sub(load(x + i), all(top))));
  if (i < n) widely_add(sums, weight_of(x + i, n - i, top));
  return total_of(sums);
}

TARGET static double total_of(const float* x, int64_t n, float top) {
  double total = 0;
  for (int64_t i = 0; i < n; i += BLOCK) total += total_of_block(x + i, n - i < BLOCK ? n - i : BLOCK, top);
  return total;
}

TARGET static float log_sum_exp_row(const float* x, int64_t n) {
  const float top = greatest_of(x, n);
  if (!(top > -INFINITY) || top == INFINITY) return top;
  return top + static_cast<float>(std::log(total_of(x, n, top)));
}

TARGET static int64_t draw_row(const float* x, int64_t n, double u) {
  const float top = greatest_of(x, n);
  const int64_t blocks = (n + BLOCK - 1) / BLOCK;
  static thread_local std::vector<double> sums;
  sums.resize(static_cast<size_t>(blocks));
  alignas(64) float weights[BLOCK];
  double total = 0, before = 0;
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t at = b * BLOCK;
    total += sums[b] = total_of_block(x + at, n - at < BLOCK ? n - at : BLOCK, top);
  }
  const double target = u * total;
  int64_t b = 0, some = 0;  // some: the last block until then that has a weight
  for (; b < blocks; b++) {
    if (sums[b] == 0) continue;
    some = b;
    if (before + sums[b] > target) break;
    before += sums[b];
  }
  // Where rounding lets none exceed the target, it is the last token that has a weight.
  if (b == blocks) before = INFINITY * -1, b = some;
  const int64_t at = b * BLOCK, count = n - at < BLOCK ? n - at : BLOCK;
  block_of(x + at, count, top, weights);
  double sum = before;
  int64_t last = 0;
  for (int64_t i = 0; i < count; i++) {
    if (weights[i] == 0) continue;
    last = at + i;
    sum += weights[i];
    if (sum > target) break;
  }
  return last;
}

// What the mask leaves of the row's probability.
TARGET static float constrain_row(float* x, int64_t n, const uint32_t* words) {
  const float top = greatest_of(x, n);
  alignas(64) float weights[BLOCK];
  double total = 0, kept = 0;
  for (int64_t at = 0; at < n; at += BLOCK) {
    const int64_t count = n - at < BLOCK ? n - at : BLOCK;
    total += block_of(x + at, count, top, weights);
    Wide sums = widely_zero();
    for (int64_t i = 0; i < count; i += W) {
      const uint32_t bits = words[(at + i) / 32] >> (at + i) % 32;
      float* to = x + at + i;
      if (i + W <= count) {
        store(to, where(bits, load(to), all(-INFINITY)));
      } else {
        for (int j = 0; i + j < count; j++) to[j] = bits >> j & 1 ? to[j] : -INFINITY;
      }
      widely_add(sums, where(bits, load(weights + i), zero()));
    }
    kept += total_of(sums);
  }
  return total > 0 ? static_cast<float>(kept / total) : 0;
}

}  // namespace ISA
}  // namespace quire
