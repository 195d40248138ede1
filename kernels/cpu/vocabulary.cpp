#include "vocabulary.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "pool.h"
#include "rows.h"

#define BODY "vocabulary_body.h"
#include "each_isa.h"

namespace quire {

void greatest(Isa isa, const Logits& l, float* values, int64_t* tokens) {
  (void)isa;
  const auto one = PICK(isa, greatest_row);
  pool.each(l.rows, [&](int64_t row) { one(l.x + row * l.stride, l.vocab, values + row, tokens + row); });
}

void log_sum_exp(Isa isa, const Logits& l, float* values) {
  (void)isa;
  const auto one = PICK(isa, log_sum_exp_row);
  pool.each(l.rows, [&](int64_t row) { values[row] = one(l.x + row * l.stride, l.vocab); });
}

void draw(Isa isa, const Logits& l, const double* u, int64_t* tokens) {
  (void)isa;
  const auto one = PICK(isa, draw_row);
  pool.each(l.rows, [&](int64_t row) { tokens[row] = one(l.x + row * l.stride, l.vocab, u[row]); });
}

void apply_bitmask(const Logits& l, const uint32_t* masks, int64_t stride) {
  constexpr float NEVER = -std::numeric_limits<float>::infinity();
  pool.each(l.rows, [&](int64_t row) {
    float* x = l.x + row * l.stride;
    for (int64_t at = 0; at < l.vocab; at += 32) {
      const uint32_t word = masks[row * stride + at / 32];
      const int64_t n = std::min<int64_t>(32, l.vocab - at);
      if (word == 0xffffffff) continue;  // most words of a mask are all or nothing
      for (int64_t i = 0; i < n; i++) x[at + i] = word >> i & 1 ? x[at + i] : NEVER;
    }
  });
}

}  // namespace quire
