#include "decoder.h"

#include <cstring>

#include "room.h"

namespace quire {

namespace {

float real(int64_t bits) {
  const int32_t some = static_cast<int32_t>(bits);
  float x;
  std::memcpy(&x, &some, sizeof x);
  return x;
}

Inputs normed(const float* x, int64_t rows, int64_t width, const Normed& norm) {
  return {x, width, rows, width, norm.weight, real(norm.eps), Gate::none};
}

}  // namespace

void decoder(
    Isa isa, const DecoderLayer* layers, int64_t count, const AttentionLayer* const* attentions, const AttentionStep* const* steps,
    const float* cos, const float* sin, int64_t angles, float* x, int64_t width) {
  for (int64_t i = 0; i < count; i++) {
    const DecoderLayer& l = layers[i];
    const AttentionLayer& a = *attentions[i];
    const int64_t rows = steps[i]->rows;
    const int64_t q = a.heads * a.head_dim, k = a.kv_heads * a.head_dim, mixed_width = a.heads * a.v_dim;
    float* qkv = room<5>(rows * l.qkv->outputs);
    float* mixed = room<6>(rows * mixed_width);
    float* more = room<7>(rows * width);
    float* inner = room<8>(rows * l.gate_up->outputs);
    product(isa, *l.qkv, normed(x, rows, width, l.norm), qkv, l.qkv->outputs, nullptr, 0);
    const Turned turned{cos, sin, angles, l.q_norm.weight, l.k_norm.weight, real(l.q_norm.eps), real(l.k_norm.eps)};
    const Heads heads{qkv, l.qkv->outputs};
    attention(isa, a, *steps[i], turned, heads, {qkv + q, heads.stride}, {qkv + q + k, heads.stride}, mixed);
    const Inputs attended{mixed, mixed_width, rows, mixed_width, nullptr, 0, Gate::none};
    product(isa, *l.out, attended, more, width, x, width);
    product(isa, *l.gate_up, normed(more, rows, width, l.mlp_norm), inner, l.gate_up->outputs, nullptr, 0);
    const Inputs gated{inner, l.gate_up->outputs, rows, l.down->inputs, nullptr, 0, l.gate};
    product(isa, *l.down, gated, x, width, more, width);
  }
}

}  // namespace quire
