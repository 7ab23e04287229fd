// Operations on rows of activations: norms, rotary embedding, activations, routing. All are bound by launching and by reading their
// input once; a decode step has a few thousand bytes of each.
#include "activation.cuh"

enum Norm : int { RMS = 0, LAYER = 1 };

// What a norm subtracts from a row, and multiplies it by.
struct Moments {
  float mean, inverse;
};
// A block takes a row. A thread keeps HELD times four columns of it, so that a row is read once, all of it at the same time; what of a row is wider than
// HELD * 4096 columns is read again from the cache. The order of a sum follows from the row's width alone: see `norm_threads` in crates/cuda.
constexpr int HELD = 2;
// First column of this thread's quad i.
__device__ __forceinline__ int column(int i) { return 4 * (i * blockDim.x + threadIdx.x); }
// The sum of (v - mean)^2 over the `left` first of four columns; with `plain` of v itself.
__device__ __forceinline__ float quad_sum(float4 v, float mean, int left, bool plain) {
  const float e[4] = {v.x, v.y, v.z, v.w};
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float d = e[i] - mean;
    if (i < left) sum += plain ? e[i] : d * d;
  }
  return sum;
}
template <int H> __device__ __forceinline__ float row_sum(const float *row, const float4 (&held)[H], int n, float mean, bool plain, float *part) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < H; i++) sum += quad_sum(held[i], mean, n - column(i), plain);
  for (int i = H; column(i) < n; i++) sum += quad_sum(quad(row, column(i), n), mean, n - column(i), plain);
  return block_sum(sum, part);
}
// Of the row of the block, for all its threads.
template <int H> __device__ __forceinline__ Moments moments(const float *row, const float4 (&held)[H], int n, int kind, float eps) {
  __shared__ float part[32];
  Moments m;
  m.mean = kind == LAYER ? row_sum(row, held, n, 0.f, true, part) / n : 0.f;
  m.inverse = 1.f / sqrtf(row_sum(row, held, n, m.mean, false, part) / n + eps);
  return m;
}
__device__ __forceinline__ float4 normed(float4 v, Moments m, float4 weight, const float *bias, int c, int n) {
  float4 b = {0.f, 0.f, 0.f, 0.f};
  if (bias) b = quad(bias, c, n);
  v.x = (v.x - m.mean) * m.inverse * weight.x + b.x;
  v.y = (v.y - m.mean) * m.inverse * weight.y + b.y;
  v.z = (v.z - m.mean) * m.inverse * weight.z + b.z;
  v.w = (v.w - m.mean) * m.inverse * weight.w + b.w;
  return v;
}
template <int H> __device__ __forceinline__ void read_quads(float4 (&held)[H], const float *row, int n) {
#pragma unroll
  for (int i = 0; i < H; i++) held[i] = quad(row, column(i), n);
}

// o = norm(x) for the row of the block. Grid: rows.
template <int H> __device__ __forceinline__ void norm_row(const float *x, int kind, float eps, const float *weight, const float *bias, const Out &o) {
  float4 w[H], v[H];
  read_quads(w, weight, o.width);
  wait_for_inputs();
  let_next_begin();
  const float *row = x + (size_t)blockIdx.x * o.width;
  read_quads(v, row, o.width);
  const uint32_t role = o.roles[blockIdx.x];
  const Moments m = moments(row, v, o.width, kind, eps);
#pragma unroll
  for (int i = 0; i < H; i++) {
    const int c = column(i);
    // A warp has 128 columns, and goes on as a whole.
    if ((c & ~127) < o.padded) emit_quad(o, role, blockIdx.x, c, normed(v[i], m, w[i], bias, c, o.width));
  }
  for (int i = H; (column(i) & ~127) < o.padded; i++) {
    const int c = column(i);
    emit_quad(o, role, blockIdx.x, c, normed(quad(row, c, o.width), m, quad(weight, c, o.width), bias, c, o.width));
  }
}
KERNEL __launch_bounds__(1024) norm_rows(const float *x, int kind, float eps, const float *__restrict__ weight, const float *__restrict__ bias, const Out o) {
  norm_row<HELD>(x, kind, eps, weight, bias, o);
}

// o = x, rounded. Grid (blocks of columns, rows).
KERNEL __launch_bounds__(256) round_rows(const float *x, const Out o) {
  wait_for_inputs();
  let_next_begin();
  const int c = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if ((c & ~127) < o.padded) emit_quad(o, o.roles[blockIdx.y], blockIdx.y, c, quad(x + (size_t)blockIdx.y * o.width, c, o.width));
}

__device__ __forceinline__ float4 sum_of(float4 a, float4 b) {
  a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w;
  return a;
}
// y += norm(x), the end of a post-normed block. Grid: rows.
template <int H> __device__ __forceinline__ void add_norm_row(const float *x, int kind, float eps, const float *weight, const float *bias, float *y, int n) {
  float4 w[H], v[H], to[H];
  read_quads(w, weight, n);
  wait_for_inputs();
  let_next_begin();
  const float *row = x + (size_t)blockIdx.x * n;
  y += (size_t)blockIdx.x * n;
  read_quads(v, row, n);
  read_quads(to, y, n);
  const Moments m = moments(row, v, n, kind, eps);
#pragma unroll
  for (int i = 0; i < H; i++) put_quad(y, column(i), n, sum_of(to[i], normed(v[i], m, w[i], bias, column(i), n)));
  for (int i = H; column(i) < n; i++) {
    const int c = column(i);
    put_quad(y, c, n, sum_of(quad(y, c, n), normed(quad(row, c, n), m, quad(weight, c, n), bias, c, n)));
  }
}
KERNEL __launch_bounds__(1024) add_norm(const float *x, int kind, float eps, const float *__restrict__ weight, const float *__restrict__ bias, float *y, int width) {
  add_norm_row<HELD>(x, kind, eps, weight, bias, y, width);
}

// Norm in place of each `n` columns of a row from column `first`; those of the next piece have weights `apart` further on. Grid (pieces, rows).
KERNEL __launch_bounds__(1024) norm_heads(float *x, int stride, int first, int n, int kind, float eps, const float *__restrict__ weight,
                                          const float *__restrict__ bias, int apart) {
  weight += blockIdx.x * apart;
  if (bias) bias += blockIdx.x * apart;
  float4 w[HELD], v[HELD];
  read_quads(w, weight, n);
  wait_for_inputs();
  let_next_begin();
  float *row = x + (size_t)blockIdx.y * stride + first + blockIdx.x * n;
  read_quads(v, row, n);
  const Moments m = moments(row, v, n, kind, eps);
#pragma unroll
  for (int i = 0; i < HELD; i++) put_quad(row, column(i), n, normed(v[i], m, w[i], bias, column(i), n));
  for (int i = HELD; column(i) < n; i++) {
    const int c = column(i);
    put_quad(row, c, n, normed(quad(row, c, n), m, quad(weight, c, n), bias, c, n));
  }
}

// Cosines and sines of the rows' positions, [rows, half] each. The angle is the float product of position and frequency, as in
// the code that models are trained with. Grid: rows.
KERNEL rope_table(const uint32_t *positions, const float *frequencies, int half, float magnitude, float *cosines, float *sines) {
  wait_for_inputs();
  let_next_begin();
  const float position = (float)positions[blockIdx.x];
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    float s, c;
    sincosf(position * frequencies[i], &s, &c);
    cosines[(size_t)blockIdx.x * half + i] = c * magnitude;
    sines[(size_t)blockIdx.x * half + i] = s * magnitude;
  }
}

// Turns each head of the row; half-split convention. Grid (heads, rows).
KERNEL rope_rows(float *x, int stride, int first, int head_dim, const float *cosines, const float *sines, int half) {
  wait_for_inputs();
  let_next_begin();
  float *head = x + (size_t)blockIdx.y * stride + first + blockIdx.x * head_dim;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float c = cosines[(size_t)blockIdx.y * half + i], s = sines[(size_t)blockIdx.y * half + i];
    const float a = head[i], b = head[half + i];
    head[i] = a * c - b * s;
    head[half + i] = b * c + a * s;
  }
}

// o = act(gate) * up of rows laid out gate | up; without `gated`, o = act(x). Grid (blocks of columns, rows).
KERNEL __launch_bounds__(256) activate(const float *x, int kind, int gated, const Out o) {
  wait_for_inputs();
  let_next_begin();
  const int c = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if ((c & ~127) >= o.padded) return;
  const float *row = x + (size_t)blockIdx.y * o.width * (gated ? 2 : 1);
  float4 v = quad(row, c, o.width);
  if (gated) {
    const float4 up = quad(row + o.width, c, o.width);
    v.x = activated(kind, v.x, up.x), v.y = activated(kind, v.y, up.y), v.z = activated(kind, v.z, up.z), v.w = activated(kind, v.w, up.w);
  } else {
    v.x = activated(kind, v.x), v.y = activated(kind, v.y), v.z = activated(kind, v.z), v.w = activated(kind, v.w);
  }
  emit_quad(o, o.roles[blockIdx.y], blockIdx.y, c, v);
}

// Elementwise on rows of `width`: x += y. Grid-stride.
KERNEL add_rows(float *x, const float *y, size_t n) {
  wait_for_inputs();
  let_next_begin();
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) x[i] += y[i];
}
// x[r] += bias. Grid: rows.
KERNEL add_bias(float *x, const float *__restrict__ bias, int width) {
  wait_for_inputs();
  let_next_begin();
  for (int i = threadIdx.x; i < width; i += blockDim.x) x[(size_t)blockIdx.x * width + i] += bias[i];
}
// x[r] += table[position of r]. Grid: rows.
KERNEL add_positions(float *x, const float *__restrict__ table, const uint32_t *positions, int width) {
  wait_for_inputs();
  let_next_begin();
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    x[(size_t)blockIdx.x * width + i] += table[(size_t)positions[blockIdx.x] * width + i];
}
// out[i] = x[outputs[i]]. Grid (blocks of columns, rows of out).
KERNEL __launch_bounds__(256) gather_rows(const float *x, const uint32_t *outputs, float *out, int width) {
  wait_for_inputs();
  let_next_begin();
  const int c = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  put_quad(out + (size_t)blockIdx.y * width, c, width, quad(x + (size_t)outputs[blockIdx.y] * width, c, width));
}
// x = cap * tanh(x / cap). Grid-stride.
KERNEL softcap(float *x, float cap, size_t n) {
  wait_for_inputs();
  let_next_begin();
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) x[i] = cap * tanhf(x[i] / cap);
}

// x[r] *= sigmoid(gate[r]). Grid: rows.
KERNEL gate_rows(float *x, const float *gate, int width) {
  wait_for_inputs();
  let_next_begin();
  const float factor = 1.f / (1.f + expf(-gate[blockIdx.x]));
  for (int i = threadIdx.x; i < width; i += blockDim.x) x[(size_t)blockIdx.x * width + i] *= factor;
}

// Where heads lie: head h of row r begins r * row + h * head elements further on.
struct Place {
  size_t row, head;
};
// Copies `width` elements of each head. Grid (heads, rows).
KERNEL __launch_bounds__(256) rearrange(const float *x, const Place from, float *out, const Place to, int width) {
  wait_for_inputs();
  let_next_begin();
  x += blockIdx.y * from.row + blockIdx.x * from.head;
  out += blockIdx.y * to.row + blockIdx.x * to.head;
  for (int c = 4 * threadIdx.x; c < width; c += 4 * blockDim.x) put_quad(out, c, width, quad(x, c, width));
}
// The same to rows of their own, one for each head: head h of row r is row h * rows + r of o, of the role of r; `chosen` is h there: its product is
// that of an expert. Grid (blocks of columns, heads, rows).
KERNEL __launch_bounds__(256) rearrange_to_rows(const float *x, const Place from, const uint32_t *roles, uint32_t *chosen, uint32_t *row_roles, const Out o) {
  wait_for_inputs();
  let_next_begin();
  const int c = 4 * (blockIdx.x * blockDim.x + threadIdx.x), row = blockIdx.y * gridDim.z + blockIdx.z;
  const uint32_t role = roles[blockIdx.z];
  if (c == 0) {
    chosen[row] = blockIdx.y;
    row_roles[row] = role;
  }
  if ((c & ~127) < o.padded) emit_quad(o, role, row, c, quad(x + blockIdx.z * from.row + blockIdx.y * from.head, c, o.width));
}

// o = x sigmoid(gate), elementwise; rows of `gate` are `stride` apart. Grid (blocks of columns, rows).
KERNEL __launch_bounds__(256) gate_columns(const float *x, const float *gate, int stride, const Out o) {
  wait_for_inputs();
  let_next_begin();
  const int c = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if ((c & ~127) >= o.padded) return;
  float4 v = quad(x + (size_t)blockIdx.y * o.width, c, o.width);
  const float4 g = quad(gate + (size_t)blockIdx.y * stride, c, o.width);
  v.x /= 1.f + expf(-g.x), v.y /= 1.f + expf(-g.y), v.z /= 1.f + expf(-g.z), v.w /= 1.f + expf(-g.w);
  emit_quad(o, o.roles[blockIdx.y], blockIdx.y, c, v);
}

struct Routing {
  const float *bias; // [experts], or null: added to the scores for the choice alone
  int count, used;
  int sigmoid, renormalise;
  float scale;
  int groups;                 // of neighbours; 0: experts are in none
  int groups_used, judged_by; // how many groups are chosen from, and by the sum of how many of their best experts
};
// The sum of the `used` largest of n ranks, largest first.
__device__ __forceinline__ float sum_of_best(const float *ranks, int n, int used) {
  float sum = 0.f, last = INFINITY;
  int last_index = -1;
  for (int k = 0; k < used; k++) {
    int best = -1;
    for (int i = 0; i < n; i++)
      if ((ranks[i] < last || (ranks[i] == last && i > last_index)) && (best < 0 || ranks[i] > ranks[best])) best = i;
    if (best < 0) break;
    last = ranks[best];
    last_index = best;
    sum += last;
  }
  return sum;
}
// The `used` experts with the largest scores of each row, best first, of equals the first; and their weights: scores under the softmax
// of all logits, or sigmoids; with `renormalise` divided by the sum of those chosen. One warp to a row; grid: rows.
KERNEL __launch_bounds__(32) route(const float *logits, const Routing routing, uint32_t *chosen, float *weights,
                                   const uint32_t *roles, uint32_t *chosen_roles) {
  // Logits of expert 32 i + lane, and what they are ranked by: those of 256 experts are kept, `MAX_EXPERTS` of crates/cuda.
  constexpr int KEPT = 8;
  const int count = routing.count, used = routing.used, lane = threadIdx.x;
  wait_for_inputs();
  let_next_begin();
  const float *row = logits + (size_t)blockIdx.x * count;
  float x[KEPT], ranks[KEPT];
#pragma unroll
  for (int i = 0; i < KEPT; i++) x[i] = 32 * i + lane < count ? row[32 * i + lane] : -INFINITY;
  const uint32_t role = roles[blockIdx.x];
  float most = -INFINITY, sum = 0.f;
#pragma unroll
  for (int i = 0; i < KEPT; i++) most = fmaxf(most, x[i]);
  most = warp_max(most);
#pragma unroll
  for (int i = 0; i < KEPT; i++)
    if (32 * i + lane < count) sum += expf(x[i] - most);
  sum = routing.sigmoid ? 1.f : warp_sum(sum);
  const auto score = [&](float logit) { return routing.sigmoid ? 1.f / (1.f + expf(-logit)) : expf(logit - most); };
  // Scores rise with logits: without a bias these rank the experts as well.
#pragma unroll
  for (int i = 0; i < KEPT; i++) {
    ranks[i] = x[i];
    if ((routing.bias || routing.groups) && 32 * i + lane < count)
      ranks[i] = score(x[i]) / sum + (routing.bias ? routing.bias[32 * i + lane] : 0.f);
  }
  if (routing.groups) {
    // Experts of all groups but the best come last.
    __shared__ float all[32 * KEPT], sums[32 * KEPT];
    const int size = count / routing.groups;
#pragma unroll
    for (int i = 0; i < KEPT; i++) all[32 * i + lane] = ranks[i];
    __syncwarp();
    for (int g = lane; g < routing.groups; g += 32) sums[g] = sum_of_best(all + g * size, size, routing.judged_by);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
      const int own = (32 * i + lane) / size;
      if (own >= routing.groups) continue;
      int before = 0;
      for (int g = 0; g < routing.groups; g++) before += sums[g] > sums[own] || (sums[g] == sums[own] && g < own);
      if (before >= routing.groups_used) ranks[i] = -INFINITY;
    }
  }
  float last = INFINITY, total = 0.f;
  int last_index = -1;
  for (int k = 0; k < used; k++) {
    float best = -INFINITY;
    int index = count;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
      const int e = 32 * i + lane;
      const bool later = e < count && (ranks[i] < last || (ranks[i] == last && e > last_index));
      if (later && (index == count || ranks[i] > best)) best = ranks[i], index = e;
    }
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
      const float other = __shfl_xor_sync(ALL, best, o);
      const int other_index = __shfl_xor_sync(ALL, index, o);
      const bool take = other_index < count && (index == count || other > best || (other == best && other_index < index));
      if (take) best = other, index = other_index;
    }
    // Logits that are no numbers have no largest; what is chosen must be an expert all the same.
    if (index >= count) index = 0;
    last = best;
    last_index = index;
    const float weight = score(row[index]);
    total += weight;
    if (lane == 0) {
      chosen[blockIdx.x * used + k] = index;
      weights[blockIdx.x * used + k] = weight;
      chosen_roles[blockIdx.x * used + k] = role;
    }
  }
  __syncwarp();
  for (int k = lane; k < used; k += 32) weights[blockIdx.x * used + k] *= routing.scale / (routing.renormalise ? total : sum);
}

// For tensor cores: brings the `n` pairs of a row and an expert together by experts, in `order`, and cuts each expert's into tiles of 128; the
// rest of the tiles are empty. In which order the pairs of an expert come does not matter: each is computed by itself. One block.
KERNEL __launch_bounds__(1024) group_rows(const uint32_t *chosen, int n, int experts, uint32_t *order, uint4 *tiles, int tile_count) {
  __shared__ uint32_t counts[256], places[256];
  // Pairs and tiles of the experts up to this one: one number of two halves.
  __shared__ unsigned long long ends[2][256];
  const int e = threadIdx.x;
  if (e < 256) counts[e] = 0;
  wait_for_inputs();
  let_next_begin();
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) atomicAdd(&counts[chosen[i]], 1u);
  __syncthreads();
  if (e < 256) ends[0][e] = (unsigned long long)((counts[e] + 127) / 128) << 32 | counts[e];
  int turn = 0;
  for (int step = 1; step < 256; step *= 2, turn ^= 1) {
    __syncthreads();
    if (e < 256) ends[turn ^ 1][e] = ends[turn][e] + (e >= step ? ends[turn][e - step] : 0);
  }
  __syncthreads();
  if (e < experts) {
    const uint32_t first = (uint32_t)ends[turn][e] - counts[e];
    int tile = (int)(ends[turn][e] >> 32) - (counts[e] + 127) / 128;
    places[e] = first;
    for (uint32_t done = 0; done < counts[e]; done += 128) {
      uint4 t;
      t.x = e; t.y = first + done; t.z = min(counts[e] - done, 128u); t.w = 0;
      tiles[tile++] = t;
    }
  }
  for (int tile = (int)(ends[turn][255] >> 32) + threadIdx.x; tile < tile_count; tile += blockDim.x) tiles[tile] = uint4();
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) order[atomicAdd(&places[chosen[i]], 1u)] = i;
}

// out[r] = the weighted sum of the outputs of its experts, in the order in which they were chosen. Grid (blocks of columns, rows).
KERNEL __launch_bounds__(256) mix(const float *y, const float *weights, int used, float *out, int width) {
  wait_for_inputs();
  let_next_begin();
  const int c = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  float4 sum = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 4
  for (int k = 0; k < used; k++) {
    const float weight = weights[blockIdx.y * used + k];
    const float4 v = quad(y + ((size_t)blockIdx.y * used + k) * width, c, width);
    sum.x = fmaf(weight, v.x, sum.x), sum.y = fmaf(weight, v.y, sum.y), sum.z = fmaf(weight, v.z, sum.z), sum.w = fmaf(weight, v.w, sum.w);
  }
  put_quad(out + (size_t)blockIdx.y * width, c, width, sum);
}

// A gated short convolution: of a row b | c | x, c times the sum over taps of the products b x of as many positions, its own the last one. Those
// before a run are in the tails of the cache, [blocks, taps, width], where position p is row p % 32 % taps of its block.
struct Convolution {
  const float *bcx;   // [rows, 3 width]
  const float *taps;  // [taps, width]
  float *tails;
  const uint32_t *positions, *tables, *blocks;
  int width, count;   // channels, and taps: at most 32
};
// Grid (32 channels each, with those that pad the output, runs of `count` rows from `first` on), 32 threads for each row that is computed at a time.
KERNEL __launch_bounds__(512) short_conv(const Convolution c, int first, int count, const Out o) {
  constexpr int BLOCK = 32; // positions of a block of the cache
  __shared__ float past[BLOCK][32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const int r0 = first + blockIdx.y * count, i = blockIdx.x * 32 + lane, behind = c.count - 1, start = c.positions[r0];
  const uint32_t *table = c.blocks + c.tables[r0];
  const auto tail = [&](int p) -> float & { return c.tails[((size_t)table[p / BLOCK] * c.count + p % BLOCK % c.count) * c.width + i]; };
  wait_for_inputs();
  let_next_begin();
  for (int j = warp; j < behind; j += warps) past[j][lane] = start + j >= behind && i < c.width ? tail(start + j - behind) : 0.f;
  // What is read above may be written below.
  __syncthreads();
  for (int k = warp; k < count; k += warps) {
    const float *row = c.bcx + (size_t)(r0 + k) * 3 * c.width + i;
    float sum = 0.f, now = 0.f;
    if (i < c.width) {
      for (int j = 0; j <= behind; j++) {
        const int at = k - behind + j;
        const float *then = row - (ptrdiff_t)(behind - j) * 3 * c.width;
        now = at < 0 ? past[k + j][lane] : __fmul_rn(then[0], then[2 * c.width]);
        sum = fmaf(c.taps[j * c.width + i], now, sum);
      }
      const int p = start + k;
      if (min(start + count, p / BLOCK * BLOCK + BLOCK) - p <= c.count) tail(p) = now;
      sum *= row[c.width];
    }
    emit(o, r0 + k, blockIdx.x * 32, sum);
  }
}
