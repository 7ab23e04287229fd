// Operations on rows of activations: norms, rotary embedding, activations, routing. All are bound by launching and by reading their
// input once; a decode step has a few thousand bytes of each.
#include "common.cuh"

enum Norm : int { RMS = 0, LAYER = 1 };
enum Activation : int { SILU = 0, GELU_TANH = 1, GELU = 2, SWIGLU_OAI = 3 };

// What a norm subtracts from a row, and multiplies it by.
struct Moments {
  float mean, inverse;
};
// Of the row of the block, for all its threads.
__device__ __forceinline__ Moments moments(const float *row, int n, int kind, float eps) {
  __shared__ float part[32];
  float mean = 0.f, square = 0.f;
  if (kind == LAYER) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) mean += row[i];
    mean = block_sum(mean, part) / n;
  }
  for (int i = threadIdx.x; i < n; i += blockDim.x) square += (row[i] - mean) * (row[i] - mean);
  Moments m;
  m.mean = mean;
  m.inverse = 1.f / sqrtf(block_sum(square, part) / n + eps);
  return m;
}

// o = norm(x) for the row of the block. Grid: rows.
KERNEL __launch_bounds__(256) norm_rows(const float *__restrict__ x, int kind, float eps, const float *__restrict__ weight,
                                   const float *__restrict__ bias, const Out o) {
  const float *row = x + (size_t)blockIdx.x * o.width;
  const Moments m = moments(row, o.width, kind, eps);
  for (int c = threadIdx.x; c < o.padded; c += blockDim.x) {
    float v = 0.f;
    if (c < o.width) v = (row[c] - m.mean) * m.inverse * weight[c] + (bias ? bias[c] : 0.f);
    emit(o, blockIdx.x, c & ~31, v);
  }
}

// o = x, rounded. Grid: rows.
KERNEL __launch_bounds__(256) round_rows(const float *__restrict__ x, const Out o) {
  for (int c = threadIdx.x; c < o.padded; c += blockDim.x)
    emit(o, blockIdx.x, c & ~31, c < o.width ? x[(size_t)blockIdx.x * o.width + c] : 0.f);
}

// y += norm(x), the end of a post-normed block. Grid: rows.
KERNEL __launch_bounds__(256) add_norm(const float *__restrict__ x, int kind, float eps, const float *__restrict__ weight,
                                       const float *__restrict__ bias, float *__restrict__ y, int width) {
  const float *row = x + (size_t)blockIdx.x * width;
  const Moments m = moments(row, width, kind, eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    y[(size_t)blockIdx.x * width + i] += (row[i] - m.mean) * m.inverse * weight[i] + (bias ? bias[i] : 0.f);
}

// RMS norm in place of `n` columns of a row from column `first`. Grid (pieces, rows).
KERNEL __launch_bounds__(256) norm_heads(float *x, int stride, int first, int n, const float *__restrict__ weight, float eps) {
  float *row = x + (size_t)blockIdx.y * stride + first + blockIdx.x * n;
  const Moments m = moments(row, n, RMS, eps);
  for (int i = threadIdx.x; i < n; i += blockDim.x) row[i] = row[i] * m.inverse * weight[i];
}

// Cosines and sines of the rows' positions, [rows, half] each. The angle is the float product of position and frequency, as in
// the code that models are trained with. Grid: rows.
KERNEL rope_table(const uint32_t *positions, const float *frequencies, int half, float magnitude, float *cosines, float *sines) {
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
  float *head = x + (size_t)blockIdx.y * stride + first + blockIdx.x * head_dim;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float c = cosines[(size_t)blockIdx.y * half + i], s = sines[(size_t)blockIdx.y * half + i];
    const float a = head[i], b = head[half + i];
    head[i] = a * c - b * s;
    head[half + i] = b * c + a * s;
  }
}

__device__ __forceinline__ float activated(int kind, float x) {
  if (kind == SILU) return x / (1.f + expf(-x));
  if (kind == SWIGLU_OAI) {
    x = fminf(x, 7.f);
    return x / (1.f + expf(-1.702f * x));
  }
  if (kind == GELU_TANH) return x / (1.f + expf(-1.5957691216f * x * (1.f + 0.044715f * x * x)));
  return 0.5f * x * (1.f + erff(x * 0.70710678118f));
}

// o = act(gate) * up of rows laid out gate | up; without `gated`, o = act(x). Grid: rows, or (blocks of columns, rows).
KERNEL __launch_bounds__(256) activate(const float *__restrict__ x, int kind, int gated, const Out o) {
  const float *row = x + (size_t)blockIdx.y * o.width * (gated ? 2 : 1);
  for (int c = blockIdx.x * blockDim.x + threadIdx.x; c < o.padded; c += gridDim.x * blockDim.x) {
    float v = 0.f;
    if (c < o.width) {
      float up = gated ? row[o.width + c] : 1.f;
      if (gated && kind == SWIGLU_OAI) up = fmaxf(-7.f, fminf(7.f, up)) + 1.f;
      v = activated(kind, row[c]) * up;
    }
    emit(o, blockIdx.y, c & ~31, v);
  }
}

// Elementwise on rows of `width`: x += y. Grid-stride.
KERNEL add_rows(float *x, const float *__restrict__ y, size_t n) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) x[i] += y[i];
}
// x[r] += bias. Grid: rows.
KERNEL add_bias(float *x, const float *__restrict__ bias, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x) x[(size_t)blockIdx.x * width + i] += bias[i];
}
// x[r] += table[position of r]. Grid: rows.
KERNEL add_positions(float *x, const float *__restrict__ table, const uint32_t *positions, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    x[(size_t)blockIdx.x * width + i] += table[(size_t)positions[blockIdx.x] * width + i];
}
// out[i] = x[outputs[i]]. Grid: rows of out.
KERNEL gather_rows(const float *__restrict__ x, const uint32_t *outputs, float *out, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    out[(size_t)blockIdx.x * width + i] = x[(size_t)outputs[blockIdx.x] * width + i];
}
// x = cap * tanh(x / cap). Grid-stride.
KERNEL softcap(float *x, float cap, size_t n) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) x[i] = cap * tanhf(x[i] / cap);
}

// x[r] *= sigmoid(gate[r]). Grid: rows.
KERNEL gate_rows(float *x, const float *__restrict__ gate, int width) {
  const float factor = 1.f / (1.f + expf(-gate[blockIdx.x]));
  for (int i = threadIdx.x; i < width; i += blockDim.x) x[(size_t)blockIdx.x * width + i] *= factor;
}

struct Routing {
  const float *bias; // [experts], or null: added to the scores for the choice alone
  int count, used;
  int sigmoid, renormalise;
  float scale;
};
// The `used` experts with the largest scores of each row, best first, of equals the first; and their weights: scores under the softmax
// of all logits, or sigmoids; with `renormalise` divided by the sum of those chosen. One warp to a row; grid: rows.
KERNEL __launch_bounds__(32) route(const float *__restrict__ logits, const Routing routing, uint32_t *chosen, float *weights,
                                   const uint32_t *roles, uint32_t *chosen_roles) {
  const int count = routing.count, used = routing.used;
  const float *row = logits + (size_t)blockIdx.x * count;
  const int lane = threadIdx.x;
  float most = -INFINITY;
  for (int i = lane; i < count; i += 32) most = fmaxf(most, row[i]);
  most = warp_max(most);
  float sum = 0.f;
  for (int i = lane; i < count; i += 32) sum += expf(row[i] - most);
  sum = routing.sigmoid ? 1.f : warp_sum(sum);
  const auto score = [&](int i) { return routing.sigmoid ? 1.f / (1.f + expf(-row[i])) : expf(row[i] - most); };
  // Scores rise with logits: without a bias these rank the experts as well.
  const auto rank = [&](int i) { return routing.bias ? score(i) / sum + routing.bias[i] : row[i]; };
  float last = INFINITY, total = 0.f;
  int last_index = -1;
  for (int k = 0; k < used; k++) {
    float best = -INFINITY;
    int index = count;
    for (int i = lane; i < count; i += 32) {
      const float at = rank(i);
      const bool later = at < last || (at == last && i > last_index);
      if (later && (index == count || at > best)) best = at, index = i;
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
    const float weight = score(index);
    total += weight;
    if (lane == 0) {
      chosen[blockIdx.x * used + k] = index;
      weights[blockIdx.x * used + k] = weight;
      chosen_roles[blockIdx.x * used + k] = roles[blockIdx.x];
    }
  }
  __syncwarp();
  for (int k = lane; k < used; k += 32) weights[blockIdx.x * used + k] *= routing.scale / (routing.renormalise ? total : sum);
}

// For tensor cores: brings the `n` pairs of a row and an expert together by experts, in `order`, and cuts each expert's into tiles of 128; the
// rest of the tiles are empty. In which order the pairs of an expert come does not matter: each is computed by itself. One block.
KERNEL __launch_bounds__(1024) group_rows(const uint32_t *__restrict__ chosen, int n, int experts, uint32_t *order, uint4 *tiles, int tile_count) {
  __shared__ uint32_t counts[256], places[256];
  for (int e = threadIdx.x; e < 256; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) atomicAdd(&counts[chosen[i]], 1u);
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t first = 0;
    int tile = 0;
    for (int e = 0; e < experts; e++) {
      places[e] = first;
      for (uint32_t done = 0; done < counts[e]; done += 128) {
        const uint32_t left = counts[e] - done;
        uint4 t;
        t.x = e; t.y = first + done; t.z = left < 128 ? left : 128; t.w = 0;
        tiles[tile++] = t;
      }
      first += counts[e];
    }
    for (; tile < tile_count; tile++) tiles[tile] = uint4();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) order[atomicAdd(&places[chosen[i]], 1u)] = i;
}

// out[r] = the weighted sum of the outputs of its experts, in the order in which they were chosen. Grid: rows.
KERNEL mix(const float *__restrict__ y, const float *__restrict__ weights, int used, float *out, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    float sum = 0.f;
    for (int k = 0; k < used; k++) sum = fmaf(weights[blockIdx.x * used + k], y[((size_t)blockIdx.x * used + k) * width + i], sum);
    out[(size_t)blockIdx.x * width + i] = sum;
  }
}

// Elements that a block of `likeliest` sorts.
constexpr int SORTED = 4096;
// A logit and its token as one number: larger is likelier, and of equals the lower token. What is no number comes first, so that it is seen.
__device__ __forceinline__ unsigned long long rank(float logit, uint32_t token) {
  const uint32_t bits = __float_as_uint(logit);
  const uint32_t ordered = logit != logit ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (unsigned long long)ordered << 32 | (uint32_t)~token;
}
// The `k` largest of each SORTED elements of a row of `n`, largest first: of logits, or of the ranks that this made of them. 0 stands for
// none. A bitonic sort: 78 steps of eight comparisons a thread. Grid (pieces of SORTED, rows).
KERNEL __launch_bounds__(256) likeliest(const float *__restrict__ logits, const unsigned long long *__restrict__ ranks, int n, int k,
                                        unsigned long long *__restrict__ out) {
  __shared__ unsigned long long s[SORTED];
  const size_t row = (size_t)blockIdx.y * n;
  for (int i = threadIdx.x; i < SORTED; i += blockDim.x) {
    const int at = blockIdx.x * SORTED + i;
    s[i] = at >= n ? 0 : logits ? rank(logits[row + at], at) : ranks[row + at];
  }
  for (int size = 2; size <= SORTED; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < SORTED / 2; i += blockDim.x) {
        const int a = 2 * i - (i & (stride - 1)), b = a + stride;
        const bool falling = (a & size) == 0;
        if (falling == (s[a] < s[b])) {
          const unsigned long long other = s[a];
          s[a] = s[b];
          s[b] = other;
        }
      }
    }
  __syncthreads();
  for (int i = threadIdx.x; i < k; i += blockDim.x) out[((size_t)blockIdx.y * gridDim.x + blockIdx.x) * k + i] = s[i];
}
