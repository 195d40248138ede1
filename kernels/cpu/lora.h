// What adapters change in a product, float32. The tables are those that kernels/lora.py describes.
#pragma once

#include <cstdint>

#include "isa.h"

namespace quire {

struct Piece {  // y[start : start + rows] += sum over k of dot(x, a[k]) * b[k]
  const float* a;  // [rank, inputs]
  const float* b;  // [rank, rows]
  int64_t rank, start, rows;
};

struct Entry {  // of one slot, followed by its pieces
  int64_t pieces;
  const float* gain;    // [outputs] or null
  const float* offset;  // [outputs] or null
  const Piece* piece(int64_t i) const { return reinterpret_cast<const Piece*>(this + 1) + i; }
};

static_assert(sizeof(void*) == 8 && sizeof(Entry) == 24 && sizeof(Piece) == 40, "the tables are of int64");

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

// The multiplications of a call, and the floats of scratch that it needs.
int64_t lora_work(const Entries&, const Groups&, const Product&);
int64_t lora_scratch(const Entries&, const Groups&);

void lora(Isa, const Entries&, const Groups&, const Product&, float* scratch);

}  // namespace quire
