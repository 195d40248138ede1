#include "quantize.h"

#include <algorithm>

#include "pool.h"
#include "rows.h"

#define BODY "quantize_body.h"
#include "each_isa.h"

namespace quire {

void quantize(
    Isa isa, const Matrix& m, void* panels, float* scales, Format of, const void* rows, int64_t stride, int64_t first,
    int64_t count) {
  (void)isa;
  const auto row = PICK(isa, quantize_row_of)(of);
  const int64_t bytes = panel_bytes(m), groups = groups_of(m), size = of == Format::f32 ? 4 : 2;
  pool.each((count + LANES - 1) / LANES, [&](int64_t panel) {
    char* to = static_cast<char*>(panels) + (first / LANES + panel) * bytes;
    float* scale = scales + (first / LANES + panel) * groups * LANES;
    std::memset(to, 0, static_cast<size_t>(bytes));
    for (int64_t lane = 0; lane < std::min(LANES, count - panel * LANES); lane++)
      row(m, static_cast<const char*>(rows) + (panel * LANES + lane) * stride * size, lane, to, scale + lane);
  });
}

}  // namespace quire
