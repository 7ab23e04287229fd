// Writing the cache, and attention over it. No pointer is __restrict__: what is then read as a constant may be read before wait_for_inputs().
#include "cache.cuh"
#include "prompt.cuh"

constexpr int HEADS_AT_ONCE = 4; // heads of a block of the kernels that write the cache, a warp each

// Writes keys and values of rows laid out q | k | v, `stride` apart. Grid (2 kv_heads / HEADS_AT_ONCE, rows).
KERNEL __launch_bounds__(32 * HEADS_AT_ONCE) kv_write(const float *qkv, int stride, int heads, const Rows rows, const Cache c) {
  __shared__ __align__(16) float shared[HEADS_AT_ONCE][MAX_LATENT];
  const int warp = threadIdx.x >> 5, r = blockIdx.y, i = blockIdx.x * HEADS_AT_ONCE + warp;
  if (i >= 2 * c.kv_heads) return;
  const int position = rows.positions[r];
  const uint32_t block = c.blocks[rows.tables[r] + position / POSITIONS];
  wait_for_inputs();
  let_next_begin();
  const bool value = i >= c.kv_heads;
  load_head(shared[warp], qkv + (size_t)r * stride + (heads + i) * c.head_dim, c.head_dim);
  __syncwarp();
  uint8_t *to = block_keys(c, block, value ? i - c.kv_heads : i) + (value ? POSITIONS * c.k_row : 0);
  store_row(value ? c.v_type : c.k_type, to + position % POSITIONS * (value ? c.v_row : c.k_row), shared[warp], c.head_dim);
}

// What the second kernel after a product q | k | v does in one launch: bias is added by the product; q and k are normed by head where the
// model does, turned, and written to the cache or back. Grid ((heads + 2 kv_heads) / HEADS_AT_ONCE, rows); head_dim at most 256.
struct Turn {
  const float *q_norm, *k_norm;   // [head_dim], or null
  const float *cosines, *sines;   // [rows, half], or null
  float eps;
  int half;
  int layer, apart;               // whether norms are layer norms, and the weights of the next head lie how many further on: head_dim or 0
};
KERNEL __launch_bounds__(32 * HEADS_AT_ONCE) qkv_finish(float *qkv, int stride, int heads, const Turn turn, const Rows rows, const Cache c) {
  __shared__ __align__(16) float shared[HEADS_AT_ONCE][MAX_DIM];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, r = blockIdx.y, i = blockIdx.x * HEADS_AT_ONCE + warp, n = c.head_dim;
  if (i >= heads + 2 * c.kv_heads) return;
  float *x = qkv + (size_t)r * stride + i * n, *head = shared[warp];
  const bool value = i >= heads + c.kv_heads, query = i < heads;
  const int position = rows.positions[r];
  const uint32_t block = query ? 0 : c.blocks[rows.tables[r] + position / POSITIONS];
  wait_for_inputs();
  let_next_begin();
  load_head(head, x, n);
  __syncwarp();
  if (const float *weight = value ? nullptr : query ? turn.q_norm : turn.k_norm) {
    weight += (query ? i : i - heads) * turn.apart;
    float sum = 0.f, square = 0.f;
    for (int d = lane; turn.layer && d < n; d += 32) sum += head[d];
    const float mean = turn.layer ? warp_sum(sum) / n : 0.f;
    for (int d = lane; d < n; d += 32) square += (head[d] - mean) * (head[d] - mean);
    const float inv = 1.f / sqrtf(warp_sum(square) / n + turn.eps);
    for (int d = lane; d < n; d += 32) head[d] = (head[d] - mean) * inv * weight[d];
    __syncwarp();
  }
  if (!value && turn.cosines) {
    for (int d = lane; d < turn.half; d += 32) {
      const float cs = turn.cosines[(size_t)r * turn.half + d], sn = turn.sines[(size_t)r * turn.half + d];
      const float a = head[d], b = head[turn.half + d];
      head[d] = a * cs - b * sn;
      head[turn.half + d] = b * cs + a * sn;
    }
    __syncwarp();
  }
  if (query) {
    if (n % 4 == 0) for (int d = 4 * lane; d < n; d += 128) *reinterpret_cast<float4 *>(x + d) = *reinterpret_cast<const float4 *>(head + d);
    else for (int d = lane; d < n; d += 32) x[d] = head[d];
    return;
  }
  uint8_t *to = block_keys(c, block, i - heads - (value ? c.kv_heads : 0)) + (value ? POSITIONS * c.k_row : 0);
  store_row(value ? c.v_type : c.k_type, to + position % POSITIONS * (value ? c.v_row : c.k_row), head, n);
}

// --- generated rows: keys split into partitions at fixed positions ----------------------------------------------------------------------

constexpr int PARTITION = 256;
constexpr int BLOCKS = PARTITION / POSITIONS; // of a partition, a warp each

// Column d of a head, all of whose keys are in: `sum` weights relative to 2^most. Called by warps for 32 columns where heads are blocks of 32.
__device__ __forceinline__ void finish_head(const Attend &a, const Out &out, int r, int head, int n, int d, float o, float most, float sum) {
  if (a.sinks) sum += power_of_2(a.sinks[head] * LOG2_E - most);
  if (n % 32) {
    if (d < n) out.f[(size_t)r * out.width + head * n + d] = o / sum;
    return;
  }
  emit(out, r, head * n + (d & ~31), o / sum);
  if (head + 1 == a.heads && d < 32 && out.width < out.padded) emit(out, r, out.width, 0.f);
}

// The first sum over `lanes` lanes that follow each other, of N values each: value u goes to the lanes l with l % N = u.
template <int N> __device__ __forceinline__ float fold(float (&x)[N], int lane, int lanes) {
#pragma unroll
  for (int m = 1; m < N; m *= 2)
#pragma unroll
    for (int i = 0; i < N; i += 2 * m) {
      const float keep = lane & m ? x[i + m] : x[i], give = lane & m ? x[i] : x[i + m];
      x[i] = keep + __shfl_xor_sync(ALL, give, m);
    }
#pragma unroll
  for (int m = N; m < 32; m *= 2)
    if (m < lanes) x[0] += __shfl_xor_sync(ALL, x[0], m);
  return x[0];
}

// Partial results of a row: [heads][partitions][head_dim + 2], the last two the largest score, in powers of 2, and the sum of the weights.
// A warp has a block of the cache, by itself until all add up in order. 8, 16 or 32 lanes share a key, 8 elements each and of latents
// that again in CHUNKS steps of 256 elements, and have `AHEAD` keys at a time on their way from L2, into which a warp brings its block at once.
// Grid (partitions, kv_heads * ceil(group / HEADS), rows), 256 threads; where there is one partition, it writes the results.
// Bound: the bytes of keys and values, read once for HEADS heads; other heads of the group find them in L2.
template <int HEADS, int AHEAD, int CHUNKS, bool BRING = true>
__device__ __forceinline__ void attend_partition(const Attend &a, const Rows &rows, const Cache &c, int first_row, float *partial, const Out &out) {
  __shared__ __align__(16) float weights[BLOCKS][POSITIONS][HEADS], part[BLOCKS][HEADS * (CHUNKS == 1 ? MAX_DIM : MAX_LATENT)];
  __shared__ float most[BLOCKS][HEADS], sum[BLOCKS][HEADS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = c.head_dim, padded = (n + 7) / 8 * 8;
  const int r = first_row + blockIdx.z, sets = (a.group + HEADS - 1) / HEADS;
  const int kv_head = blockIdx.y / sets, set = blockIdx.y % sets * HEADS, count = min(HEADS, a.group - set), first_head = kv_head * a.group + set;
  const Seen keys_of(a, rows, r);
  const int position = rows.positions[r], lowest = keys_of.lowest, last = keys_of.last, start = blockIdx.x * PARTITION;
  if (start > last || start + PARTITION <= lowest) return;
  const int first = start + warp * POSITIONS;
  const bool any = first <= last && first + POSITIONS > lowest;
  const uint8_t *keys = block_keys(c, any ? c.blocks[rows.tables[r] + first / POSITIONS] : 0, kv_head), *values = keys + POSITIONS * c.k_row;
  if (BRING && any) bring_to_l2(keys, POSITIONS * (c.k_row + c.v_row));
  wait_for_inputs();
  let_next_begin();
  const int lanes = padded <= 64 ? 8 : padded <= 128 ? 16 : 32, d = 8 * (lane & (lanes - 1)), team = lane & -lanes;
  const auto seen = [&](int k, int chunk) { return d + 256 * chunk < padded && first + k >= lowest && first + k <= last; };
  if (any) {
    float q[HEADS][CHUNKS][8];
#pragma unroll
    for (int g = 0; g < HEADS; g++)
#pragma unroll
      for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const int at = d + 256 * chunk;
        const float *from = a.qkv + (size_t)r * a.stride + (first_head + g) * n + at;
        float(&to)[8] = q[g][chunk];
#pragma unroll
        for (int i = 0; i < 8; i += 4)
          if (n % 4 == 0) {
            float4 x = {};
            if (g < count && at + i < n) x = *reinterpret_cast<const float4 *>(from + i);
            to[i] = x.x; to[i + 1] = x.y; to[i + 2] = x.z; to[i + 3] = x.w;
          } else
#pragma unroll
            for (int e = i; e < i + 4; e++) to[e] = g < count && at + e < n ? from[e] : 0.f;
      }
    // Scores of the key of this lane.
    float s[HEADS];
    with_type(c.k_type, [&](auto type) {
      constexpr int U = type.value == F32 ? AHEAD / 2 : AHEAD; // which has the bytes of two
      for (int j = 0; j < lanes; j += U) {
        Raw<type.value> raw[U][CHUNKS];
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
          for (int chunk = 0; chunk < CHUNKS; chunk++)
            raw[u][chunk] = fetch8<type.value>(keys + (team + j + u) * c.k_row, d + 256 * chunk, n, seen(team + j + u, chunk));
        float dot[HEADS][U] = {};
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
          for (int chunk = 0; chunk < CHUNKS; chunk++) {
            float v[8];
            floats8<type.value>(raw[u][chunk], v);
#pragma unroll
            for (int g = 0; g < HEADS; g++)
#pragma unroll
              for (int i = 0; i < 8; i++) dot[g][u] = fmaf(q[g][chunk][i], v[i], dot[g][u]);
          }
#pragma unroll
        for (int g = 0; g < HEADS; g++) {
          const float all = fold(dot[g], lane, lanes);
          if ((lane & (lanes - 1) & -U) == j) s[g] = all;
        }
      }
    });
#pragma unroll
    for (int g = 0; g < HEADS; g++) {
      s[g] *= a.scale;
      if (a.cap > 0.f) s[g] = a.cap * tanhf(s[g] / a.cap);
      if (a.slopes && g < count) s[g] -= a.slopes[first_head + g] * (float)abs(position - (first + lane));
      s[g] = first + lane >= lowest && first + lane <= last ? s[g] * LOG2_E : -INFINITY;
      const float top = warp_max(s[g]), weight = power_of_2(s[g] - top), all = warp_sum(weight);
      weights[warp][lane][g] = weight;
      if (lane == 0) {
        most[warp][g] = top;
        sum[warp][g] = all;
      }
    }
    __syncwarp();
  } else if (lane < HEADS) {
    most[warp][lane] = -INFINITY;
    sum[warp][lane] = 0.f;
  }
  float o[HEADS][CHUNKS][8] = {};
  if (any)
    with_type(c.v_type, [&](auto type) {
      constexpr int U = type.value == F32 ? AHEAD / 2 : AHEAD;
      for (int j = 0; j < lanes; j += U) {
        Raw<type.value> raw[U][CHUNKS];
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
          for (int chunk = 0; chunk < CHUNKS; chunk++)
            raw[u][chunk] = fetch8<type.value>(values + (team + j + u) * c.v_row, d + 256 * chunk, n, seen(team + j + u, chunk));
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
          for (int chunk = 0; chunk < CHUNKS; chunk++) {
            float v[8];
            floats8<type.value>(raw[u][chunk], v);
#pragma unroll
            for (int g = 0; g < HEADS; g++) {
              const float weight = weights[warp][team + j + u][g];
#pragma unroll
              for (int i = 0; i < 8; i++) o[g][chunk][i] = fmaf(weight, v[i], o[g][chunk][i]);
            }
          }
      }
    });
  // Teams of lanes that have the same elements add up.
#pragma unroll
  for (int m = 16; m >= 8; m /= 2)
    if (m >= lanes)
#pragma unroll
      for (int g = 0; g < HEADS; g++)
#pragma unroll
        for (int i = 0; i < 8; i++) o[g][0][i] += __shfl_xor_sync(ALL, o[g][0][i], m);
#pragma unroll
  for (int g = 0; g < HEADS; g++)
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
      if (const int at = d + 256 * chunk; g < count && team == 0 && at < padded)
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
          const float(&v)[8] = o[g][chunk];
          *reinterpret_cast<float4 *>(&part[warp][g * padded + at + i]) = {v[i], v[i + 1], v[i + 2], v[i + 3]};
        }
#ifndef PLANT_WEIGHTS_BARRIER
  __syncthreads();
#endif
  for (int i = threadIdx.x; i < count * n; i += 32 * BLOCKS) {
    const int g = i / n, e = i % n;
    float top = most[0][g], all = 0.f, v = 0.f;
#pragma unroll
    for (int w = 1; w < BLOCKS; w++) top = fmaxf(top, most[w][g]);
#pragma unroll
    for (int w = 0; w < BLOCKS; w++) {
      const float share = power_of_2(most[w][g] - top);
      all = fmaf(sum[w][g], share, all);
      v = fmaf(part[w][g * padded + e], share, v);
    }
    if (gridDim.x == 1) {
      finish_head(a, out, r, first_head + g, n, e, v, top, all);
      continue;
    }
    float *to = partial + (((size_t)blockIdx.z * a.heads + first_head + g) * gridDim.x + blockIdx.x) * (n + 2);
    to[e] = v;
    if (e == 0) {
      to[n] = top;
      to[n + 1] = all;
    }
  }
}
#define ATTEND_PARTITION(NAME, HEADS, AHEAD, CHUNKS, BLOCKS_AT_ONCE) \
  KERNEL __launch_bounds__(256, BLOCKS_AT_ONCE) NAME(const Attend a, const Rows rows, const Cache c, int first_row, float *partial, const Out out) { \
    attend_partition<HEADS, AHEAD, CHUNKS>(a, rows, c, first_row, partial, out); \
  }
ATTEND_PARTITION(attend_partition_2, 2, 8, 1, 2)
ATTEND_PARTITION(attend_partition_4, 4, 8, 1, 2)
ATTEND_PARTITION(attend_latent, 2, 4, 3, 1)

// Merges more than one partition: a team of threads has every `teams`-th one, and reads eight of them at once; teams add up in order.
// Grid (heads, rows, 256 columns each), 256 threads.
KERNEL __launch_bounds__(256) attend_merge(const Attend a, const Rows rows, int n, int first_row, const float *partial, int partitions, const Out out) {
  __shared__ float part[256], tops[8], sums[8];
  const int r = first_row + blockIdx.y, width = min((n + 31) / 32 * 32 - 256 * (int)blockIdx.z, 256);
  const int teams = 256 / width, team = threadIdx.x / width, own = threadIdx.x % width, d = 256 * blockIdx.z + own;
  const Seen keys(a, rows, r);
  const float *from = partial + ((size_t)blockIdx.y * a.heads + blockIdx.x) * partitions * (n + 2);
  wait_for_inputs();
  let_next_begin();
  float most = -INFINITY, sum = 0.f, o = 0.f;
  if (team < teams)
    for (int i = keys.lowest / PARTITION + team; i <= keys.last / PARTITION; i += 8 * teams) {
      float v[8], m[8], s[8];
#pragma unroll
      for (int u = 0; u < 8; u++) {
        const bool there = i + u * teams <= keys.last / PARTITION;
        const float *at = from + (size_t)(i + u * teams) * (n + 2);
        v[u] = there && d < n ? at[d] : 0.f;
        m[u] = there ? at[n] : -INFINITY;
        s[u] = there ? at[n + 1] : 0.f;
      }
      float top = most;
#pragma unroll
      for (int u = 0; u < 8; u++) top = fmaxf(top, m[u]);
      const float old = power_of_2(most - top);
      sum *= old;
      o *= old;
      most = top;
#pragma unroll
      for (int u = 0; u < 8; u++) {
        const float share = power_of_2(m[u] - top);
        sum = fmaf(s[u], share, sum);
        o = fmaf(v[u], share, o);
      }
    }
  part[threadIdx.x] = o;
  if (team < teams && own == 0) {
    tops[team] = most;
    sums[team] = sum;
  }
  __syncthreads();
  if (team) return;
  float top = -INFINITY;
  for (int t = 0; t < teams; t++) top = fmaxf(top, tops[t]);
  sum = o = 0.f;
  for (int t = 0; t < teams; t++) {
    const float share = power_of_2(tops[t] - top);
    sum = fmaf(sums[t], share, sum);
    o = fmaf(part[t * width + own], share, o);
  }
  finish_head(a, out, r, blockIdx.x, n, d, o, top, sum);
}
