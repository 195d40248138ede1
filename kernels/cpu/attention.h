// Causal attention over paged keys and values, in float32; these are kept so, in bfloat16, or as bytes with scales.
//
// A page holds PAGE tokens of every key/value head: keys by dimension, [kv_heads][head_dim][PAGE], so that a query meets a
// page as a row meets a panel; values by token, [kv_heads][PAGE][v_dim]. Query head h reads head h / (heads / kv_heads).
//
// In bfloat16 they lie in pairs, as machines multiply them: those of two dimensions of a key, [kv_heads][head_dim / 2][PAGE][2]
// (with 0 behind an odd one), and those of two tokens' values, [kv_heads][PAGE / 2][v_dim][2]. Where the machine has such
// products, queries and weights are rounded to bfloat16 too; sums are of float32 in any case.
//
// As bytes, each token's key of a head, and its value, counts in a unit of its own: 1 / 127 of the largest magnitude in it.
// A key's unit multiplies its score, a value's its weight. One that is not all numbers counts in NaN, which only rows that
// see it meet. All tokens of a step are written before one is read, so it says nothing to the bits who came in which step.
//
// The bits of a row depend on its query and its keys alone. Keys are taken by tiles of KEYS, anchored at absolute places,
// with a running maximum; tiles make up segments of SEGMENT, each begun anew and merged in order, so that segments may be
// computed one after the other or at the same time. A key that is not seen weighs exactly nothing.
#pragma once

#include <cstdint>

#include "isa.h"

namespace quire {

constexpr int64_t PAGE = 16, KEYS = 128, SEGMENT = 1024;

enum class Kept : int64_t { floats, pairs, bytes };  // what keys and values are

struct AttentionLayer {  // of int64, addresses and the bits of floats: engine/attention/native_.py makes them
  int64_t heads, kv_heads, head_dim, v_dim;
  int64_t scale, softcap;  // bits of floats; softcap 0: none
  Kept kept;
  void* keys;              // [kv_heads][head_dim][PAGE] of page 0
  void* values;            // [kv_heads][PAGE][v_dim]
  float* key_units;        // [kv_heads][PAGE], of bytes
  float* value_units;      // the same
  int64_t apart;           // bytes from a page to the next, the same in all of them
};
static_assert(sizeof(AttentionLayer) == 96, "the tables are of int64");

struct AttentionStep {  // sequences with their rows end to end
  int64_t sequences, rows;
  const int64_t* begins;   // [sequences + 1] first row
  const int64_t* tables;   // [sequences + 1] where each one's pages begin in `pages`
  const int64_t* pages;
  const int64_t* slots;    // [rows] page * PAGE + offset where the row's own key and value go
  const int64_t* first;    // [rows] first place that the row sees
  const int64_t* last;     // [rows] last place
  const int64_t* unseen_begins;  // [rows + 1] or null: none
  const int64_t* unseen;         // places between them that a row does not see
};
static_assert(sizeof(AttentionStep) == 80, "the tables are of int64");

struct Turned {  // what becomes of queries and keys first
  const float *cos, *sin;  // [rows][angles]
  int64_t angles;          // dimension i turns with i + angles; what is behind 2 * angles stays. 0: none turns
  const float *q_norm, *k_norm;  // [head_dim] or null: RMSNorm of each head before it turns
  float q_eps, k_eps;
};

struct Heads {  // [rows][heads][dim], a row's heads side by side
  const float* x;
  int64_t stride;  // floats from row to row
};

struct Asked {  // rows whose results are wanted, ascending
  const int64_t* rows = nullptr;
  int64_t count = -1;  // -1: all

  bool all() const { return count < 0; }
};

// Writes keys and values of all rows to their pages, then those attend that are asked for: out [asked][heads][v_dim]. Uses
// the pool.
void attention(
    Isa, const AttentionLayer&, const AttentionStep&, const Turned&, Heads q, Heads k, Heads v, Asked asked, float* out);

}  // namespace quire
