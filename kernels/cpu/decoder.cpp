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

// The product of a matrix, with what adapters change in it. add [rows][outputs] or null: is added last.
void multiply(Isa isa, const Matrix& m, const Inputs& in, const Entries* entries, const Groups* groups, float* y, const float* add) {
  if (!entries || !entries->capacity) return product(isa, m, in, y, m.outputs, add, m.outputs);
  Inputs seen{in.x, in.stride, in.count, in.width, nullptr, 0, Gate::none};
  if (in.norm || in.gate != Gate::none) {
    float* const prepared = room<10>(in.count * in.width);
    prepare(isa, in, prepared, in.width);
    seen.x = prepared;
    seen.stride = in.width;
  }
  product(isa, m, seen, y, m.outputs, nullptr, 0);
  lora(isa, *entries, *groups, {seen.x, seen.stride, in.width, y, m.outputs, m.outputs});
  for (int64_t i = 0; add && i < in.count * m.outputs; i++) y[i] = add[i] + y[i];
}

}  // namespace

void decoder(
    Isa isa, const DecoderLayer* layers, int64_t count, const AttentionLayer* const* attentions, const AttentionStep* const* steps,
    const float* cos, const float* sin, int64_t angles, float* x, int64_t width, Asked asked,
    const DecoderAdapters* adapters, const Groups* groups) {
  for (int64_t i = 0; i < count; i++) {
    const DecoderLayer& l = layers[i];
    const AttentionLayer& a = *attentions[i];
    const DecoderAdapters* const own = adapters ? adapters + i : nullptr;
    const Asked left = i + 1 == count ? asked : Asked{};
    const int64_t all = steps[i]->rows, rows = left.all() ? all : left.count;
    const int64_t q = a.heads * a.head_dim, k = a.kv_heads * a.head_dim, mixed_width = a.heads * a.v_dim;
    float* qkv = room<5>(all * l.qkv->outputs);
    float* mixed = room<6>(rows * mixed_width);
    float* more = room<7>(rows * width);
    float* inner = room<8>(rows * l.gate_up->outputs);
    multiply(isa, *l.qkv, normed(x, all, width, l.norm), own ? &own->qkv : nullptr, groups, qkv, nullptr);
    const Turned turned{cos, sin, angles, l.q_norm.weight, l.k_norm.weight, real(l.q_norm.eps), real(l.k_norm.eps)};
    const Heads heads{qkv, l.qkv->outputs};
    attention(isa, a, *steps[i], turned, heads, {qkv + q, heads.stride}, {qkv + q + k, heads.stride}, left, mixed);
    if (!left.all()) {
      if (!rows) return;
      for (int64_t j = 0; j < rows; j++) std::memmove(x + j * width, x + left.rows[j] * width, size_t(width) * sizeof(float));
    }
    const Inputs attended{mixed, mixed_width, rows, mixed_width, nullptr, 0, Gate::none};
    multiply(isa, *l.out, attended, own ? &own->out : nullptr, groups, more, x);
    multiply(isa, *l.gate_up, normed(more, rows, width, l.mlp_norm), own ? &own->gate_up : nullptr, groups, inner, nullptr);
    const Inputs gated{inner, l.gate_up->outputs, rows, l.down->inputs, nullptr, 0, l.gate};
    multiply(isa, *l.down, gated, own ? &own->down : nullptr, groups, x, more);
  }
}

}  // namespace quire
