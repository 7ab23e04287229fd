// Products with quantised weights and the embedding look-up, for each layout of layouts.cuh. Compiled once per layout (-DLAYOUT=n) into
// a module of its own, so that only those that a model needs are loaded; the emulator instantiates all.
#include "packed.cuh"

// y[t] = W x[t] for up to N generated rows, in 8-bit integers.
//
// A block has sixteen rows of W and splits the columns over its warps; half a warp has a block of 32 columns, a lane a row. Every
// output is summed in an order that depends on the number of columns alone. Bound: the weight's bytes, once for N rows.
// Instructions for 32 4-bit weights: 8 dp4a, 12 to unpack, 4 loads of 16 bytes, 8 others: at 3.35 TB/s (H100) 23 % of the issue slots.
template <int L, int N>
__device__ __forceinline__ void matvec_body(const uint8_t *__restrict__ w, int units, const ActBlock *__restrict__ x, int x_blocks,
                                            float *__restrict__ y, int stride, int rows, int n, const float *__restrict__ bias, int add) {
  using T = Packed<L>;
  constexpr bool two_scales = Layout<L>::group == 16;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const int row = lane & 15, half = lane >> 4;
  const uint8_t *group = w + (size_t)blockIdx.y * units * T::UNIT;
  float acc[N];
#pragma unroll
  for (int t = 0; t < N; t++) acc[t] = 0.f;
#pragma unroll(N == 1 ? 2 : 1)
  for (int u = warp; u < units PLANT_LAST_UNIT; u += warps) {
    const uint8_t *unit = group + (size_t)u * T::UNIT;
    Scales<L> scales;
    scales.load(unit, row, half);
#pragma unroll
    for (int i = 0; i < T::BLOCKS / 2; i++) {
      const int block = 2 * i + half;
      uint32_t words[8];
      load_words<L>(unit + T::SCALES + block * T::CODES, row, words);
      float s0, m0, s1, m1;
      scales.get(block, 0, s0, m0);
      if (two_scales) scales.get(block, 1, s1, m1);
#pragma unroll
      for (int t = 0; t < N; t++) {
        if (N > 1 && t >= n) continue;
        const ActBlock *xb = x + (size_t)t * x_blocks + u * T::BLOCKS + block;
        const int4 q0 = xb->q[0], q1 = xb->q[1];
        const float d0 = xb->d[0], d1 = xb->d[1];
        const int n0 = xb->n[0], n1 = xb->n[1];
        int a = -T::OFFSET * n0, b = -T::OFFSET * n1;
        a = __dp4a((int)quad<L>(words, 0), q0.x, a);
        a = __dp4a((int)quad<L>(words, 1), q0.y, a);
        a = __dp4a((int)quad<L>(words, 2), q0.z, a);
        a = __dp4a((int)quad<L>(words, 3), q0.w, a);
        b = __dp4a((int)quad<L>(words, 4), q1.x, b);
        b = __dp4a((int)quad<L>(words, 5), q1.y, b);
        b = __dp4a((int)quad<L>(words, 6), q1.z, b);
        b = __dp4a((int)quad<L>(words, 7), q1.w, b);
        const float fa = d0 * (float)a, fb = d1 * (float)b;
        if (two_scales) {
          acc[t] = fmaf(s0, fa, acc[t]);
          acc[t] = fmaf(s1, fb, acc[t]);
        } else {
          acc[t] = fmaf(s0, fa + fb, acc[t]);
        }
        if (Layout<L>::min) {
          const float na = d0 * (float)n0, nb = d1 * (float)n1;
          if (two_scales) {
            acc[t] = fmaf(-m0, na, acc[t]);
            acc[t] = fmaf(-m1, nb, acc[t]);
          } else {
            acc[t] = fmaf(-m0, na + nb, acc[t]);
          }
        }
      }
    }
  }
  __shared__ float part[8][N][16];
#pragma unroll
  for (int t = 0; t < N; t++) {
    const float sum = acc[t] + __shfl_xor_sync(ALL, acc[t], 16);
    if (half == 0) part[warp][t][row] = sum;
  }
#ifndef PLANT_PARTS_BARRIER
  __syncthreads();
#endif
  for (int i = threadIdx.x; i < 16 * N; i += blockDim.x) {
    const int t = i >> 4, r = i & 15, to = blockIdx.y * 16 + r;
    if (t >= n || to >= rows) continue;
    float sum = bias ? bias[to] : 0.f;
    for (int k = 0; k < warps; k++) sum += part[k][t][r];
    float *out = y + (size_t)t * stride + to;
    *out = add ? *out + sum : sum;
  }
}

// What a product needs to know; grid (chunks of N rows of x, groups of W).
struct Product {
  const uint8_t *w;
  const void *x;      // ActBlock, bf16 or float, [rows of x, padded columns]
  float *y;           // [rows of x, stride], of which this weight has `rows` columns
  const float *bias;  // [rows], or null; of experts, those of the first, `stride` apart
  int units;          // of a row of W: of blocks of 64 or 256 columns
  int columns;        // of x, padded
  int rows;           // of W
  int stride;         // of y
  int n;              // rows of x
  int add;            // y += instead of y =
};

template <int L, int N> __device__ __forceinline__ void matvec(const Product &p) {
  const int first = blockIdx.x * N, blocks = p.columns / 32;
  matvec_body<L, N>(p.w, p.units, static_cast<const ActBlock *>(p.x) + (size_t)first * blocks, blocks,
                    p.y + (size_t)first * p.stride, p.stride, p.rows, min(N, p.n - first), p.bias, p.add);
}

// The weights of a layer's experts. Kernel parameters hold at most 4 KiB.
struct Experts {
  const uint8_t *w[256];
};

// y[i] = W[chosen[i]] x[i / per_row]: rows that went to experts, each its own product. Grid (chosen, groups of W).
template <int L> __device__ __forceinline__ void matvec_experts(const Product &p, const Experts &experts, const uint32_t *chosen, int per_row) {
  const int i = blockIdx.x, blocks = p.columns / 32;
  matvec_body<L, 1>(experts.w[chosen[i]], p.units, static_cast<const ActBlock *>(p.x) + (size_t)(i / per_row) * blocks, blocks,
                    p.y + (size_t)i * p.stride, p.stride, p.rows, 1, p.bias ? p.bias + (size_t)chosen[i] * p.stride : nullptr, p.add);
}

// out[i] = scale * W[tokens[i]]; bit-equal to the stored row dequantised. Grid: rows; a thread has four columns.
template <int L> __device__ __forceinline__ void embed(const uint8_t *w, int units, const uint32_t *tokens, float scale, float *out, int columns) {
  using T = Packed<L>;
  const uint32_t token = tokens[blockIdx.x];
  const uint8_t *group = w + (size_t)(token / 16) * units * T::UNIT;
  const int row = token % 16;
  for (int q = threadIdx.x; q < columns / 4; q += blockDim.x) {
    const int u = q / (T::BLOCKS * 8), block = q / 8 % T::BLOCKS, j = q % 8;
    const uint8_t *unit = group + (size_t)u * T::UNIT;
    Scales<L> scales;
    scales.load(unit, row, block);
    uint32_t words[8];
    load_words<L>(unit + T::SCALES + block * T::CODES, row, words);
    float s, m;
    scales.get(block, j / 4, s, m);
    const uint32_t codes = quad<L>(words, j);
    for (int i = 0; i < 4; i++)
      out[(size_t)blockIdx.x * columns + 4 * q + i] = scale * __fsub_rn(__fmul_rn(s, code_value<L>(codes, i)), m);
  }
}

#include "gemm.cuh"

// A row's 16 columns from 16 `half` of block `block`, as bf16.
template <int L> struct PackedTile {
  using T = Packed<L>;
  Scales<L> scales;
  uint32_t words[8];
  __device__ __forceinline__ void load(const Product &p, int group, int block, int row, int half) {
    const uint8_t *unit = p.w + ((size_t)group * p.units + block / T::BLOCKS) * T::UNIT;
    scales.load(unit, row, block % T::BLOCKS);
    load_words<L>(unit + T::SCALES + block % T::BLOCKS * T::CODES, row, words);
  }
  __device__ __forceinline__ void store(uint32_t (&to)[8], int block, int half) const {
    float s, m;
    scales.get(block % T::BLOCKS, half, s, m);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t low = quad<L>(words, i), high = quad<L>(words, 4 + i), codes = half ? high : low;
      float v[4];
#pragma unroll
      for (int k = 0; k < 4; k++) v[k] = fmaf(s, code_value<L>(codes, k), -m);
      to[2 * i] = bf16_pair(v[0], v[1]);
      to[2 * i + 1] = bf16_pair(v[2], v[3]);
    }
  }
};

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#ifdef TENSOR_CORES
#define GEMM(L) \
  KERNEL __launch_bounds__(256) JOIN(gemm, L)(const Product p, const Experts e, const Groups g) { gemm<PackedTile<L>>(p, e, g); }
#else
#define GEMM(L)
#endif
// Three blocks to a multiprocessor leave 80 registers, two 128: without a number, ptxas spills a few on some GPUs to fit one more. 24 warps with
// 64 bytes of loads a thread are 48 KiB on their way, three times what an H100 needs for its bandwidth at 600 ns.
#define INSTANCES(L) \
  KERNEL __launch_bounds__(256, 3) JOIN(matvec1, L)(const Product p) { matvec<L, 1>(p); } \
  KERNEL __launch_bounds__(256, 3) JOIN(matvec8, L)(const Product p) { matvec<L, 8>(p); } \
  KERNEL __launch_bounds__(256, 2) JOIN(experts, L)(const Product p, const Experts e, const uint32_t *chosen, int per_row) { matvec_experts<L>(p, e, chosen, per_row); } \
  KERNEL JOIN(embed, L)(const uint8_t *w, int units, const uint32_t *tokens, float scale, float *out, int columns) { embed<L>(w, units, tokens, scale, out, columns); } \
  GEMM(L)
#ifdef LAYOUT
INSTANCES(LAYOUT)
#endif
