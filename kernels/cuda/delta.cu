// Gated delta nets: linear attention whose sequences each have a state of fixed size. A row is laid out q | k | v | z | b | a; see `DeltaSpec` of
// crates/core. Positions of a run follow one another within a launch, so that results depend neither on chunks nor on other runs.
#include "common.cuh"

constexpr int MOST = 256;  // elements of a head
constexpr int PARTS = 8;   // lanes that share a column of a state
constexpr int COLUMNS = 4; // of a warp

struct Delta {
  const float *x;              // [rows, stride]
  const float *taps;           // [count, channels]
  const float *decay, *dt_bias; // [value_heads]
  float *past;                 // [states, count - 1, channels]: position p is row p % (count - 1)
  float *states;               // [states, value_heads, value_dim, padded]
  float *made;                 // [rows, 2 key_heads padded + value_heads (value_dim + 2), and up to 3]: heads of q and of k, those of v, and of each value
                               // head what its state is multiplied by and how much of the difference is learnt
  const uint32_t *positions, *slots; // [rows]: where the row's state lies
  int key_heads, value_heads, key_dim, value_dim, padded; // padded: key_dim with zeros to a multiple of 32
  int count, neighbours;       // taps: at most 32; whether value heads that follow one another have the same key head, or take turns
  int stride, channels;
  __device__ __forceinline__ int key_of(int head) const { return neighbours ? head / (value_heads / key_heads) : head % key_heads; }
  __device__ __forceinline__ int made_width() const { return (2 * key_heads * padded + value_heads * (value_dim + 2) + 3) / 4 * 4; }
};

// Convolves a head of q, k or v over the last positions of each of `count` rows, and takes SiLU; heads of q and k are brought to length 1, those of q
// divided by sqrt(key_dim). Grid (2 key_heads + value_heads, runs of `count` rows from `first` on), a warp for each row that is computed at a time.
KERNEL __launch_bounds__(512) delta_convolve(const Delta d, int first, int count) {
  __shared__ float past[31][MOST];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, i = blockIdx.x, value = i - 2 * d.key_heads;
  const int n = value < 0 ? d.key_dim : d.value_dim, padded = value < 0 ? d.padded : n, behind = d.count - 1;
  const int column = value < 0 ? i * n : 2 * d.key_heads * d.key_dim + value * n;
  const int at = value < 0 ? i * padded : 2 * d.key_heads * d.padded + value * n, r0 = first + blockIdx.y * count, start = d.positions[r0];
  float *ring = d.past + (size_t)d.slots[r0] * behind * d.channels + column;
  wait_for_inputs();
  let_next_begin();
  // What lies before the text is zero.
  for (int j = warp; j < behind; j += warps)
    for (int c = lane; c < n; c += 32) past[j][c] = start + j >= behind ? ring[(size_t)((start + j) % behind) * d.channels + c] : 0.f;
  // What is read above is written below.
  __syncthreads();
  for (int k = warp; k < count; k += warps) {
    const float *row = d.x + (size_t)(r0 + k) * d.stride + column;
    float v[MOST / 32], square = 0.f;
#pragma unroll
    for (int u = 0; u < MOST / 32; u++) {
      const int c = 32 * u + lane;
      v[u] = 0.f;
      if (c >= n) continue;
      float sum = 0.f, now = 0.f;
      for (int j = 0; j <= behind; j++) {
        now = k + j < behind ? past[k + j][c] : row[(ptrdiff_t)(j - behind) * d.stride + c];
        sum = fmaf(d.taps[(size_t)j * d.channels + column + c], now, sum);
      }
      if (k + behind >= count) ring[(size_t)((start + k) % behind) * d.channels + c] = now;
      v[u] = sum / (1.f + expf(-sum));
      square = fmaf(v[u], v[u], square);
    }
    float *to = d.made + (size_t)(r0 + k) * d.made_width() + at;
    float factor = 1.f;
    if (value < 0) factor = (i < d.key_heads ? 1.f / sqrtf((float)n) : 1.f) / sqrtf(warp_sum(square) + 1e-6f);
#pragma unroll
    for (int u = 0; u < MOST / 32; u++)
      if (32 * u + lane < padded) to[32 * u + lane] = v[u] * factor;
    if (value >= 0 && lane == 0) {
      const float *of = d.x + (size_t)(r0 + k) * d.stride + d.channels + d.value_heads * n + value;
      const float b = of[0], a = of[d.value_heads] + d.dt_bias[value], soft = a > 20.f ? a : log1pf(expf(a));
      float *rates = d.made + (size_t)(r0 + k) * d.made_width() + 2 * d.key_heads * d.padded + d.value_heads * n + 2 * value;
      rates[0] = expf(d.decay[value] * soft);
      rates[1] = 1.f / (1.f + expf(-b));
    }
  }
}

// What a lane needs of a row, beside the states.
template <int QUADS> struct Moved {
  float4 k[QUADS], q[QUADS];
  float g, beta, v;
};
// The rule: of a value head's state S, S' = g S + k (beta (v - k g S)) and the output q S', row after row. PARTS lanes share a column of the state, which
// they keep in registers, QUADS times four rows each; what the next row needs is on its way meanwhile. Grid (columns / 32, value heads, runs of `count`
// rows from `first` on), 256 threads.
// Bound: of one row the states, read and written once; of many the latency of a row, two sums over PARTS lanes.
template <int QUADS> __device__ __forceinline__ void delta_rule(const Delta &d, int first, int count, float *out) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, part = lane % PARTS, head = blockIdx.y, key = d.key_of(head);
  const int column = 32 * blockIdx.x + COLUMNS * warp + lane / PARTS, own = min(column, d.value_dim - 1), r0 = first + blockIdx.z * count;
  float4 *state = reinterpret_cast<float4 *>(d.states + (((size_t)d.slots[r0] * d.value_heads + head) * d.value_dim + own) * d.padded) + part;
  const int q_at = key * d.padded + 4 * part, k_at = q_at + d.key_heads * d.padded, values = 2 * d.key_heads * d.padded;
  const int rates = values + d.value_heads * d.value_dim + 2 * head;
  const float4 zero = {0.f, 0.f, 0.f, 0.f};
  const bool begins = d.positions[r0] == 0, live = column < d.value_dim;
  const auto load = [&](Moved<QUADS> &to, int r) {
    const float *made = d.made + (size_t)r * d.made_width();
#pragma unroll
    for (int u = 0; u < QUADS; u++) {
      to.k[u] = to.q[u] = zero;
      if (32 * u >= d.padded) continue;
      to.k[u] = *reinterpret_cast<const float4 *>(made + k_at + 32 * u);
      to.q[u] = *reinterpret_cast<const float4 *>(made + q_at + 32 * u);
    }
    to.g = made[rates];
    to.beta = made[rates + 1];
    to.v = made[values + head * d.value_dim + own];
  };
  wait_for_inputs();
  let_next_begin();
  float4 s[QUADS];
#pragma unroll
  for (int u = 0; u < QUADS; u++) s[u] = !begins && 32 * u < d.padded ? state[8 * u] : zero;
  Moved<QUADS> next;
  load(next, r0);
  for (int r = r0; r < r0 + count; r++) {
    const Moved<QUADS> now = next;
    if (r + 1 < r0 + count) load(next, r + 1);
    float known = 0.f, sum = 0.f;
#pragma unroll
    for (int u = 0; u < QUADS; u++) {
      const float4 k = now.k[u];
      s[u].x *= now.g, s[u].y *= now.g, s[u].z *= now.g, s[u].w *= now.g;
      known = fmaf(k.x, s[u].x, fmaf(k.y, s[u].y, fmaf(k.z, s[u].z, fmaf(k.w, s[u].w, known))));
    }
#pragma unroll
    for (int o = 1; o < PARTS; o *= 2) known += __shfl_xor_sync(ALL, known, o);
    const float change = now.beta * (now.v - known);
#pragma unroll
    for (int u = 0; u < QUADS; u++) {
      const float4 k = now.k[u], q = now.q[u];
      s[u].x = fmaf(k.x, change, s[u].x), s[u].y = fmaf(k.y, change, s[u].y), s[u].z = fmaf(k.z, change, s[u].z), s[u].w = fmaf(k.w, change, s[u].w);
      sum = fmaf(q.x, s[u].x, fmaf(q.y, s[u].y, fmaf(q.z, s[u].z, fmaf(q.w, s[u].w, sum))));
    }
#pragma unroll
    for (int o = 1; o < PARTS; o *= 2) sum += __shfl_xor_sync(ALL, sum, o);
    if (live && part == 0) out[((size_t)r * d.value_heads + head) * d.value_dim + column] = sum;
  }
#pragma unroll
  for (int u = 0; u < QUADS; u++)
    if (live && 32 * u < d.padded) state[8 * u] = s[u];
}
KERNEL __launch_bounds__(256) delta_rule_128(const Delta d, int first, int count, float *out) { delta_rule<4>(d, first, count, out); }
KERNEL __launch_bounds__(256) delta_rule_256(const Delta d, int first, int count, float *out) { delta_rule<8>(d, first, count, out); }

// o = the RMS norm of each head of y, [rows, width], times silu(z). Grid: rows; at most 256 heads.
KERNEL __launch_bounds__(1024) delta_gate(const float *y, const float *z, int stride, const float *__restrict__ weight, float eps, int heads, int n, const Out o) {
  __shared__ float inverse[256];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, r = blockIdx.x;
  wait_for_inputs();
  let_next_begin();
  y += (size_t)r * o.width;
  z += (size_t)r * stride;
  for (int h = warp; h < heads; h += warps) {
    float square = 0.f;
    for (int c = lane; c < n; c += 32) square = fmaf(y[h * n + c], y[h * n + c], square);
    square = warp_sum(square);
    if (lane == 0) inverse[h] = 1.f / sqrtf(square / n + eps);
  }
  // All heads' sums are there; each element of y is read by the thread that writes it.
  __syncthreads();
  const uint32_t role = o.roles[r];
  for (int first = 128 * warp; first < o.padded; first += 128 * warps) {
    const int c = first + 4 * lane;
    float v[4] = {};
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (c + e < o.width) {
        const float gate = z[c + e];
        v[e] = y[c + e] * inverse[(c + e) / n] * weight[(c + e) % n] * (gate / (1.f + expf(-gate)));
      }
    float4 all;
    all.x = v[0], all.y = v[1], all.z = v[2], all.w = v[3];
    emit_quad(o, role, r, c, all);
  }
}
