// y = X W^T for prompt rows, all or those of an expert, on tensor cores, in bf16 with float sums.
//
// A block computes 128 rows of W by 128 rows of X in steps of 32 columns: its eight warps bring sixteen rows of W each to bf16
// in shared memory, then multiply 32 x 64 outputs each. Two buffers: while one step is multiplied, the next one's codes are on their
// way in registers. Each output is summed in one order, whatever rows are computed with it.
// Per step and SM: 256 mma of 2048 multiply-adds (about 430 cycles at the 1230 a cycle that mma.sync reaches on an H100), 320 warp
// instructions to dequantise (80 cycles of each scheduler), 96 ldmatrix (384 cycles of shared memory): bound by the tensor cores.
#pragma once
#include "common.cuh"

#ifdef TENSOR_CORES
// At most 128 outputs of one expert.
struct Group {
  uint32_t expert, first, count, pad;
};
// Of a product of experts: what each block computes. `order` says which outputs, of which X has a row for each `per_row`.
struct Groups {
  const uint32_t *order;
  const Group *tiles; // null: of one weight, rows of X and Y as they follow each other
  int per_row;
};
// The block's rows of X and of Y.
struct BlockRows {
  const uint32_t *order;
  int per_row, first, count;
  __device__ __forceinline__ int x(int i) const { return order ? (int)order[i] / per_row : first + i; }
  __device__ __forceinline__ int y(int i) const { return order ? (int)order[i] : first + i; }
};

template <class Tile, class P> __device__ __forceinline__ void gemm(const P &p, const BlockRows &rows_of) {
  // 16 bytes of padding: the eight rows that an ldmatrix phase reads lie in different banks.
  constexpr int STRIDE = 40;
  __shared__ __align__(16) uint16_t w[2][128][STRIDE];
  __shared__ __align__(16) uint16_t x[2][128][STRIDE];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int group = blockIdx.y * 8 + warp, groups = (p.rows + 15) / 16;
  const int steps = p.columns / 32;
  // Loading: a lane has half a row of W, a thread half a row of X. Rows past the end repeat the last one and are not written.
  const int row = lane & 15, half = lane >> 4;
  const int x_row = threadIdx.x >> 1, x_half = threadIdx.x & 1;
  const uint16_t *from = static_cast<const uint16_t *>(p.x) + (size_t)rows_of.x(min(x_row, rows_of.count - 1)) * p.columns + 16 * x_half;
  Tile tile;
  uint4 next[2];
  const auto load = [&](int step) {
    tile.load(p, min(group, groups - 1), step, row, half);
    next[0] = reinterpret_cast<const uint4 *>(from + 32 * step)[0];
    next[1] = reinterpret_cast<const uint4 *>(from + 32 * step)[1];
  };
  const auto store = [&](int step) {
    uint32_t v[8];
    tile.store(v, step, half);
    uint4 *to = reinterpret_cast<uint4 *>(&w[step & 1][16 * warp + row][16 * half]);
    uint4 a, b;
    a.x = v[0]; a.y = v[1]; a.z = v[2]; a.w = v[3];
    b.x = v[4]; b.y = v[5]; b.z = v[6]; b.w = v[7];
    to[0] = a;
    to[1] = b;
    to = reinterpret_cast<uint4 *>(&x[step & 1][x_row][16 * x_half]);
    to[0] = next[0];
    to[1] = next[1];
  };
  // Multiplying: warp (i, j) has rows 32 i .. of W and 64 j .. of X.
  const int w_first = 32 * (warp & 3), x_first = 64 * (warp >> 2);
  float acc[2][8][4] = {};
  load(0);
  store(0);
  __syncthreads();
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) load(step + 1);
#pragma unroll
    for (int k = 0; k < 32; k += 16) {
      uint32_t a[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) ldmatrix(a[i], &w[step & 1][w_first + 16 * i + (lane & 15)][k + 8 * (lane >> 4)]);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        uint32_t b[4];
        ldmatrix(b, &x[step & 1][x_first + 8 * j + (lane & 7) + 8 * (lane >> 4)][k + 8 * (lane >> 3 & 1)]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          mma_bf16(acc[i][j], a[i], b[0], b[1]);
          mma_bf16(acc[i][j + 1], a[i], b[2], b[3]);
        }
      }
    }
    if (step + 1 < steps) store(step + 1);
#ifndef PLANT_STEP_BARRIER
    __syncthreads();
#endif
  }
  const int first = blockIdx.y * 128 + w_first + (lane >> 2);
  float bias[4];
#pragma unroll
  for (int i = 0; i < 4; i++) bias[i] = p.bias && first + 8 * i < p.rows ? p.bias[first + 8 * i] : 0.f;
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int t = x_first + 8 * j + 2 * (lane & 3) + e;
      if (t >= rows_of.count) continue;
      float *out = p.y + (size_t)rows_of.y(t) * p.stride + first;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (first + 8 * i >= p.rows) continue;
        const float v = acc[i / 2][j][2 * (i & 1) + e] + bias[i];
        out[8 * i] = p.add ? out[8 * i] + v : v;
      }
    }
}

// What the block computes of y = W x, or of experts of y[i] = W[expert of i] x[i / per_row]: `rows_of`, and `p` for its weight. Grid (tiles of
// ROWS rows of X, or those of `groups`; rows of W / 128). False if there is nothing to compute.
template <int ROWS, class P, class Experts>
__device__ __forceinline__ bool block_rows(P &p, const Experts &experts, const Groups &groups, BlockRows &rows_of) {
  wait_for_inputs();
  let_next_begin();
  rows_of.order = nullptr;
  rows_of.per_row = 1;
  rows_of.first = blockIdx.x * ROWS;
  rows_of.count = min(ROWS, p.n - rows_of.first);
  if (groups.tiles) {
    const Group tile = groups.tiles[blockIdx.x];
    if (!tile.count) return false;
    p.w = experts.w[tile.expert];
    if (p.bias) p.bias += (size_t)tile.expert * p.stride;
    rows_of.order = groups.order + tile.first;
    rows_of.per_row = groups.per_row;
    rows_of.count = tile.count;
  }
  return true;
}
template <class Tile, class P, class Experts>
__device__ __forceinline__ void gemm(P p, const Experts &experts, const Groups &groups) {
  BlockRows rows_of;
  if (block_rows<128>(p, experts, groups, rows_of)) gemm<Tile>(p, rows_of);
}
#endif
