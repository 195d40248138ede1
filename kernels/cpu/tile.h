// What one call of a product's kernel computes: a tile of rows with one panel or two, over a block of inputs.
#pragma once

#include <cstdint>

namespace quire {

constexpr int TILE = 6;  // rows that share the reads of a panel, at most

// R rows. y: of the first row and the first panel's first output.
struct Tile {
  const void* x;  // [block / step][R]
  const char* w;  // of the first panel, at this block
  int64_t apart;  // bytes from there to the same place of the second
  int64_t ahead;  // bytes from what is read of it to what is asked for meanwhile
  int64_t count;  // inputs of this block
  float* y;       // R rows of LANES
  int64_t y_stride;
  bool first;     // of the blocks: y is not read
  // Of whole numbers:
  int64_t group;
  const float *scale, *low;  // of the first panel, at this block: [groups][LANES]
  int64_t scales_apart;      // floats from there to those of the second
  int64_t run;
  const int32_t* sums;       // [runs][R] of the inputs, at this block
  const float* units;        // [runs][R] that inputs in bytes count in, at this block
};

// Where the inputs of a tile go: rows [first, first + rows) of `all`. What is [k][R] in 32 bits (k: an input, or two or four
// whole numbers) lies by blocks of inputs, in each the tiles one after the other.
struct Layout {
  int64_t first;
  int rows;
  int64_t padded, block, all, run;
  int32_t middle;  // of the codes that the sums are for, where they are bytes
  void* x;
  int32_t* sums;  // [runs][R]
  float* units;   // [R], or [runs][R] where each run has its own
  // For element k of a block that has `count`: begin is that of the block, all in 32 bits.
  int64_t at(int64_t begin, int64_t count) const { return begin * all + first * count; }
};

using Kernel = void (*)(const Tile&);

}  // namespace quire
