// Runs the C++ kernels over random shapes, in memory of exactly their size, under the sanitizers: test_sanitized.py builds it.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "attention.h"
#include "lora.h"
#include "matrix.h"
#include "pool.h"
#include "quantize.h"
#include "rows.h"
#include "vocabulary.h"

using namespace quire;

static std::mt19937 chance(1);
static int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(chance); }

// Not a vector: its spare room would hide a read behind the end.
template <class T>
static std::unique_ptr<T[]> some(int64_t count) {
  std::unique_ptr<T[]> found(new T[static_cast<size_t>(count)]);
  for (int64_t i = 0; i < count; i++) {
    if constexpr (std::is_floating_point_v<T>) found[i] = static_cast<T>(between(-1000, 1000)) / 500;
    else found[i] = static_cast<T>(between(0, 15));
  }
  return found;
}

static void check(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

static void a_product(Isa isa) {
  Matrix m{};
  m.format = static_cast<Format>(between(0, 5));
  m.outputs = between(1, 70), m.inputs = between(1, 600), m.group = 16 << between(0, 5);
  const int64_t elements = m.outputs * m.inputs;
  const auto panels = some<char>(panels_of(m) * panel_bytes(m));
  std::unique_ptr<float[]> scale, low, bias;
  if (whole_numbers(m.format)) {
    scale = some<float>(panels_of(m) * groups_of(m) * LANES);
    if (between(0, 1)) low = some<float>(panels_of(m) * groups_of(m) * LANES);
  }
  if (between(0, 1)) bias = some<float>(m.outputs);
  m.panels = panels.get(), m.scale = scale.get(), m.low = low.get(), m.bias = bias.get();
  if (whole_numbers(m.format) && !low && between(0, 1)) {
    const bool halves = between(0, 1);
    if (halves) quantize(isa, m, panels.get(), scale.get(), Format::bf16, some<uint16_t>(elements).get(), m.inputs, 0, m.outputs);
    else quantize(isa, m, panels.get(), scale.get(), Format::f32, some<float>(elements).get(), m.inputs, 0, m.outputs);
  } else if (m.format == Format::f32) pack(m, panels.get(), some<float>(elements).get(), m.inputs, 0, m.outputs);
  else if (whole_numbers(m.format)) pack(m, panels.get(), some<uint8_t>(elements).get(), m.inputs, 0, m.outputs);
  else pack(m, panels.get(), some<uint16_t>(elements).get(), m.inputs, 0, m.outputs);

  const int64_t rows = between(0, 40);
  const Gate gate = static_cast<Gate>(between(0, 4));
  const bool normed = gate == Gate::none && between(0, 1);
  const int64_t width = gate == Gate::none ? m.inputs : 2 * m.inputs;
  const auto x = some<float>(rows * width), norm = some<float>(m.inputs), more = some<float>(rows * m.outputs);
  const Inputs in{x.get(), width, rows, m.inputs, normed ? norm.get() : nullptr, 1e-5f, gate};
  const auto y = some<float>(rows * m.outputs), again = some<float>(m.outputs);
  product(isa, m, in, y.get(), m.outputs, more.get(), m.outputs);
  for (int64_t row = 0; row < rows; row++) {
    const Inputs one{x.get() + row * width, width, 1, m.inputs, in.norm, in.eps, gate};
    product(isa, m, one, again.get(), m.outputs, more.get() + row * m.outputs, m.outputs);
    check(!std::memcmp(again.get(), y.get() + row * m.outputs, static_cast<size_t>(m.outputs) * sizeof(float)), "a row's bits");
  }
  const auto prepared = some<float>(rows * m.inputs);
  prepare(isa, in, prepared.get(), m.inputs);
  const int64_t index[] = {0, m.outputs - 1};
  const auto weights = some<float>(2 * m.inputs);
  weights_of(isa, m, index, 2, weights.get(), m.inputs);
}

static void an_attention(Isa isa) {
  AttentionLayer layer{};
  layer.kv_heads = between(1, 3), layer.heads = layer.kv_heads * between(1, 7);
  layer.head_dim = between(1, 70), layer.v_dim = between(1, 70);
  const float scale = 0.1f, cap = between(0, 1) ? 3.0f : 0.0f;
  int32_t bits;
  std::memcpy(&bits, &scale, sizeof bits);
  layer.scale = bits;
  std::memcpy(&bits, &cap, sizeof bits);
  layer.softcap = bits;
  std::vector<int64_t> begins{0}, tables{0}, pages, slots, first, last, unseen_begins{0}, unseen;
  const int64_t sequences = between(1, 3);
  int64_t next = 0;
  for (int64_t s = 0; s < sequences; s++) {
    const int64_t length = between(1, between(0, 3) ? 200 : 2500), rows = between(1, length < 30 ? length : 30);
    const int64_t window = between(0, 1) ? between(1, length) : length;
    for (int64_t i = 0; i < (length + PAGE - 1) / PAGE; i++) pages.push_back(next++);
    for (int64_t place = length - rows; place < length; place++) {
      slots.push_back(pages[static_cast<size_t>(tables.back() + place / PAGE)] * PAGE + place % PAGE);
      last.push_back(place);
      first.push_back(place - window + 1 > 0 ? place - window + 1 : 0);
      if (place > first.back() && between(0, 3) == 0) unseen.push_back(between(first.back(), place - 1));
      unseen_begins.push_back(static_cast<int64_t>(unseen.size()));
    }
    begins.push_back(static_cast<int64_t>(slots.size()));
    tables.push_back(static_cast<int64_t>(pages.size()));
  }
  const int64_t rows = begins.back();
  layer.kept = static_cast<Kept>(between(0, 2));
  const bool bytes = layer.kept == Kept::bytes, pairs = layer.kept == Kept::pairs;
  const int64_t item = bytes ? 1 : pairs ? 2 : 4, lanes = layer.kv_heads * PAGE;
  const int64_t of_keys = lanes * (layer.head_dim + (pairs ? layer.head_dim % 2 : 0)) * item, of_values = lanes * layer.v_dim * item;
  const int64_t of_units = bytes ? lanes * static_cast<int64_t>(sizeof(float)) : 0;
  layer.apart = of_keys + of_values + 2 * of_units;
  const auto room = some<float>(next * layer.apart / static_cast<int64_t>(sizeof(float)));
  char* const page = reinterpret_cast<char*>(room.get());
  for (int64_t i = 0; pairs && i < next * layer.apart; i += 2) page[i + 1] &= ~0x40;  // below 2, and no NaN
  layer.keys = page, layer.values = page + of_keys;
  if (bytes) {
    layer.key_units = reinterpret_cast<float*>(page + of_keys + of_values);
    layer.value_units = reinterpret_cast<float*>(page + of_keys + of_values + of_units);
  }
  const bool holes = between(0, 1);
  const AttentionStep step{sequences,    rows,         begins.data(), tables.data(), pages.data(), slots.data(),
                           first.data(), last.data(), holes ? unseen_begins.data() : nullptr, holes ? unseen.data() : nullptr};
  const int64_t angles = between(0, layer.head_dim / 2);
  const auto cos = some<float>(rows * angles), sin = some<float>(rows * angles);
  const auto q_norm = some<float>(layer.head_dim), k_norm = some<float>(layer.head_dim);
  const bool normed = between(0, 1);
  const Turned turned{cos.get(), sin.get(), angles, normed ? q_norm.get() : nullptr, normed ? k_norm.get() : nullptr, 1e-5f, 1e-5f};
  const auto q = some<float>(rows * layer.heads * layer.head_dim), k = some<float>(rows * layer.kv_heads * layer.head_dim);
  const auto v = some<float>(rows * layer.kv_heads * layer.v_dim), out = some<float>(rows * layer.heads * layer.v_dim);
  const Heads queries{q.get(), layer.heads * layer.head_dim}, keys{k.get(), layer.kv_heads * layer.head_dim};
  const Heads values{v.get(), layer.kv_heads * layer.v_dim};
  attention(isa, layer, step, turned, queries, keys, values, {}, out.get());
  std::vector<int64_t> asked;
  for (int64_t row = 0; row < rows; row++)
    if (between(0, 2) == 0) asked.push_back(row);
  const int64_t wide = layer.heads * layer.v_dim, count = static_cast<int64_t>(asked.size());
  const auto of_asked = some<float>(count * wide);
  attention(isa, layer, step, turned, queries, keys, values, {asked.data(), count}, of_asked.get());
  for (int64_t i = 0; i < count; i++) {
    const float* one = out.get() + asked[static_cast<size_t>(i)] * wide;
    check(!std::memcmp(of_asked.get() + i * wide, one, static_cast<size_t>(wide) * sizeof(float)), "an asked row's bits");
  }
  for (int64_t i = 0; i < rows * layer.heads * layer.v_dim; i++) check(out[i] == out[i], "an output is no number");
}

static void a_lora(Isa isa) {
  const int64_t rows = between(1, 70), inputs = between(1, 200), outputs = between(1, 200), slots = between(1, 4);
  std::vector<std::unique_ptr<float[]>> vectors;
  std::vector<std::unique_ptr<uint16_t[]>> halves;
  std::vector<std::vector<int64_t>> entries(static_cast<size_t>(slots));
  std::vector<int64_t> of_slot, table{slots};
  const auto floats = [&](int64_t n) {
    vectors.push_back(some<float>(n));
    return reinterpret_cast<int64_t>(vectors.back().get());
  };
  for (int64_t s = 0; s < slots; s++) {
    auto& e = entries[static_cast<size_t>(s)];
    const int64_t pieces = between(0, 3);
    e = {pieces, between(0, 1) ? floats(outputs) : 0, between(0, 1) ? floats(outputs) : 0};
    for (int64_t i = 0; i < pieces; i++) {
      const int64_t rank = between(1, 70), start = between(0, outputs - 1), wide = between(1, outputs - start);
      const int64_t form = between(0, 2);
      int64_t factors[2];
      for (int64_t f = 0; f < 2; f++) {
        const int64_t n = rank * (f ? wide : inputs);
        if (form) halves.push_back(some<uint16_t>(n));
        factors[f] = form ? reinterpret_cast<int64_t>(halves.back().get()) : floats(n);
      }
      e.insert(e.end(), {factors[0], factors[1], rank, start, wide, between(0, 1) ? floats(rank) : 0, form});
    }
    of_slot.push_back(between(0, 4) ? reinterpret_cast<int64_t>(e.data()) : 0);
    table.push_back(s);
  }
  std::vector<int64_t> bounds{0}, order;
  for (int64_t row = 0; row < rows; row++) order.push_back(row);
  for (int64_t s = 1; s < slots; s++) bounds.push_back(between(bounds.back(), rows));
  bounds.push_back(rows);
  table.insert(table.end(), bounds.begin(), bounds.end());
  table.insert(table.end(), order.begin(), order.end());
  const Entries all{reinterpret_cast<const Entry* const*>(of_slot.data()), slots};
  const auto x = some<float>(rows * inputs), y = some<float>(rows * outputs), again = some<float>(outputs);
  const auto before = std::make_unique<float[]>(static_cast<size_t>(rows * outputs));
  std::memcpy(before.get(), y.get(), static_cast<size_t>(rows * outputs) * sizeof(float));
  lora(isa, all, Groups(table.data()), {x.get(), inputs, inputs, y.get(), outputs, outputs});
  for (int64_t s = 0; s < slots; s++)
    for (int64_t row = bounds[static_cast<size_t>(s)]; row < bounds[static_cast<size_t>(s) + 1]; row++) {
      const int64_t one[] = {1, s, 0, 1, 0};
      std::memcpy(again.get(), before.get() + row * outputs, static_cast<size_t>(outputs) * sizeof(float));
      lora(isa, all, Groups(one), {x.get() + row * inputs, inputs, inputs, again.get(), outputs, outputs});
      check(!std::memcmp(again.get(), y.get() + row * outputs, static_cast<size_t>(outputs) * sizeof(float)), "an adapted row's bits");
    }
}

static void a_vocabulary(Isa isa) {
  const int64_t rows = between(1, 5), vocab = between(1, 3000), words = (vocab + 31) / 32;
  const auto x = some<float>(rows * vocab), values = some<float>(rows);
  const auto masks = some<uint32_t>(rows * words);
  const auto tokens = some<int64_t>(rows);
  const auto u = std::make_unique<double[]>(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; i++) u[i] = 0.999, masks[i * words] |= 1;
  const Logits l{x.get(), vocab, rows, vocab};
  const auto which = std::make_unique<int64_t[]>(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; i++) which[i] = between(-1, static_cast<int>(rows) - 1);
  constrain(isa, l, masks.get(), words, which.get(), values.get());
  greatest(isa, l, values.get(), tokens.get());
  log_sum_exp(isa, l, values.get());
  draw(isa, l, u.get(), tokens.get());
  for (int64_t i = 0; i < rows; i++) check(x[i * vocab + tokens[i]] > -INFINITY, "a token that is out was drawn");
}

int main() {
  for (int threads : {1, 3}) {
    pool.resize(threads);
    for (Isa isa : all_isas) {
      if (!has(isa)) continue;
      for (int i = 0; i < 60; i++) a_product(isa);
      for (int i = 0; i < 60; i++) an_attention(isa);
      for (int i = 0; i < 60; i++) a_lora(isa);
      for (int i = 0; i < 60; i++) a_vocabulary(isa);
    }
  }
  pool.resize(1);
  std::puts("sound");
}
