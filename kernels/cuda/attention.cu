// The paged KV cache and attention over it.
//
// A layer's cache is [blocks][kv_heads][keys of 32 positions | values of 32 positions]; a position's row has `head_dim` elements, padded
// with zeros to a multiple of 8, in one of the types below, in `row` bytes, a multiple of 16.
#include "common.cuh"

enum Type : int { F32 = 0, F16 = 1, BF16 = 2, Q8_0 = 3 };
constexpr int POSITIONS = 32; // of a block

struct Cache {
  uint8_t *data;
  const uint32_t *blocks; // block tables of all runs
  int kv_heads, head_dim;
  int k_type, v_type;
  int k_row, v_row; // bytes
};

__device__ __forceinline__ uint8_t *position_row(const Cache &c, uint32_t table, int position, int head, bool value) {
  const size_t block = c.blocks[table + position / POSITIONS];
  uint8_t *at = c.data + (block * c.kv_heads + head) * (size_t)POSITIONS * (c.k_row + c.v_row);
  const int slot = position % POSITIONS;
  return value ? at + POSITIONS * c.k_row + slot * c.v_row : at + slot * c.k_row;
}

// Elements d .. d + 8 of a row, d a multiple of 8.
__device__ __forceinline__ void load8(int type, const uint8_t *row, int d, int head_dim, float (&v)[8]) {
  if (type == F32) {
    const float4 a = reinterpret_cast<const float4 *>(row + 4 * d)[0], b = reinterpret_cast<const float4 *>(row + 4 * d)[1];
    v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w; v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
  } else if (type == Q8_0) {
    // The integers, then a scale for each 32.
    const float scale = f16_value(reinterpret_cast<const uint16_t *>(row + (head_dim + 7) / 8 * 8)[d / 32]);
    const uint2 a = *reinterpret_cast<const uint2 *>(row + d);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = scale * (float)(int8_t)((i < 4 ? a.x : a.y) >> 8 * (i & 3));
  } else {
    const uint4 a = *reinterpret_cast<const uint4 *>(row + 2 * d);
    const uint32_t w[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint16_t bits = (uint16_t)(w[i / 2] >> 16 * (i & 1));
      v[i] = type == F16 ? f16_value(bits) : bf16_value(bits);
    }
  }
}

// A warp writes a row of head_dim floats into the cache.
__device__ __forceinline__ void store_row(int type, uint8_t *row, const float *x, int head_dim) {
  const int lane = threadIdx.x & 31, padded = (head_dim + 7) / 8 * 8;
  for (int first = 0; first < padded; first += 32) {
    const int d = first + lane;
    const float v = d < head_dim ? x[d] : 0.f;
    uint16_t bits = 0;
    if (type == Q8_0) {
      bits = f16_bits(warp_max(fabsf(v)) / 127.f);
      if (lane == 0) reinterpret_cast<uint16_t *>(row + padded)[first / 32] = bits;
    }
    if (d >= padded) continue;
    if (type == F32) reinterpret_cast<float *>(row)[d] = v;
    else if (type == F16) reinterpret_cast<uint16_t *>(row)[d] = f16_bits(v);
    else if (type == BF16) reinterpret_cast<uint16_t *>(row)[d] = bf16_bits(v);
    else row[d] = (uint8_t)(int8_t)(bits ? max(-127, min(127, __float2int_rn(v / f16_value(bits)))) : 0);
  }
}

// Where the rows of a step stand.
struct Rows {
  const uint32_t *positions; // [rows]
  const uint32_t *tables;    // [rows]: first entry of the row's run in Cache::blocks
};

// Writes keys and values of rows laid out q | k | v. Grid (kv_heads, rows), a warp each.
KERNEL __launch_bounds__(32) kv_write(const float *__restrict__ qkv, int heads, const Rows rows, const Cache c) {
  const int r = blockIdx.y, head = blockIdx.x;
  const float *k = qkv + ((size_t)r * (heads + 2 * c.kv_heads) + heads + head) * c.head_dim;
  store_row(c.k_type, position_row(c, rows.tables[r], rows.positions[r], head, false), k, c.head_dim);
  store_row(c.v_type, position_row(c, rows.tables[r], rows.positions[r], head, true), k + c.kv_heads * c.head_dim, c.head_dim);
}

// What the second kernel after a product q | k | v does in one launch: bias is added by the product; q and k are normed by head where the
// model does, turned, and written to the cache or back. Grid (heads + 2 kv_heads, rows), a warp each; head_dim at most 256.
struct Turn {
  const float *q_norm, *k_norm;   // [head_dim], or null
  const float *cosines, *sines;   // [rows, half], or null
  float eps;
  int half;
};
KERNEL __launch_bounds__(32) qkv_finish(float *__restrict__ qkv, int heads, const Turn turn, const Rows rows, const Cache c) {
  __shared__ float head[256];
  const int lane = threadIdx.x, r = blockIdx.y, i = blockIdx.x, n = c.head_dim;
  float *x = qkv + ((size_t)r * (heads + 2 * c.kv_heads) + i) * n;
  const bool value = i >= heads + c.kv_heads, query = i < heads;
  const float *weight = value ? nullptr : query ? turn.q_norm : turn.k_norm;
  float square = 0.f;
  for (int d = lane; d < n; d += 32) {
    head[d] = x[d];
    square += head[d] * head[d];
  }
  if (weight) {
    const float inv = 1.f / sqrtf(warp_sum(square) / n + turn.eps);
    for (int d = lane; d < n; d += 32) head[d] = head[d] * inv * weight[d];
  }
  __syncwarp();
  if (!value && turn.cosines)
    for (int d = lane; d < turn.half; d += 32) {
      const float cs = turn.cosines[(size_t)r * turn.half + d], sn = turn.sines[(size_t)r * turn.half + d];
      const float a = head[d], b = head[turn.half + d];
      head[d] = a * cs - b * sn;
      head[turn.half + d] = b * cs + a * sn;
    }
  __syncwarp();
  if (query) for (int d = lane; d < n; d += 32) x[d] = head[d];
  else store_row(value ? c.v_type : c.k_type, position_row(c, rows.tables[r], rows.positions[r], value ? i - heads - c.kv_heads : i - heads, value), head, n);
}

struct Attend {
  const float *qkv;  // [rows, (heads + 2 kv_heads) * head_dim]
  int heads, group;  // query heads, and those of a KV head
  float scale, cap;  // cap 0: none
  int window;        // 0: none
  const float *sinks; // [heads], or null: scores that take part in the softmax and have no value
};

// --- generated rows: keys split into partitions at fixed positions ----------------------------------------------------------------------

constexpr int PARTITION = 256;
constexpr int HEADS = 8;   // query heads of a block
constexpr int MAX_DIM = 256;

// Partial results of a row: [heads][partitions][head_dim + 2], the last two the largest score and the sum of the weights.
// Grid (partitions, kv_heads * ceil(group / HEADS), rows), 128 threads. Bound: the bytes of keys and values, read once for a group of heads.
KERNEL __launch_bounds__(128, 4) attend_partition(const Attend a, const Rows rows, const Cache c, int first_row, float *__restrict__ partial) {
  __shared__ float q[HEADS][MAX_DIM];
  __shared__ float p[HEADS][PARTITION];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = c.head_dim;
  const int r = first_row + blockIdx.z, sets = (a.group + HEADS - 1) / HEADS;
  const int kv_head = blockIdx.y / sets, set = blockIdx.y % sets * HEADS, count = min(HEADS, a.group - set);
  const int position = rows.positions[r], start = blockIdx.x * PARTITION;
  const int lowest = a.window && position >= a.window ? position - a.window + 1 : 0;
  if (start > position || start + PARTITION <= lowest) return;
  const uint32_t table = rows.tables[r];
  const int padded = (n + 7) / 8 * 8;
  for (int i = threadIdx.x; i < count * padded; i += 128) {
    const int g = i / padded, d = i % padded;
    q[g][d] = d < n ? a.qkv[((size_t)r * (a.heads + 2 * c.kv_heads) + kv_head * a.group + set + g) * n + d] : 0.f;
  }
  __syncthreads();
  // Eight lanes to a key.
  for (int k = warp * 4 + lane / 8; k < PARTITION; k += 16) {
    const int key = start + k;
    const bool seen = key >= lowest && key <= position;
    float dot[HEADS] = {};
    if (seen) {
      const uint8_t *row = position_row(c, table, key, kv_head, false);
      for (int d = 8 * (lane & 7); d < padded; d += 64) {
        float v[8];
        load8(c.k_type, row, d, n, v);
#pragma unroll
        for (int g = 0; g < HEADS; g++)
          if (g < count)
#pragma unroll
            for (int i = 0; i < 8; i++) dot[g] = fmaf(q[g][d + i], v[i], dot[g]);
      }
    }
#pragma unroll
    for (int g = 0; g < HEADS; g++) {
      if (g >= count) break;
      float s = dot[g];
#pragma unroll
      for (int o = 4; o > 0; o >>= 1) s += __shfl_xor_sync(ALL, s, o);
      s *= a.scale;
      if (a.cap > 0.f) s = a.cap * tanhf(s / a.cap);
      if ((lane & 7) == 0) p[g][k] = seen ? s : -INFINITY;
    }
  }
  __syncthreads();
  const int partitions = gridDim.x;
  float *out = partial + (((size_t)blockIdx.z * a.heads + kv_head * a.group + set) * partitions + blockIdx.x) * (n + 2);
  const size_t next_head = (size_t)partitions * (n + 2);
  for (int g = warp; g < count; g += 4) {
    float most = -INFINITY, sum = 0.f;
    for (int k = lane; k < PARTITION; k += 32) most = fmaxf(most, p[g][k]);
    most = warp_max(most);
    for (int k = lane; k < PARTITION; k += 32) {
      const float e = expf(p[g][k] - most);
      p[g][k] = e;
      sum += e;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      out[g * next_head + n] = most;
      out[g * next_head + n + 1] = sum;
    }
  }
#ifndef PLANT_WEIGHTS_BARRIER
  __syncthreads();
#endif
  // A lane has eight dimensions of every `stride`-th key; lanes that have the same ones, and warps, add up in order.
  const int lanes = padded / 8, teams = 32 / lanes, team = lane / lanes, d = lane % lanes * 8, stride = 4 * teams;
  float o[HEADS][8] = {};
  if (team < teams)
    for (int k = max(lowest - start, 0) / stride * stride + warp * teams + team; k < PARTITION; k += stride) {
      const int key = start + k;
      if (key < lowest) continue;
      if (key > position) break;
      float v[8];
      load8(c.v_type, position_row(c, table, key, kv_head, true), d, n, v);
#pragma unroll
      for (int g = 0; g < HEADS; g++)
        if (g < count)
#pragma unroll
          for (int i = 0; i < 8; i++) o[g][i] = fmaf(p[g][k], v[i], o[g][i]);
    }
  for (int w = 0; w < 4 * teams; w++) {
    if (w == warp * teams + team && team < teams)
#pragma unroll
      for (int g = 0; g < HEADS; g++)
        if (g < count)
#pragma unroll
          for (int i = 0; i < 8; i++) q[g][d + i] = w == 0 ? o[g][i] : q[g][d + i] + o[g][i];
    __syncthreads();
  }
  for (int i = threadIdx.x; i < count * n; i += 128) out[i / n * next_head + i % n] = q[i / n][i % n];
}

// Merges the partitions in order. Grid (heads, rows), `head_dim` rounded up to 32 threads.
KERNEL __launch_bounds__(MAX_DIM) attend_merge(const Attend a, const Rows rows, int n, int first_row, const float *__restrict__ partial, int partitions, const Out out) {
  const int r = first_row + blockIdx.y, position = rows.positions[r], d = threadIdx.x;
  const int lowest = a.window && position >= a.window ? position - a.window + 1 : 0;
  const float *from = partial + ((size_t)blockIdx.y * a.heads + blockIdx.x) * partitions * (n + 2);
  float most = -INFINITY, sum = 0.f, o = 0.f;
  for (int i = lowest / PARTITION; i <= position / PARTITION; i++) {
    const float *part = from + (size_t)i * (n + 2);
    const float m = part[n], top = fmaxf(most, m), old = expf(most - top), now = expf(m - top);
    sum = sum * old + part[n + 1] * now;
    o = o * old + (d < n ? part[d] : 0.f) * now;
    most = top;
  }
  if (a.sinks) sum += expf(a.sinks[blockIdx.x] - most);
  const float v = o / sum;
  // A warp's columns are whole blocks only where heads are.
  if (n % 32 == 0) {
    emit(out, r, blockIdx.x * n + (d & ~31), v);
    if (blockIdx.x + 1 == gridDim.x && d < 32 && out.width < out.padded) emit(out, r, out.width, 0.f);
  }
  else if (d < n) out.f[(size_t)r * out.width + blockIdx.x * n + d] = v;
}

// --- prompt rows, on tensor cores --------------------------------------------------------------------------------------------------

#ifdef TENSOR_CORES
// A block has 64 queries of one KV head: as many positions as fit times the heads of the group, each warp sixteen. Keys and values pass
// through shared memory in bf16, a cache block at a time; the softmax is taken on the way (Dao et al. 2022). A query's result does not
// depend on the others: a block of keys that it does not see changes nothing. Grid (tiles of the run, kv_heads).
// Bound: tensor cores; per 32 keys 64 x 32 x head_dim x 2 multiply-adds against 128 head_dim bytes.
template <int D> __device__ __forceinline__ void attend_prompt(const Attend &a, const Rows &rows, const Cache &c, int first_row, int count, float *out) {
  constexpr int STRIDE = D + 8; // 16 bytes of padding against bank conflicts
  DYNAMIC_SHARED(shared);
  uint16_t *q = reinterpret_cast<uint16_t *>(shared), *k = q + 64 * STRIDE, *v = k + 32 * STRIDE;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = c.head_dim, kv_head = blockIdx.y;
  const int per_tile = 64 / a.group, first = blockIdx.x * per_tile, tokens = min(per_tile, count - first);
  const int r0 = first_row + first;
  const int position = rows.positions[r0], last = position + tokens - 1;
  const uint32_t table = rows.tables[r0];
  const size_t stride = (size_t)(a.heads + 2 * c.kv_heads) * n;
  for (int i = threadIdx.x; i < 64 * D; i += 128) {
    const int m = i / D, d = i % D, token = m / a.group;
    float x = 0.f;
    if (token < tokens && d < n) x = a.qkv[(r0 + token) * stride + (kv_head * a.group + m % a.group) * n + d];
    q[m * STRIDE + d] = bf16_bits(x);
  }
  float o[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  // The two queries of this lane's fragments.
  int at[2];
#pragma unroll
  for (int h = 0; h < 2; h++) at[h] = min(position + (16 * warp + lane / 4 + 8 * h) / a.group, last);
  const int lowest = a.window && position >= a.window ? position - a.window + 1 : 0;
  for (int start = lowest / POSITIONS * POSITIONS; start <= last; start += POSITIONS) {
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * POSITIONS * (D / 8); i += 128) {
      const int value = i / (POSITIONS * (D / 8)), slot = i / (D / 8) % POSITIONS, d = i % (D / 8) * 8;
      float x[8] = {};
      if (d < n && start + slot <= last) load8(value ? c.v_type : c.k_type, position_row(c, table, start + slot, kv_head, value), d, n, x);
      uint4 bits;
      bits.x = bf16_pair(x[0], x[1]); bits.y = bf16_pair(x[2], x[3]); bits.z = bf16_pair(x[4], x[5]); bits.w = bf16_pair(x[6], x[7]);
      *reinterpret_cast<uint4 *>((value ? v : k) + slot * STRIDE + d) = bits;
    }
    __syncthreads();
    float s[4][4] = {};
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      uint32_t x[4];
      ldmatrix(x, q + (16 * warp + (lane & 15)) * STRIDE + d + 8 * (lane >> 4));
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        uint32_t b[4];
        ldmatrix(b, k + (8 * j + (lane & 7) + 8 * (lane >> 4)) * STRIDE + d + 8 * (lane >> 3 & 1));
        mma_bf16(s[j], x, b[0], b[1]);
        mma_bf16(s[j + 1], x, b[2], b[3]);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float top = most[h];
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int key = start + 8 * j + 2 * (lane & 3) + e;
          float &x = s[j][2 * h + e];
          x *= a.scale;
          if (a.cap > 0.f) x = a.cap * tanhf(x / a.cap);
          if (key > at[h] || (a.window && key <= at[h] - a.window)) x = -INFINITY;
          top = fmaxf(top, x);
        }
      top = fmaxf(top, __shfl_xor_sync(ALL, top, 1));
      top = fmaxf(top, __shfl_xor_sync(ALL, top, 2));
      // Nothing seen so far: every weight is zero.
      const float base = top == -INFINITY ? 0.f : top, old = expf(most[h] - base);
      most[h] = top;
      sum[h] *= old;
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) sum[h] += s[j][2 * h + e] = expf(s[j][2 * h + e] - base);
#pragma unroll
      for (int i = 0; i < D / 8; i++) {
        o[i][2 * h] *= old;
        o[i][2 * h + 1] *= old;
      }
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const uint32_t x[4] = {bf16_pair(s[2 * j][0], s[2 * j][1]), bf16_pair(s[2 * j][2], s[2 * j][3]),
                             bf16_pair(s[2 * j + 1][0], s[2 * j + 1][1]), bf16_pair(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
      for (int i = 0; i < D / 8; i += 2) {
        uint32_t b[4];
        ldmatrix_transposed(b, v + (16 * j + (lane & 15)) * STRIDE + 8 * i + 8 * (lane >> 4));
        mma_bf16(o[i], x, b[0], b[1]);
        mma_bf16(o[i + 1], x, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    sum[h] += __shfl_xor_sync(ALL, sum[h], 1);
    sum[h] += __shfl_xor_sync(ALL, sum[h], 2);
    const int m = 16 * warp + lane / 4 + 8 * h, token = m / a.group;
    if (token >= tokens) continue;
    const int head = kv_head * a.group + m % a.group;
    if (a.sinks) sum[h] += expf(a.sinks[head] - most[h]);
    float *to = out + ((size_t)(r0 + token) * a.heads + head) * n;
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int d = 8 * i + 2 * (lane & 3) + e;
        if (d < n) to[d] = o[i][2 * h + e] / sum[h];
      }
  }
}
KERNEL __launch_bounds__(128) attend_prompt_64(const Attend a, const Rows rows, const Cache c, int first_row, int count, float *out) { attend_prompt<64>(a, rows, c, first_row, count, out); }
KERNEL __launch_bounds__(128) attend_prompt_128(const Attend a, const Rows rows, const Cache c, int first_row, int count, float *out) { attend_prompt<128>(a, rows, c, first_row, count, out); }
KERNEL __launch_bounds__(128) attend_prompt_256(const Attend a, const Rows rows, const Cache c, int first_row, int count, float *out) { attend_prompt<256>(a, rows, c, first_row, count, out); }
#endif
