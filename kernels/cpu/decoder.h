// The layers of a decoder one after the other, in one call: between two kernels of a step there is no Python then.
#pragma once

#include <cstdint>

#include "attention.h"
#include "isa.h"
#include "lora.h"
#include "matrix.h"

namespace quire {

struct Normed {  // RMSNorm
  const float* weight;  // or null
  int64_t eps;          // bits of a float
};

// x += out(attention(qkv(norm(x)))); x += down(gate(gate_up(mlp_norm(x)))). Of int64, addresses and the bits of floats:
// engine/models/decoder.py makes them.
struct DecoderLayer {
  Normed norm, mlp_norm, q_norm, k_norm;
  const Matrix *qkv, *out, *gate_up, *down;
  Gate gate;
};
static_assert(sizeof(DecoderLayer) == 104, "the tables are of int64");

struct DecoderAdapters {  // of a layer: what adapters change in its products
  Entries qkv, out, gate_up, down;
};
static_assert(sizeof(DecoderAdapters) == 64, "the tables are of int64");

// Layers [0, count) over x [rows][width], in place: of the rows that are asked for what comes out stands in the first
// places, the others are left out as soon as the last layer has their keys. attentions, steps: of each layer. cos, sin
// [rows][angles]. adapters: of each layer, with the rows' groups; null where no row has one, then all rows are asked for.
// Uses the pool; the same to the bit as the kernels one by one.
void decoder(
    Isa, const DecoderLayer* layers, int64_t count, const AttentionLayer* const* attentions, const AttentionStep* const* steps,
    const float* cos, const float* sin, int64_t angles, float* x, int64_t width, Asked asked,
    const DecoderAdapters* adapters, const Groups* groups);

}  // namespace quire
