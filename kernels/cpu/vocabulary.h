// Rows over a vocabulary: logits [rows][vocab], float32.
#pragma once

#include <cstdint>

#include "isa.h"

namespace quire {

struct Logits {
  float* x;
  int64_t stride, rows, vocab;
};

// All of these use the pool; a row's results are its own.

// Of each row the greatest logit, and the first token that has it. NaN if the row has one.
void greatest(Isa, const Logits&, float* values, int64_t* tokens);

// Of each row the logarithm of the sum of e^logit; -inf where all are -inf.
void log_sum_exp(Isa, const Logits&, float* values);

// Of each row the first token whose cumulated weight e^(logit - greatest) exceeds u of their sum, 0 <= u < 1; a token of
// weight 0 never does. A row must have a logit that is not -inf.
void draw(Isa, const Logits&, const double* u, int64_t* tokens);

// Of each row, -inf where the bit of its mask, masks + which[row] * stride, is not set: bit i of word w is token 32 w + i.
// kept: what share of its probability is left. Rows with which[row] < 0 have no mask and stay as they are, with 1.
void constrain(Isa, const Logits&, const uint32_t* masks, int64_t stride, const int64_t* which, float* kept);

}  // namespace quire
