#include "rows.h"

#include "pool.h"

#define BODY "rows_body.h"
#include "each_isa.h"

namespace quire {

void prepare(Isa isa, const Inputs& in, float* y, int64_t y_stride) {
  (void)isa;
  const auto prepared = PICK(isa, prepared);
  const auto one = [&](int64_t row) { prepared(in, row, y + row * y_stride); };
  constexpr int64_t WORTH_A_THREAD = 1 << 14;  // floats
  if (in.count * in.width < WORTH_A_THREAD) {
    for (int64_t row = 0; row < in.count; row++) one(row);
  } else {
    pool.each(in.count, one);
  }
}

}  // namespace quire
