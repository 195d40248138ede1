#include "lora.h"

#include <algorithm>
#include <vector>

#include "pool.h"
#include "room.h"

#define BODY "lora_body.h"
#include "each_isa.h"

namespace quire {

namespace {

constexpr int64_t TILE_ROWS = 4;            // the largest tile
constexpr int64_t MOST_ROWS = 32;           // of a block
constexpr int64_t UNITS = 4;                // of a thread, about, so that a slow one holds up the others little
constexpr int64_t WORTH_A_SLICE = 1 << 16;  // multiplications

struct Block {  // rows of one slot
  const Entry* entry;
  const int64_t* order;
  int64_t rows, work;
};

int64_t rank_of(const Entry& e) {
  int64_t rank = 0;
  for (int64_t i = 0; i < e.pieces; i++) rank += e.piece(i)->rank;
  return rank;
}

}  // namespace

int64_t lora_work(const Entries& entries, const Groups& groups, const Product& product) {
  int64_t work = 0;
  for (int64_t g = 0; g < groups.count; g++) {
    const Entry* e = entries.of(groups.slots[g]);
    for (int64_t i = 0; e && i < e->pieces; i++)
      work += (groups.bounds[g + 1] - groups.bounds[g]) * e->piece(i)->rank * (product.inputs + e->piece(i)->rows);
  }
  return work;
}

void lora(Isa isa, const Entries& entries, const Groups& groups, const Product& product) {
  (void)isa;
  const auto shrink = PICK(isa, shrink_rows);
  const auto expand = PICK(isa, expand_rows);
  static thread_local std::vector<Block> blocks;
  blocks.clear();
  const int64_t share = groups.bounds[groups.count] / (UNITS * pool.threads());
  const int64_t most = std::clamp((share + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS, TILE_ROWS, MOST_ROWS);
  int64_t rank = 0;
  for (int64_t g = 0; g < groups.count; g++) {
    const Entry* e = entries.of(groups.slots[g]);
    if (!e) continue;
    const int64_t own = rank_of(*e);
    rank = std::max(rank, own);
    const int64_t end = groups.bounds[g + 1];
    for (int64_t row = groups.bounds[g]; row < end; row += most) {
      const int64_t rows = std::min(most, end - row);
      blocks.push_back({e, groups.order + row, rows, rows * own});
    }
  }
  // The long ones first: at the end the threads wait for each other little.
  std::sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) { return a.work > b.work; });
  const Block* const first = blocks.data();  // the name means another vector in other threads
  const int64_t count = static_cast<int64_t>(blocks.size()), size = most * rank;
  const int64_t work = lora_work(entries, groups, product);
  const int64_t units = std::min(UNITS * pool.threads(), work / WORTH_A_SLICE);

  if (pool.threads() == 1 || count >= 2 * pool.threads() || units < 2) {
    const auto whole = [&](int64_t unit) {
      const Block& b = first[unit];
      float* const h = room<9>(size);
      shrink(*b.entry, b.order, b.rows, product, Slice{0, 1}, h, rank);
      expand(*b.entry, b.order, b.rows, product, Slice{0, 1}, h, rank);
    };
    if (units < 2) {
      for (int64_t unit = 0; unit < count; unit++) whole(unit);
    } else {
      pool.each(count, whole);
    }
    return;
  }
  // Few rows: the threads share the weights, first those of the inputs, then those of the outputs.
  float* const h = room<9>(count * size);
  const int64_t slices = (units + count - 1) / count;
  const auto each = [&](const auto& rows) {
    pool.each(count * slices, [&](int64_t unit) {
      const Block& b = first[unit / slices];
      rows(*b.entry, b.order, b.rows, product, Slice{unit % slices, slices}, h + unit / slices * size, rank);
    });
  };
  each(shrink);
  each(expand);
}

}  // namespace quire
