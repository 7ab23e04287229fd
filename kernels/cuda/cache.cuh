// The paged KV cache.
//
// A layer's cache is [blocks][kv_heads][keys of 32 positions | values of 32 positions]; a position's row has `head_dim` elements, padded
// with zeros to a multiple of 8, in one of the types below, in `row` bytes, a multiple of 16.
#pragma once
#include "common.cuh"

enum Type : int { F32 = 0, F16 = 1, BF16 = 2, Q8_0 = 3 };
constexpr int POSITIONS = 32; // of a block
constexpr int MAX_DIM = 256;
constexpr int MAX_LATENT = 640; // of latent attention, which has one head of keys and values
constexpr float LOG2_E = 1.44269504f;

struct Cache {
  uint8_t *data;
  const uint32_t *blocks; // block tables of all runs
  int kv_heads, head_dim;
  int k_type, v_type;
  int k_row, v_row; // bytes
};

// Where the rows of a step stand. They and the block tables are copied before a step's first kernel begins: no kernel waits for them.
struct Rows {
  const uint32_t *positions; // [rows]
  const uint32_t *tables;    // [rows]: first entry of the row's run in Cache::blocks
  const uint32_t *ends;      // [rows]: last position of the row's run, up to which it sees keys; null: it sees those up to its own
};

struct Attend {
  const float *qkv;  // [rows, stride], of which the first heads * head_dim are queries
  int heads, group;  // query heads, and those of a KV head
  float scale, cap;  // cap 0: none
  int window;        // 0: none
  int stride;
  const float *sinks;  // [heads], or null: scores that take part in the softmax and have no value
  const float *slopes; // [heads], or null: what a score loses for each position between query and key
};

// The keys that a row sees.
struct Seen {
  int lowest, last;
  __device__ __forceinline__ Seen(const Attend &a, const Rows &rows, int r) {
    const int position = rows.positions[r];
    lowest = a.window && position >= a.window ? position - a.window + 1 : 0;
    last = rows.ends ? (int)rows.ends[r] : position;
    if (rows.ends && a.window) last = min(last, position + a.window - 1);
  }
};

// The keys of a head in a block; the values follow.
__device__ __forceinline__ uint8_t *block_keys(const Cache &c, uint32_t block, int head) {
  return c.data + ((size_t)block * c.kv_heads + head) * POSITIONS * (size_t)(c.k_row + c.v_row);
}

// Eight elements of a row as they lie in the cache.
template <int TYPE> struct Raw { uint4 a; };
template <> struct Raw<F32> { float4 a, b; };
template <> struct Raw<Q8_0> { uint2 a; uint16_t scale; };

// Elements d .. d + 8, d a multiple of 8; zeros unless `valid`.
template <int TYPE> __device__ __forceinline__ Raw<TYPE> fetch8(const uint8_t *row, int d, int head_dim, bool valid) {
  Raw<TYPE> raw = {};
  if (!valid) return raw;
  if constexpr (TYPE == F32) {
    raw.a = reinterpret_cast<const float4 *>(row + 4 * d)[0];
    raw.b = reinterpret_cast<const float4 *>(row + 4 * d)[1];
  } else if constexpr (TYPE == Q8_0) {
    // The integers, then a scale for each 32.
    raw.a = *reinterpret_cast<const uint2 *>(row + d);
    raw.scale = reinterpret_cast<const uint16_t *>(row + (head_dim + 7) / 8 * 8)[d / 32];
  } else raw.a = *reinterpret_cast<const uint4 *>(row + 2 * d);
  return raw;
}
template <int TYPE> __device__ __forceinline__ void floats8(const Raw<TYPE> &raw, float (&v)[8]) {
  if constexpr (TYPE == F32) {
    v[0] = raw.a.x; v[1] = raw.a.y; v[2] = raw.a.z; v[3] = raw.a.w; v[4] = raw.b.x; v[5] = raw.b.y; v[6] = raw.b.z; v[7] = raw.b.w;
  } else if constexpr (TYPE == Q8_0) {
    const float scale = f16_value(raw.scale);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = scale * (float)(int8_t)((i < 4 ? raw.a.x : raw.a.y) >> 8 * (i & 3));
  } else {
    const uint32_t w[4] = {raw.a.x, raw.a.y, raw.a.z, raw.a.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
      if constexpr (TYPE == F16) f16_values(w[i], v[2 * i], v[2 * i + 1]);
      else {
        v[2 * i] = __uint_as_float(w[i] << 16);
        v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
      }
  }
}

// Calls f with a type as a constant.
template <class F> __device__ __forceinline__ void with_type(int type, F f) {
  if (type == F16) f(std::integral_constant<int, F16>{});
  else if (type == Q8_0) f(std::integral_constant<int, Q8_0>{});
  else if (type == BF16) f(std::integral_constant<int, BF16>{});
  else f(std::integral_constant<int, F32>{});
}

// A warp reads a head of n floats into shared memory, with zeros behind it to a multiple of 8; x and n need no alignment.
__device__ __forceinline__ void load_head(float *head, const float *x, int n) {
  const int lane = threadIdx.x & 31;
  if (n % 4 == 0) for (int d = 4 * lane; d < n; d += 128) *reinterpret_cast<float4 *>(head + d) = *reinterpret_cast<const float4 *>(x + d);
  else for (int d = lane; d < n; d += 32) head[d] = x[d];
  if (lane < (8 - n % 8) % 8) head[n + lane] = 0.f;
}

// A warp writes a head of shared memory into the cache.
__device__ __forceinline__ void store_row(int type, uint8_t *row, const float *head, int head_dim) {
  const int lane = threadIdx.x & 31, padded = (head_dim + 7) / 8 * 8;
  for (int first = 0; type == Q8_0 && first < padded; first += 32) {
    const int d = first + lane;
    const float v = d < padded ? head[d] : 0.f;
    const uint16_t bits = f16_bits(warp_max(fabsf(v)) / 127.f);
    // Where the scale is zero, all are rounded to it.
    const int q = __float2int_rn(v / (bits ? f16_value(bits) : 1.f));
    if (lane == 0) reinterpret_cast<uint16_t *>(row + padded)[first / 32] = bits;
    if (d < padded) row[d] = (uint8_t)(int8_t)max(-127, min(127, q));
  }
  for (int d = lane; type == F32 && d < padded; d += 32) reinterpret_cast<float *>(row)[d] = head[d];
  for (int chunk = lane; (type == F16 || type == BF16) && chunk < padded / 8; chunk += 32) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float a = head[8 * chunk + 2 * i], b = head[8 * chunk + 2 * i + 1];
      w[i] = type == F16 ? f16_bits(a) | (uint32_t)f16_bits(b) << 16 : bf16_bits(a) | (uint32_t)bf16_bits(b) << 16;
    }
    reinterpret_cast<uint4 *>(row)[chunk] = {w[0], w[1], w[2], w[3]};
  }
}
