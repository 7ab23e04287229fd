// Products with float weights (F32, F16, BF16), stored row after row, rows padded with zeros to a multiple of 32 columns.
#include "hopper.cuh"

enum Float : int { F32 = 0, F16 = 1, BF16 = 2 };

struct FloatProduct {
  const void *w;
  const void *x;     // float [rows of x, width], or bf16 [rows of x, columns] for the tensor cores
  float *y;          // [rows of x, stride], of which this weight has `rows` columns
  const float *bias; // [rows], or null; of experts, those of the first, `stride` apart
  int kind;          // enum Float
  int width;         // columns of W and of float x
  int columns;       // of bf16 x, padded
  int rows;          // of W
  int stride;        // of y
  int n;             // rows of x
  int add;           // y += instead of y =
};

template <int KIND> __device__ __forceinline__ float weight(const void *w, size_t i) {
  if (KIND == F32) return static_cast<const float *>(w)[i];
  const uint16_t bits = static_cast<const uint16_t *>(w)[i];
  return KIND == F16 ? f16_value(bits) : bf16_value(bits);
}

// Eight weights that a lane reads at once.
template <int KIND> struct Eight {
  float v[8];
  __device__ __forceinline__ Eight(const void *w, size_t i) {
    if (KIND == F32) {
      const float4 *from = reinterpret_cast<const float4 *>(static_cast<const float *>(w) + i);
      const float4 a = from[0], b = from[1];
      v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w;
      v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
      return;
    }
    const uint4 bits = *reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(w) + i);
    const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const uint16_t half = (uint16_t)(pairs[k / 2] >> 16 * (k & 1));
      v[k] = KIND == F16 ? f16_value(half) : bf16_value(half);
    }
  }
};

// A warp has a row of W and `n` rows of x, at most N. A lane sums eight columns of every 256: the same for any number of rows. Grid (chunks of N
// rows of x, rows of W / 8). Bound: the weight's bytes, of which a warp has 2 KiB on their way.
template <int KIND, int N>
__device__ __forceinline__ void matvec(const FloatProduct &p, const void *w, const float *x, float *y, int n) {
  const int lane = threadIdx.x & 31, row = blockIdx.y * 8 + (threadIdx.x >> 5);
  if (row >= p.rows) return;
  const size_t stride = (p.width + 31) / 32 * 32;
  const bool aligned = p.width % 4 == 0;
  float acc[N] = {};
#pragma unroll(N == 1 ? 4 : 2)
  for (int k = 8 * lane; k < p.width; k += 256) {
    const Eight<KIND> of(w, row * stride + k);
#pragma unroll
    for (int t = 0; t < N; t++) {
      if (N > 1 && t >= n) break;
      const float *from = x + (size_t)t * p.width + k;
      float u[8];
      if (aligned && k + 8 <= p.width) {
        const float4 a = reinterpret_cast<const float4 *>(from)[0], b = reinterpret_cast<const float4 *>(from)[1];
        u[0] = a.x; u[1] = a.y; u[2] = a.z; u[3] = a.w;
        u[4] = b.x; u[5] = b.y; u[6] = b.z; u[7] = b.w;
      } else {
#pragma unroll
        for (int i = 0; i < 8; i++) u[i] = k + i < p.width ? from[i] : 0.f;
      }
#pragma unroll
      for (int i = 0; i < 8; i++) acc[t] = fmaf(of.v[i], u[i], acc[t]);
    }
  }
#pragma unroll
  for (int t = 0; t < N; t++) {
    if (t >= n) break;
    const float sum = warp_sum(acc[t]) + (p.bias ? p.bias[row] : 0.f);
    float *out = y + (size_t)t * p.stride + row;
    if (lane == 0) *out = p.add ? *out + sum : sum;
  }
}

template <int N> __device__ __forceinline__ void matvec(const FloatProduct &p, const void *w, int x_row, int y_row, int n) {
  const float *x = static_cast<const float *>(p.x) + (size_t)x_row * p.width;
  float *y = p.y + (size_t)y_row * p.stride;
  if (p.kind == F32) matvec<F32, N>(p, w, x, y, n);
  else if (p.kind == F16) matvec<F16, N>(p, w, x, y, n);
  else matvec<BF16, N>(p, w, x, y, n);
}

KERNEL __launch_bounds__(256) float_matvec(const FloatProduct p) {
  wait_for_inputs();
  let_next_begin();
  const int first = blockIdx.x * 8;
  if (p.n == 1) matvec<1>(p, p.w, 0, 0, 1);
  else matvec<8>(p, p.w, first, first, min(8, p.n - first));
}

struct Experts {
  const void *w[256];
};
// y[i] = W[chosen[i]] x[i / per_row]. Grid (chosen, rows of W / 8).
KERNEL __launch_bounds__(256) float_experts(const FloatProduct p, const Experts experts, const uint32_t *chosen, int per_row) {
  wait_for_inputs();
  let_next_begin();
  FloatProduct own = p;
  if (p.bias) own.bias += (size_t)chosen[blockIdx.x] * p.stride;
  matvec<1>(own, experts.w[chosen[blockIdx.x]], blockIdx.x / per_row, blockIdx.x, 1);
}

// out[i] = scale * W[tokens[i]]. Grid: rows.
KERNEL float_embed(const void *w, int kind, const uint32_t *tokens, float scale, float *out, int width) {
  wait_for_inputs();
  let_next_begin();
  const size_t from = (size_t)tokens[blockIdx.x] * ((width + 31) / 32 * 32);
  for (int k = threadIdx.x; k < width; k += blockDim.x) {
    const float v = kind == F32 ? weight<F32>(w, from + k) : kind == F16 ? weight<F16>(w, from + k) : weight<BF16>(w, from + k);
    out[(size_t)blockIdx.x * width + k] = scale * v;
  }
}

#ifdef TENSOR_CORES
// The tile of gemm.cuh for 16-bit weights; those in f16 lose three bits, as many as X does.
struct HalfTile {
  uint4 v[2];
  bool f16;
  __device__ __forceinline__ void load(const FloatProduct &p, int group, int block, int row, int half) {
    const size_t stride = (p.width + 31) / 32 * 32;
    const int r = min(group * 16 + row, p.rows - 1);
    f16 = p.kind == F16;
    v[0] = v[1] = uint4();
    // X is padded to 64 columns, W to 32.
    if (32 * block >= stride) return;
    const uint4 *from = reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(p.w) + r * stride + 32 * block + 16 * half);
    v[0] = from[0];
    v[1] = from[1];
  }
  __device__ __forceinline__ void store(uint32_t (&to)[8], int, int) const {
    to[0] = v[0].x; to[1] = v[0].y; to[2] = v[0].z; to[3] = v[0].w;
    to[4] = v[1].x; to[5] = v[1].y; to[6] = v[1].z; to[7] = v[1].w;
    if (!f16) return;
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = bf16_pair(f16_value((uint16_t)to[i]), f16_value((uint16_t)(to[i] >> 16)));
  }
};
#ifdef HOPPER
// The rows of hopper.cuh for 16-bit weights. A row's 64 columns have 16 bytes of padding: the eight rows of a warp's reads lie in different banks.
struct HalfRows {
  static constexpr int ROW = 2 * STEP + 16, BYTES = STAGES * 128 * ROW;
  const uint16_t *w;
  uint8_t *shared;
  const uint8_t *rows;
  size_t stride;
  int first, last, at;
  bool f16;
  __device__ __forceinline__ HalfRows(const FloatProduct &p, uint8_t *shared, int warp, int lane)
      : w(static_cast<const uint16_t *>(p.w)), shared(shared), stride((p.width + 31) / 32 * 32), first(blockIdx.y * 128), last(p.rows - 1),
        at((16 * warp + (lane >> 2)) * ROW + 4 * (lane & 3)), f16(p.kind == F16) {}
  __device__ __forceinline__ void copy(const FloatProduct &, int step) const {
    const int part = threadIdx.x & 7, column = STEP * step + 8 * part;
    // X is padded to 64 columns, W to 32.
    const bool valid = column < stride;
#pragma unroll
    for (int row = threadIdx.x >> 3; row < 128; row += 32)
      copy16(shared + (step % STAGES * 128 + row) * ROW + 16 * part, w + min(first + row, last) * stride + (valid ? column : 0), valid);
  }
  __device__ __forceinline__ void load(int step) { rows = shared + step % STAGES * 128 * ROW + at; }
  __device__ __forceinline__ void fragment(int k, uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      a[i] = *reinterpret_cast<const uint32_t *>(rows + (i & 1) * 8 * ROW + 32 * k + 16 * (i >> 1));
      if (f16) a[i] = bf16_pair(f16_value((uint16_t)a[i]), f16_value((uint16_t)(a[i] >> 16)));
    }
  }
};
template <int N> __device__ __forceinline__ void gemm_wide(FloatProduct p, const Experts &experts, const Groups &groups) {
  BlockRows rows_of;
  if (block_rows<N>(p, experts, groups, rows_of)) gemm_hopper<N, HalfRows>(p, rows_of);
}
KERNEL __launch_bounds__(256, 1) float_gemm128(const FloatProduct p, const Experts e, const Groups g) { gemm_wide<128>(p, e, g); }
KERNEL __launch_bounds__(256, 1) float_gemm256(const FloatProduct p, const Experts e, const Groups g) { gemm_wide<256>(p, e, g); }
SHARED_BYTES(shared_float_gemm128, HOPPER_SHARED<128, HalfRows>)
SHARED_BYTES(shared_float_gemm256, HOPPER_SHARED<256, HalfRows>)
#endif
#ifndef ONLY_HOPPER
KERNEL __launch_bounds__(256) float_gemm(const FloatProduct p, const Experts e, const Groups g) { gemm<HalfTile>(p, e, g); }
#endif
#endif
