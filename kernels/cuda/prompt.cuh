// Attention of prompt rows, on tensor cores.
#pragma once
#include "cache.cuh"

#ifdef TENSOR_CORES
// A block has `QUERIES` queries of one KV head: as many positions as fit times the heads of the group, each warp `TILES` times sixteen.
// Keys and values pass through shared memory, KEYS at a time, and the softmax is taken on the way (Dao et al. 2022).
// Only with BIASED are slopes looked at: not every shape has registers for them.
template <int D, int WARPS, int TILES, int KEYS, bool BIASED = false> struct Prompt {
  static constexpr bool SLOPES = BIASED;
  static constexpr int THREADS = 32 * WARPS, QUERIES = 16 * TILES * WARPS;
  static constexpr int CHUNKS = D / 8;                  // 16 bytes each, of a row
  static constexpr bool KEPT = TILES * D <= 128;        // queries stay in registers
  static constexpr int STAGE = 2 * KEYS * D;            // elements of a tile of keys and values
  static constexpr int SHARED = 2 * (2 * STAGE + (KEPT ? 0 : QUERIES * D)); // bytes
};

// Where a row's chunk lies in shared memory: the eight rows that ldmatrix reads at once are in different banks.
template <int D> __device__ __forceinline__ int chunk_at(int row, int chunk) { return row * D + 8 * (chunk ^ (row & 7)); }
// Chunk 2 d + half: all d have four offsets between them, plus constants.
template <int D> __device__ __forceinline__ int chunk_at(int row, int d, int half) {
  return row * D + 64 * (d / 4) + (16 * (d % 4) ^ 8 * (half ^ (row & 7)));
}
template <bool HALF> __device__ __forceinline__ uint32_t pair_of(float low, float high) { return HALF ? f16_pair(low, high) : bf16_pair(low, high); }
template <bool HALF> __device__ __forceinline__ void mma_of(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if (HALF) mma_f16(d, a, b0, b1); else mma_bf16(d, a, b0, b1);
}

// HALF: keys and values are f16, otherwise bf16 or of types that are rounded to it. A query's result does not depend on the others: tiles
// of keys start at multiples of KEYS, and one that it does not see changes nothing. Grid (kv_heads, tiles of the run): the last
// tiles, which have most keys, begin first. Bound: tensor cores, 4 D operations for each pair of query and key.
template <class P, int D, int WARPS, int TILES, int KEYS, bool HALF>
__device__ __forceinline__ void attend_tile(const Attend &a, const Rows &rows, const Cache &c, int first_row, int count, const Out &out) {
  __shared__ int positions[P::QUERIES];
  __shared__ float slopes[P::SLOPES ? P::QUERIES : 1]; // of scores that are powers of two
  DYNAMIC_SHARED(shared);
  uint16_t *stages = reinterpret_cast<uint16_t *>(shared), *queries = stages + 2 * P::STAGE;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = c.head_dim, kv_head = blockIdx.x;
  const int per_tile = P::QUERIES / a.group, first = (gridDim.y - 1 - blockIdx.y) * per_tile, tokens = min(per_tile, count - first);
  const int r0 = first_row + first, position = rows.positions[r0], last = position + tokens - 1;
  const uint32_t *table = c.blocks + rows.tables[r0];
  const int lowest = a.window && position >= a.window ? position - a.window + 1 : 0;
  // The last key that any query sees, and that the one at a position does. The widest heads leave no register for those that see what follows.
  const bool behind = D < 256 && rows.ends;
  const int end = !behind ? last : a.window ? min((int)rows.ends[r0], last + a.window - 1) : rows.ends[r0];
  const auto last_of = [&](int at) { return !behind ? at : a.window ? min(at + a.window - 1, end) : end; };
  const bool raw = HALF || (c.k_type == BF16 && c.v_type == BF16);

  uint32_t next[KEYS / POSITIONS];
  const auto look_up = [&](int start) {
#pragma unroll
    for (int b = 0; b < KEYS / POSITIONS; b++) next[b] = table[min(start, end) / POSITIONS + (start + b * POSITIONS <= end ? b : 0)];
  };
  // Begins to copy the tile of keys from `start`, whose blocks are `next`; those behind the last one that is seen are zeros.
  const auto fetch = [&](int start, uint16_t *to) {
    const int chunk = threadIdx.x % P::CHUNKS;
#pragma unroll
    for (int b = 0; b < KEYS / POSITIONS; b++) {
      const uint8_t *keys = block_keys(c, next[b], kv_head), *values = keys + POSITIONS * c.k_row;
      if (raw) {
#pragma unroll
        for (int s = 0; s < POSITIONS; s += P::THREADS / P::CHUNKS) {
          const int slot = s + threadIdx.x / P::CHUNKS, row = b * POSITIONS + slot;
          const bool valid = 8 * chunk < n && start + row <= end;
          copy16(to + chunk_at<D>(row, chunk), keys + slot * c.k_row + 16 * chunk, valid);
          copy16(to + KEYS * D + chunk_at<D>(row, chunk), values + slot * c.v_row + 16 * chunk, valid);
        }
      } else if constexpr (!HALF) {
#pragma unroll 1
        for (int s = 0; s < 2 * POSITIONS; s += P::THREADS / P::CHUNKS) {
          const int slot = (s + threadIdx.x / P::CHUNKS) % POSITIONS, row = b * POSITIONS + slot, value = s / POSITIONS;
          float x[8] = {};
          with_type(value ? c.v_type : c.k_type, [&](auto type) {
            floats8<type.value>(fetch8<type.value>(value ? values + slot * c.v_row : keys + slot * c.k_row, 8 * chunk, n, 8 * chunk < n && start + row <= end), x);
          });
          *reinterpret_cast<uint4 *>(to + value * KEYS * D + chunk_at<D>(row, chunk)) = {bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]),
                                                                                         bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7])};
        }
      }
    }
    copy_commit();
  };

  const int begin = lowest / KEYS * KEYS;
  look_up(begin);
  wait_for_inputs();
  let_next_begin();
  fetch(begin, stages);
  look_up(begin + KEYS);

  // Scores come as powers of two, or as what the cap takes: 2^x is e^(2 score / cap).
  const float factor = a.cap > 0.f ? 2.f * LOG2_E * a.scale / a.cap : LOG2_E * a.scale;
  const auto query = [&](int m, int d) {
    const int token = m / a.group;
    return token < tokens && d < n ? factor * a.qkv[(size_t)(r0 + token) * a.stride + (kv_head * a.group + m % a.group) * n + d] : 0.f;
  };
  for (int m = threadIdx.x; m < P::QUERIES; m += P::THREADS) {
    positions[m] = min(position + m / a.group, last);
    if (P::SLOPES && a.slopes) slopes[m] = LOG2_E * a.slopes[kv_head * a.group + m % a.group];
  }
  const int m0 = 16 * TILES * warp;
  uint32_t q[P::KEPT ? TILES : 1][P::KEPT ? D / 16 : 1][4];
  if constexpr (P::KEPT) {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int m = m0 + 16 * t + lane / 4 + 8 * (i & 1), d = 16 * k + 2 * (lane & 3) + 8 * (i >> 1);
          q[t][k][i] = pair_of<HALF>(query(m, d), query(m, d + 1));
        }
  } else
    for (int i = threadIdx.x; i < P::QUERIES * D / 2; i += P::THREADS) {
      const int m = i / (D / 2), d = i % (D / 2) * 2;
      *reinterpret_cast<uint32_t *>(queries + chunk_at<D>(m, d / 8) + d % 8) = pair_of<HALF>(query(m, d), query(m, d + 1));
    }

  float o[TILES][D / 8][4] = {}, base[TILES][2], sum[TILES][2] = {};
#pragma unroll
  for (int t = 0; t < TILES; t++)
#pragma unroll
    for (int h = 0; h < 2; h++) base[t][h] = -INFINITY;
  const bool rests = m0 / a.group >= tokens;
  const int least = position + m0 / a.group, most = min(position + (m0 + 16 * TILES - 1) / a.group, last);

  int stage = 0;
  for (int start = begin; start <= end; start += KEYS) {
    copy_wait<0>();
    __syncthreads();
    if (start + KEYS <= end) {
      fetch(start + KEYS, stages + (P::STAGE - stage));
      look_up(start + 2 * KEYS);
    }
    const uint16_t *k = stages + stage, *v = k + KEYS * D;
    stage = P::STAGE - stage;
    if (rests || (start > most && !behind) || (a.window && start + KEYS <= least - a.window + 1)) continue;

    float s[TILES][KEYS / 8][4] = {};
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
      uint32_t x[TILES][4];
#pragma unroll
      for (int t = 0; t < TILES; t++)
        if constexpr (P::KEPT) {
#pragma unroll
          for (int i = 0; i < 4; i++) x[t][i] = q[t][d][i];
        } else ldmatrix(x[t], queries + chunk_at<D>(m0 + 16 * t + (lane & 15), d, lane >> 4));
#pragma unroll
      for (int j = 0; j < KEYS / 8; j += 2) {
        uint32_t b[4];
        ldmatrix(b, k + chunk_at<D>(8 * j + (lane & 7) + 8 * (lane >> 4), d, lane >> 3 & 1));
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          mma_of<HALF>(s[t][j], x[t], b[0], b[1]);
          mma_of<HALF>(s[t][j + 1], x[t], b[2], b[3]);
        }
      }
    }
    const bool edge = behind || start + KEYS - 1 > least || (a.window && start <= most - a.window);
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (a.cap > 0.f)
#pragma unroll
          for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              float &x = s[t][j][2 * h + e];
              x = a.cap * LOG2_E * (1.f - __fdividef(2.f, power_of_2(x) + 1.f));
            }
        if (P::SLOPES && a.slopes) {
          const int row = m0 + 16 * t + lane / 4 + 8 * h, ahead = positions[row] - start - 2 * (lane & 3);
          const float slope = slopes[row];
#pragma unroll
          for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) s[t][j][2 * h + e] -= slope * (float)abs(ahead - 8 * j - e);
        }
        if (edge) {
          const int at = positions[m0 + 16 * t + lane / 4 + 8 * h], from = a.window ? at - a.window : -1, to = last_of(at);
#pragma unroll
          for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const int key = start + 8 * j + 2 * (lane & 3) + e;
              if (key > to || key <= from) s[t][j][2 * h + e] = -INFINITY;
            }
        }
        float top = -INFINITY;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) top = fmaxf(top, fmaxf(s[t][j][2 * h], s[t][j][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(ALL, top, 1));
        top = fmaxf(top, __shfl_xor_sync(ALL, top, 2));
        // Weights are relative to the largest score, or up to 256: what is there is seldom rescaled.
        if (top > base[t][h] + 8.f) {
          const float old = power_of_2(base[t][h] - top);
          base[t][h] = top;
          sum[t][h] *= old;
#pragma unroll
          for (int i = 0; i < D / 8; i++) {
            o[t][i][2 * h] *= old;
            o[t][i][2 * h + 1] *= old;
          }
        }
        // Nothing seen so far: every weight is zero.
        const float from = base[t][h] == -INFINITY ? 0.f : base[t][h];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) sum[t][h] += s[t][j][2 * h + e] = power_of_2(s[t][j][2 * h + e] - from);
      }
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
      uint32_t x[TILES][4];
#pragma unroll
      for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[t][i] = pair_of<HALF>(s[t][2 * j + i / 2][2 * (i & 1)], s[t][2 * j + i / 2][2 * (i & 1) + 1]);
#pragma unroll
      for (int i = 0; i < D / 8; i += 2) {
        uint32_t b[4];
        ldmatrix_transposed(b, v + chunk_at<D>(16 * j + (lane & 15), i / 2, lane >> 4));
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          mma_of<HALF>(o[t][i], x[t], b[0], b[1]);
          mma_of<HALF>(o[t][i + 1], x[t], b[2], b[3]);
        }
      }
    }
  }

#pragma unroll
  for (int t = 0; t < TILES; t++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float all = sum[t][h];
      all += __shfl_xor_sync(ALL, all, 1);
      all += __shfl_xor_sync(ALL, all, 2);
      const int m = m0 + 16 * t + lane / 4 + 8 * h, token = m / a.group, head = kv_head * a.group + m % a.group;
      if (token >= tokens) continue;
      if (a.sinks) all += power_of_2(a.sinks[head] * LOG2_E - base[t][h]);
      const float share = 1.f / all;
      float *to = out.f + (size_t)(r0 + token) * out.width + head * n;
      uint16_t *rounded = out.h + (size_t)(r0 + token) * out.padded + head * n;
#pragma unroll
      for (int i = 0; i < D / 8; i++) {
        const int d = 8 * i + 2 * (lane & 3);
        const float low = o[t][i][2 * h] * share, high = o[t][i][2 * h + 1] * share;
        if (n % 2 == 0) {
          if (d >= n) continue;
          *reinterpret_cast<float2 *>(to + d) = {low, high};
          *reinterpret_cast<uint32_t *>(rounded + d) = bf16_pair(low, high);
          continue;
        }
        if (d < n) to[d] = low, rounded[d] = bf16_bits(low);
        if (d + 1 < n) to[d + 1] = high, rounded[d + 1] = bf16_bits(high);
      }
    }
  if (kv_head + 1 == c.kv_heads)
    for (int t = 0; t < tokens; t++)
      if (out.width + (int)threadIdx.x < out.padded) out.h[(size_t)(r0 + t) * out.padded + out.width + threadIdx.x] = 0;
}

template <int D, int WARPS, int TILES, int KEYS, bool BIASED>
__device__ __forceinline__ void attend_prompt(const Attend &a, const Rows &rows, const Cache &c, int first_row, int count, const Out &out) {
  using P = Prompt<D, WARPS, TILES, KEYS, BIASED>;
  if (c.k_type == F16 && c.v_type == F16) attend_tile<P, D, WARPS, TILES, KEYS, true>(a, rows, c, first_row, count, out);
  else attend_tile<P, D, WARPS, TILES, KEYS, false>(a, rows, c, first_row, count, out);
}
#define ATTEND_PROMPT(NAME, D, WARPS, TILES, KEYS, BIASED, AT_ONCE) \
  KERNEL __launch_bounds__(32 * WARPS, AT_ONCE) NAME(const Attend a, const Rows rows, const Cache c, int first_row, int count, const Out out) { \
    attend_prompt<D, WARPS, TILES, KEYS, BIASED>(a, rows, c, first_row, count, out); \
  }
ATTEND_PROMPT(attend_prompt_64, 64, 4, 2, 64, false, 2)
ATTEND_PROMPT(attend_biased_64, 64, 8, 1, 64, true, 1)
ATTEND_PROMPT(attend_prompt_128, 128, 8, 1, 64, true, 1)
ATTEND_PROMPT(attend_prompt_256, 256, 4, 1, 32, false, 1)
#endif
