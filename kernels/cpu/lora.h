// What adapters change in a product, computed in float32. The tables are those that kernels/lora.py describes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "isa.h"
#include "matrix.h"

namespace quire {

struct Piece {  // y[start : start + rows] += sum over k of dot(x, a[k]) * scale[k] * b[k]
  const void* a;       // [rank, inputs]
  const void* b;       // [rank, rows]
  int64_t rank, start, rows;
  const float* scale;  // [rank] or null: 1
  Format format;       // of a and b, one of floating point
};

struct Entry {  // of one slot, followed by its pieces
  int64_t pieces;
  const float* gain;    // [outputs] or null
  const float* offset;  // [outputs] or null
  const Piece* piece(int64_t i) const { return reinterpret_cast<const Piece*>(this + 1) + i; }
};

static_assert(sizeof(void*) == 8 && sizeof(Entry) == 24 && sizeof(Piece) == 56, "the tables are of int64");

struct Entries {
  const Entry* const* of_slot;
  int64_t capacity;
  const Entry* of(int64_t slot) const { return slot < capacity ? of_slot[slot] : nullptr; }
};

struct Groups {  // the rows of a step, by slot
  explicit Groups(const int64_t* table)
      : count(table[0]), slots(table + 1), bounds(slots + count), order(bounds + count + 1) {}
  int64_t count;
  const int64_t *slots, *bounds, *order;
};

struct Product {
  const float* x;
  int64_t x_stride, inputs;
  float* y;
  int64_t y_stride, outputs;
};

// What one of `count` takes of n things, in whole steps.
struct Slice {
  int64_t index, count;
  int64_t first(int64_t n, int64_t step) const { return std::min(n, (n + step - 1) / step * index / count * step); }
  int64_t end(int64_t n, int64_t step) const { return Slice{index + 1, count}.first(n, step); }
};

// The multiplications of a call.
int64_t lora_work(const Entries&, const Groups&, const Product&);

// Uses the pool.
void lora(Isa, const Entries&, const Groups&, const Product&);

}  // namespace quire
