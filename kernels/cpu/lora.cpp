#include "lora.h"

#define BODY "lora_body.h"
#include "each_isa.h"

namespace quire {

int64_t lora_work(const Entries& entries, const Groups& groups, const Product& product) {
  int64_t work = 0;
  for (int64_t g = 0; g < groups.count; g++) {
    const Entry* e = entries.of(groups.slots[g]);
    for (int64_t i = 0; e && i < e->pieces; i++)
      work += (groups.bounds[g + 1] - groups.bounds[g]) * e->piece(i)->rank * (product.inputs + e->piece(i)->rows);
  }
  return work;
}

int64_t lora_scratch(const Entries& entries, const Groups& groups) {
  int64_t rank = 0;
  for (int64_t g = 0; g < groups.count; g++) {
    const Entry* e = entries.of(groups.slots[g]);
    for (int64_t i = 0; e && i < e->pieces; i++) rank = rank > e->piece(i)->rank ? rank : e->piece(i)->rank;
  }
  return 4 * rank;
}

// One thread. A pool of threads would give each a range of (group, rows): rows_of is what it would call.
void lora(Isa isa, const Entries& entries, const Groups& groups, const Product& product, float* scratch) {
  (void)isa;
  const auto run = PICK(isa, rows_of);
  for (int64_t g = 0; g < groups.count; g++) {
    const Entry* e = entries.of(groups.slots[g]);
    const int64_t first = groups.bounds[g];
    if (e) run(*e, groups.order + first, groups.bounds[g + 1] - first, product, scratch);
  }
}

}  // namespace quire
