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
  V most[4] = {all(-INFINITY), all(-INFINITY), all(-INFINITY), all(-INFINITY)}, odd = zero();
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; j++) {
      const V v = load(x + i + j * W);
      most[j] = greater(most[j], v);
      odd = add(odd, mul(v, zero()));  // NaN, of infinities too
    }
  for (; i < n; i += W) {
    const V v = load_or(x + i, n - i, -INFINITY);
    most[0] = greater(most[0], v);
    odd = add(odd, mul(v, zero()));
  }
  const float top = largest(greater(greater(most[0], most[1]), greater(most[2], most[3])));
  if (sum(odd) == 0) return top;
  for (i = 0; i < n; i++)
    if (x[i] != x[i]) return NAN;
  float found = -INFINITY;  // a comparison with NaN lost some
  for (i = 0; i < n; i++) found = x[i] > found ? x[i] : found;
  return found;
}

TARGET static void greatest_row(const float* x, int64_t n, float* value, int64_t* token) {
  *value = greatest_of(x, n);
  int64_t i = 0;
  while (i < n && x[i] != *value && *value == *value) i++;
  *token = i < n ? i : 0;
}

// The weights of a block into `weights` [BLOCK]; their sum.
TARGET static double block_of(const float* x, int64_t n, float top, float* weights) {
  double sums[W] = {};
  for (int64_t i = 0; i < n; i += W) {
    float* to = weights + i;
    store(to, exp(sub(load_or(x + i, n - i, -INFINITY), all(top))));
    for (int j = 0; j < W; j++) sums[j] += to[j];
  }
  double total = 0;
  for (int j = 0; j < W; j++) total += sums[j];
  return total;
}

TARGET static double total_of(const float* x, int64_t n, float top) {
  alignas(64) float weights[BLOCK];
  double total = 0;
  for (int64_t i = 0; i < n; i += BLOCK) total += block_of(x + i, n - i < BLOCK ? n - i : BLOCK, top, weights);
  return total;
}

TARGET static float log_sum_exp_row(const float* x, int64_t n) {
  const float top = greatest_of(x, n);
  if (!(top > -INFINITY) || top == INFINITY) return top;
  return top + static_cast<float>(std::log(total_of(x, n, top)));
}

TARGET static int64_t draw_row(const float* x, int64_t n, double u) {
  const float top = greatest_of(x, n);
  const double target = u * total_of(x, n, top);
  alignas(64) float weights[BLOCK];
  double before = 0;
  int64_t last = 0;  // the last token that has a weight: where rounding lets none exceed the target
  for (int64_t at = 0; at < n; at += BLOCK) {
    const int64_t count = n - at < BLOCK ? n - at : BLOCK;
    const double block = block_of(x + at, count, top, weights);
    if (block == 0) continue;
    const bool here = before + block > target;
    double sum = before;
    for (int64_t i = 0; i < count; i++) {
      if (weights[i] == 0) continue;
      last = at + i;
      sum += weights[i];
      if (here && sum > target) return last;
    }
    if (here) return last;
    before += block;
  }
  return last;
}

}  // namespace ISA
}  // namespace quire
