// The kernel, for one instruction set (see each_isa.h).
//
// Rows of a slot are taken by tiles of 4, 2 and 1, so that rows share the reads of a and b. A tile keeps one accumulator
// for each of its results and goes over the inputs (or the rank) in order: its shape never changes the order of a sum, and
// so a row's bits are the same in every tile, alone or among hundreds.

namespace quire {
namespace ISA {

// h[r][k] = dot(x[r], a[k]), x and a of n floats.
template <int R, int K>
TARGET static void dots(const float* const* x, const float* a, int64_t n, float* h, int64_t h_stride) {
  V acc[R][K];
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k++) acc[r][k] = zero();
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    V av[K];
    for (int k = 0; k < K; k++) av[k] = load(a + k * n + i);
    for (int r = 0; r < R; r++) {
      V xv = load(x[r] + i);
      for (int k = 0; k < K; k++) acc[r][k] = mul_add(xv, av[k], acc[r][k]);
    }
  }
  if (i < n) {
    const int left = static_cast<int>(n - i);
    for (int r = 0; r < R; r++) {
      V xv = load_part(x[r] + i, left);
      for (int k = 0; k < K; k++) acc[r][k] = mul_add(xv, load_part(a + k * n + i, left), acc[r][k]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k++) h[r * h_stride + k] = sum(acc[r][k]);
}

template <int R>
TARGET static void shrink(const float* const* x, const Piece& p, int64_t n, float* h) {
  constexpr int K = R == 1 ? 8 : R == 2 ? 4 : REGISTERS / 8;
  int64_t k = 0;
  for (; k + K <= p.rank; k += K) dots<R, K>(x, p.a + k * n, n, h + k, p.rank);
  for (; k < p.rank; k++) dots<R, 1>(x, p.a + k * n, n, h + k, p.rank);
}

// y[r][j : j + C * W] += sum over k of h[r][k] * b[k][j : j + C * W], or of its first `part` floats where part > 0.
template <int R, int C>
TARGET static void axpys(const float* h, const Piece& p, float* const* y, int64_t j, int part) {
  V acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = zero();
  for (int64_t k = 0; k < p.rank; k++) {
    const float* b = p.b + k * p.rows + j;
    V bv[C];
    for (int c = 0; c < C; c++) bv[c] = part ? load_part(b, part) : load(b + c * W);
    for (int r = 0; r < R; r++) {
      V hv = all(h[r * p.rank + k]);
      for (int c = 0; c < C; c++) acc[r][c] = mul_add(hv, bv[c], acc[r][c]);
    }
  }
  for (int r = 0; r < R; r++) {
    float* at = y[r] + p.start + j;
    if (part) {
      store_part(at, add(load_part(at, part), acc[r][0]), part);
    } else {
      for (int c = 0; c < C; c++) store(at + c * W, add(load(at + c * W), acc[r][c]));
    }
  }
}

template <int R>
TARGET static void expand(const float* h, const Piece& p, float* const* y) {
  constexpr int C = R == 1 ? 8 : R == 2 ? 4 : REGISTERS / 8;
  int64_t j = 0;
  for (; j + C * W <= p.rows; j += C * W) axpys<R, C>(h, p, y, j, 0);
  for (; j + W <= p.rows; j += W) axpys<R, 1>(h, p, y, j, 0);
  if (j < p.rows) axpys<R, 1>(h, p, y, j, static_cast<int>(p.rows - j));
}

TARGET static void gain_and_offset(const Entry& e, int64_t n, float* y) {
  for (int64_t j = 0; j < n; j += W) {
    const int left = static_cast<int>(n - j < W ? n - j : W);
    V v = left == W ? load(y + j) : load_part(y + j, left);
    if (e.gain) v = mul(v, left == W ? load(e.gain + j) : load_part(e.gain + j, left));
    if (e.offset) v = add(v, left == W ? load(e.offset + j) : load_part(e.offset + j, left));
    if (left == W) store(y + j, v); else store_part(y + j, v, left);
  }
}

template <int R>
TARGET static void tiles(const Entry& e, int64_t inputs, const float* const* x, float* const* y, float* h) {
  for (int64_t i = 0; i < e.pieces; i++) {
    shrink<R>(x, *e.piece(i), inputs, h);
    expand<R>(h, *e.piece(i), y);
  }
}

// One slot's rows order[0 : n]. Calls for other rows may run at the same time, each with scratch of its own.
TARGET static void rows_of(const Entry& e, const int64_t* order, int64_t n, const Product& p, float* h) {
  for (int64_t done = 0; done < n;) {
    const int take = n - done >= 4 ? 4 : n - done >= 2 ? 2 : 1;
    const float* x[4];
    float* y[4];
    for (int r = 0; r < take; r++) {
      x[r] = p.x + order[done + r] * p.x_stride;
      y[r] = p.y + order[done + r] * p.y_stride;
      if (e.gain || e.offset) gain_and_offset(e, p.outputs, y[r]);
    }
    if (take == 4) tiles<4>(e, p.inputs, x, y, h);
    else if (take == 2) tiles<2>(e, p.inputs, x, y, h);
    else tiles<1>(e, p.inputs, x, y, h);
    done += take;
  }
}

}  // namespace ISA
}  // namespace quire
