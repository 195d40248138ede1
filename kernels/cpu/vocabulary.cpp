#include "vocabulary.h"

#include <cstring>
#include <vector>

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

void constrain(Isa isa, const Logits& l, const uint32_t* masks, int64_t stride, const int64_t* which, float* kept) {
  (void)isa;
  const auto one = PICK(isa, constrain_row);
  pool.each(l.rows, [&](int64_t row) {
    kept[row] = which[row] < 0 ? 1 : one(l.x + row * l.stride, l.vocab, masks + which[row] * stride);
  });
}

}  // namespace quire
