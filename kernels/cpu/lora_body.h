// The kernel, for one instruction set (see each_isa.h).
//
// Rows of a slot are taken by tiles of 4, 2 and 1, so that rows share the reads of a and b. A tile keeps one accumulator
// for each of its results and goes over the inputs (or the rank) in order: its shape never changes the order of a sum, and
// so a row's bits are the same in every tile and slice, alone or among hundreds.

namespace quire {
namespace ISA {

// h[r][k] = dot(x[r], a[k]), x and a of n numbers.
template <class F, int R, int K>
TARGET static void dots(const float* const* x, const typename F::Weight* a, int64_t n, float* h, int64_t h_stride) {
  V acc[R][K];
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k++) acc[r][k] = zero();
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    V av[K];
    for (int k = 0; k < K; k++) av[k] = F::get(a + k * n + i);
    for (int r = 0; r < R; r++) {
      V xv = load(x[r] + i);
      for (int k = 0; k < K; k++) acc[r][k] = mul_add(xv, av[k], acc[r][k]);
    }
  }
  if (i < n) {
    const int left = static_cast<int>(n - i);
    for (int r = 0; r < R; r++) {
      V xv = load_part(x[r] + i, left);
      for (int k = 0; k < K; k++) acc[r][k] = mul_add(xv, F::part(a + k * n + i, left), acc[r][k]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k++) h[r * h_stride + k] = sum(acc[r][k]);
}

template <class F, int R>
TARGET static void shrink(const float* const* x, const Piece& p, int64_t n, Slice of, float* h, int64_t h_stride) {
  constexpr int K = R == 1 ? 8 : R == 2 ? 4 : REGISTERS / 8;
  const auto* a = static_cast<const typename F::Weight*>(p.a);
  const int64_t first = of.first(p.rank, 4), end = of.end(p.rank, 4);
  int64_t k = first;
  for (; k + K <= end; k += K) dots<F, R, K>(x, a + k * n, n, h + k, h_stride);
  for (; k < end; k++) dots<F, R, 1>(x, a + k * n, n, h + k, h_stride);
  if (!p.scale) return;
  for (int r = 0; r < R; r++)
    for (k = first; k < end; k++) h[r * h_stride + k] *= p.scale[k];
}

// y[r][j : j + C * W] += sum over k of h[r][k] * b[k][j : j + C * W], or of its first `part` numbers where part > 0.
template <class F, int R, int C>
TARGET static void axpys(const float* h, int64_t h_stride, const Piece& p, float* const* y, int64_t j, int part) {
  V acc[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) acc[r][c] = zero();
  const auto* b = static_cast<const typename F::Weight*>(p.b) + j;
  for (int64_t k = 0; k < p.rank; k++, b += p.rows) {
    V bv[C];
    for (int c = 0; c < C; c++) bv[c] = part ? F::part(b, part) : F::get(b + c * W);
    for (int r = 0; r < R; r++) {
      V hv = all(h[r * h_stride + k]);
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

// The outputs [first, end) of the product, those of them that the piece changes.
template <class F, int R>
TARGET static void expand(
    const float* h, int64_t h_stride, const Piece& p, float* const* y, int64_t first, int64_t end) {
  constexpr int C = R == 1 ? 8 : R == 2 ? 4 : REGISTERS / 8;
  int64_t j = first > p.start ? first - p.start : 0;
  end = end - p.start < p.rows ? end - p.start : p.rows;
  for (; j + C * W <= end; j += C * W) axpys<F, R, C>(h, h_stride, p, y, j, 0);
  for (; j + W <= end; j += W) axpys<F, R, 1>(h, h_stride, p, y, j, 0);
  if (j < end) axpys<F, R, 1>(h, h_stride, p, y, j, static_cast<int>(end - j));
}

TARGET static void gain_and_offset(const Entry& e, int64_t first, int64_t end, float* y) {
  for (int64_t j = first; j < end; j += W) {
    const int left = static_cast<int>(end - j < W ? end - j : W);
    V v = left == W ? load(y + j) : load_part(y + j, left);
    if (e.gain) v = mul(v, left == W ? load(e.gain + j) : load_part(e.gain + j, left));
    if (e.offset) v = add(v, left == W ? load(e.offset + j) : load_part(e.offset + j, left));
    if (left == W) store(y + j, v); else store_part(y + j, v, left);
  }
}

template <int R>
TARGET static void shrink_tile(const Entry& e, const int64_t* order, const Product& p, Slice of, float* h, int64_t h_stride) {
  const float* x[R];
  for (int r = 0; r < R; r++) x[r] = p.x + order[r] * p.x_stride;
  for (int64_t i = 0; i < e.pieces; h += e.piece(i++)->rank) {
    const Piece& piece = *e.piece(i);
    switch (piece.format) {
      case Format::bf16: shrink<AsBF16, R>(x, piece, p.inputs, of, h, h_stride); break;
      case Format::f16: shrink<AsF16, R>(x, piece, p.inputs, of, h, h_stride); break;
      default: shrink<AsF32, R>(x, piece, p.inputs, of, h, h_stride);
    }
  }
}

template <int R>
TARGET static void expand_tile(
    const Entry& e, const int64_t* order, const Product& p, Slice of, const float* h, int64_t h_stride) {
  const int64_t first = of.first(p.outputs, 8 * W), end = of.end(p.outputs, 8 * W);
  float* y[R];
  for (int r = 0; r < R; r++) {
    y[r] = p.y + order[r] * p.y_stride;
    if (e.gain || e.offset) gain_and_offset(e, first, end, y[r]);
  }
  for (int64_t i = 0; i < e.pieces; h += e.piece(i++)->rank) {
    const Piece& piece = *e.piece(i);
    switch (piece.format) {
      case Format::bf16: expand<AsBF16, R>(h, h_stride, piece, y, first, end); break;
      case Format::f16: expand<AsF16, R>(h, h_stride, piece, y, first, end); break;
      default: expand<AsF32, R>(h, h_stride, piece, y, first, end);
    }
  }
}

// One slot's rows order[0 : n]: h[row][rank after rank of the pieces] = what a slice of the a's makes of x.
TARGET static void shrink_rows(
    const Entry& e, const int64_t* order, int64_t n, const Product& p, Slice of, float* h, int64_t h_stride) {
  int64_t done = 0;
  for (; done + 4 <= n; done += 4) shrink_tile<4>(e, order + done, p, of, h + done * h_stride, h_stride);
  for (; done + 2 <= n; done += 2) shrink_tile<2>(e, order + done, p, of, h + done * h_stride, h_stride);
  if (done < n) shrink_tile<1>(e, order + done, p, of, h + done * h_stride, h_stride);
}

// Then y = y * gain + offset + h b, of a slice of the outputs.
TARGET static void expand_rows(
    const Entry& e, const int64_t* order, int64_t n, const Product& p, Slice of, const float* h, int64_t h_stride) {
  int64_t done = 0;
  for (; done + 4 <= n; done += 4) expand_tile<4>(e, order + done, p, of, h + done * h_stride, h_stride);
  for (; done + 2 <= n; done += 2) expand_tile<2>(e, order + done, p, of, h + done * h_stride, h_stride);
  if (done < n) expand_tile<1>(e, order + done, p, of, h + done * h_stride, h_stride);
}

}  // namespace ISA
}  // namespace quire
