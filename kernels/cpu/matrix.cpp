#include "matrix.h"

#include <algorithm>
#include <cstring>

#include "pool.h"
#include "room.h"
#include "tile.h"

#define BODY "matrix_body.h"
#include "each_isa.h"

namespace quire {

namespace {

constexpr int64_t BLOCK_TILES = 24;  // tiles whose inputs of a block stay in the second cache
constexpr int64_t BLOCK_PANELS = 8;  // that are gone over with them, block by block
constexpr int64_t FEW_TILES = 8;     // up to which a panel is taken to its end before the next: one stream from memory
constexpr int64_t FLOATS = 256, WORDS = 512, BYTES = 1024;  // inputs of a block: of a panel, 8 to 16 KB
constexpr int64_t AHEAD = 2048;      // bytes that a tile alone asks for before it reads them
constexpr int64_t UNITS = 8;         // of a thread, about, so that a slow one holds up the others little
constexpr int64_t UNIT_BYTES = 1 << 15;  // of a matrix in a unit, at least

int64_t div_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// The rows of a product by tiles, as even as can be, and where in the scratch each lies: block by block of the inputs, the
// tiles of a block side by side (a tile whole would put the same block of all tiles into the same sets of a cache).
struct Tiles {
  Tiles(const Matrix& m, int64_t rows)
      : count(div_up(rows, TILE)), rows(rows), whole(whole_numbers(m.format)), units_by_run(in_bytes(m.format)),
        step(!whole ? 1 : units_by_run ? 4 : 2), padded(padded_inputs(m)), words(padded / step),
        runs(whole ? padded / run_of(m) : 0), block(!whole ? FLOATS : units_by_run ? BYTES : WORDS),
        blocks(div_up(padded, block)), low(rows / count), higher(rows % count) {}
  int64_t begin(int64_t tile) const { return tile * low + std::min(tile, higher); }
  int height(int64_t tile) const { return static_cast<int>(low + (tile < higher)); }
  int64_t size(int64_t b) const { return std::min(block, padded - b * block); }
  int64_t units() const { return units_by_run ? runs : 1; }  // of a row

  // Offsets in 32 bits: the inputs, then the sums of runs, then the units that whole numbers count in.
  int64_t sums_at(int64_t tile) const { return words * rows + begin(tile) * runs; }
  int64_t units_at(int64_t tile) const { return (words + runs) * rows + begin(tile) * units(); }
  int64_t total() const { return (words + runs + units()) * rows; }

  int64_t count, rows;
  bool whole, units_by_run;
  int64_t step;  // inputs that share 32 bits
  int64_t padded, words, runs, block, blocks;  // words: of a row's inputs
  int64_t low, higher;  // rows of the last tile, and how many tiles have one more
};

template <class T>
void pack_panel(T* to, const T* rows, int64_t stride, int64_t inputs, int64_t lanes, int64_t step) {
  for (int64_t lane = 0; lane < lanes; lane++)
    for (int64_t k = 0; k < inputs; k++) to[k / step * step * LANES + lane * step + k % step] = rows[lane * stride + k];
}

void pack_panel_b8(uint8_t* to, const int8_t* rows, int64_t stride, int64_t inputs, int64_t lanes) {
  for (int64_t lane = 0; lane < lanes; lane++)
    for (int64_t k = 0; k < inputs; k++)
      to[k / 4 * 4 * LANES + lane * 4 + k % 4] = static_cast<uint8_t>(rows[lane * stride + k] + middle_of(Format::b8));
}

void pack_panel_i4(uint8_t* to, const uint8_t* rows, int64_t stride, int64_t inputs, int64_t lanes) {
  for (int64_t lane = 0; lane < lanes; lane++)
    for (int64_t k = 0; k < inputs; k++)
      to[nibble_byte(k, lane)] |= static_cast<uint8_t>((rows[lane * stride + k] & 15) << nibble_shift(lane));
}

}  // namespace

void pack(const Matrix& m, void* panels, const void* rows, int64_t stride, int64_t first, int64_t count) {
  const int64_t bytes = panel_bytes(m);
  pool.each(div_up(count, LANES), [&](int64_t panel) {
    char* to = static_cast<char*>(panels) + (first / LANES + panel) * bytes;
    std::memset(to, 0, static_cast<size_t>(bytes));
    const int64_t row = panel * LANES, lanes = std::min(LANES, count - row);
    switch (m.format) {
      case Format::f32:
        pack_panel(reinterpret_cast<float*>(to), static_cast<const float*>(rows) + row * stride, stride, m.inputs, lanes, 1);
        break;
      case Format::i8:
        pack_panel(
            reinterpret_cast<int8_t*>(to), static_cast<const int8_t*>(rows) + row * stride, stride, m.inputs, lanes, 2);
        break;
      case Format::b8:
        pack_panel_b8(
            reinterpret_cast<uint8_t*>(to), static_cast<const int8_t*>(rows) + row * stride, stride, m.inputs, lanes);
        break;
      case Format::i4:
        pack_panel_i4(
            reinterpret_cast<uint8_t*>(to), static_cast<const uint8_t*>(rows) + row * stride, stride, m.inputs, lanes);
        break;
      default:
        pack_panel(
            reinterpret_cast<uint16_t*>(to), static_cast<const uint16_t*>(rows) + row * stride, stride, m.inputs, lanes, 1);
    }
  });
}

namespace {

// One product: what its units share.
struct Product {
  const Matrix& m;
  const Inputs& in;
  float* y;
  int64_t y_stride;
  const float* add;
  int64_t add_stride;

  Tiles tiles;
  float* scratch;
  const Kernel* kernels[2];  // with one panel and with two: see kernels_of
  decltype(plain::finish)* finish;

  // `count` panels from `panel` on over block b, with the tiles [low, high): y of the first of them and its stride.
  void strip(int64_t panel, int count, int64_t b, int64_t low, int64_t high, float* to, int64_t to_stride) const {
    const int64_t from = b * tiles.block, size = panel_bytes(m), words = tiles.size(b) / tiles.step;
    const Kernel* const by_rows = kernels[count - 1];
    const float* const x = scratch + from / tiles.step * tiles.rows;
    int64_t run = 0;  // of a row, the first one here
    Tile t{};
    t.w = static_cast<const char*>(m.panels) + panel * size + from * size / tiles.padded;
    t.apart = size;
    // The first tile waits for memory. If others follow there is time to ask for all of what comes next.
    t.ahead = high - low > 1 ? count * size : AHEAD;
    t.count = tiles.size(b);
    t.y_stride = to_stride;
    t.first = b == 0;
    if (tiles.whole) {
      const int64_t groups = groups_of(m), at = (panel * groups + from / m.group) * LANES;
      t.group = m.group;
      t.run = run_of(m);
      t.scale = m.scale + at;
      t.low = m.low ? m.low + at : nullptr;
      t.scales_apart = groups * LANES;
      run = from / t.run;
    }
    for (int64_t tile = low; tile < high; tile++) {
      const int64_t rows = tiles.height(tile), begin = tiles.begin(tile);
      t.x = x + begin * words;
      t.y = to + (begin - tiles.begin(low)) * to_stride;
      t.sums = reinterpret_cast<const int32_t*>(scratch) + tiles.sums_at(tile) + run * rows;
      t.units = scratch + tiles.units_at(tile) + run * rows;
      by_rows[rows - 1](t);
      t.ahead = 0;
    }
  }

  void finish_at(int64_t tile, int64_t output, int64_t count, float* to, int64_t to_stride) const {
    const float* times = tiles.whole && !tiles.units_by_run ? scratch + tiles.units_at(tile) : nullptr;
    const float* more = add ? add + tiles.begin(tile) * add_stride + output : nullptr;
    finish(to, to_stride, tiles.height(tile), count, times, m.bias ? m.bias + output : nullptr, more, add_stride);
  }

  float* at(int64_t tile, int64_t panel) const { return y + tiles.begin(tile) * y_stride + panel * LANES; }

  // Panels [first, last) for the tiles [low, high).
  void unit(int64_t first, int64_t last, int64_t low, int64_t high) const {
    if (first >= last) return;
    const int64_t full = std::min(last, m.outputs / LANES);
    const int together = high - low > 1 && kernels[1] ? 2 : 1;
    const auto all = [&](int64_t panel, int64_t b) {
      const int count = static_cast<int>(std::min<int64_t>(together, full - panel));
      strip(panel, count, b, low, high, at(low, panel), y_stride);
    };
    if (high - low <= FEW_TILES) {
      for (int64_t panel = first; panel < full; panel += together) {
        for (int64_t b = 0; b < tiles.blocks; b++) all(panel, b);
        const int64_t outputs = std::min<int64_t>(together, full - panel) * LANES;
        for (int64_t tile = low; tile < high; tile++) finish_at(tile, panel * LANES, outputs, at(tile, panel), y_stride);
      }
    } else {
      for (int64_t b = 0; b < tiles.blocks; b++)
        for (int64_t panel = first; panel < full; panel += together) all(panel, b);
      for (int64_t tile = low; tile < high; tile++)
        if (first < full) finish_at(tile, first * LANES, (full - first) * LANES, at(tile, first), y_stride);
    }
    if (full == last) return;
    // The last panel has fewer outputs than lanes: it is computed aside.
    const int64_t output = full * LANES, count = m.outputs - output;
    float aside[TILE * LANES];
    for (int64_t tile = low; tile < high; tile++) {
      for (int64_t b = 0; b < tiles.blocks; b++) strip(full, 1, b, tile, tile + 1, aside, LANES);
      finish_at(tile, output, count, aside, LANES);
      for (int r = 0; r < tiles.height(tile); r++)
        std::memcpy(at(tile, full) + r * y_stride, aside + r * LANES, static_cast<size_t>(count) * sizeof(float));
    }
  }
};

}  // namespace

void product(Isa isa, const Matrix& m, const Inputs& in, float* y, int64_t y_stride, const float* add, int64_t add_stride) {
  (void)isa;
  if (!in.count) return;
  const auto lay_floats = PICK(isa, lay_floats);
  const auto lay_words = PICK(isa, lay_words);
  const auto lay_bytes = PICK(isa, lay_bytes);
  const Tiles tiles(m, in.count);
  float* const scratch = room<0>(tiles.total());
  pool.each(tiles.count, [&](int64_t tile) {
    const Layout to{tiles.begin(tile), tiles.height(tile), tiles.padded, tiles.block, in.count, run_of(m), middle_of(m.format), scratch,
                    reinterpret_cast<int32_t*>(scratch) + tiles.sums_at(tile), scratch + tiles.units_at(tile)};
    (tiles.units_by_run ? lay_bytes : tiles.whole ? lay_words : lay_floats)(in, to, room<1>(2 * tiles.padded));
  });

  const auto kernels_of = PICK(isa, kernels_of);
  const Product p{m, in, y, y_stride, add, add_stride, tiles, scratch, {kernels_of(m.format, 1), kernels_of(m.format, 2)},
                  PICK(isa, finish)};
  const int64_t panels = panels_of(m);
  const int64_t parts = div_up(tiles.count, BLOCK_TILES);  // of the rows
  int64_t chunk = std::max(panels * parts / (UNITS * pool.threads()), div_up(UNIT_BYTES, panel_bytes(m)));
  if (tiles.count > FEW_TILES) chunk = std::min(chunk, BLOCK_PANELS);
  chunk += chunk % 2;  // two may be taken together
  const int64_t chunks = div_up(panels, chunk), threads = pool.threads(), each = div_up(chunks, threads);
  pool.each(parts * each * threads, [&](int64_t unit) {
    // Units are taken by turns, more or less: so each thread reads on where it was, which it has asked for already.
    const int64_t part = unit / (each * threads), turn = unit % (each * threads);
    const int64_t low = part * BLOCK_TILES, first = (turn % threads * each + turn / threads) * chunk;
    p.unit(first, std::min(first + chunk, panels), low, std::min(low + BLOCK_TILES, tiles.count));
  });
}

void weights_of(Isa isa, const Matrix& m, const int64_t* index, int64_t count, float* y, int64_t y_stride) {
  (void)isa;
  const auto row = PICK(isa, weights_row);
  for (int64_t i = 0; i < count; i++) row(m, index[i], y + i * y_stride);
}

}  // namespace quire
