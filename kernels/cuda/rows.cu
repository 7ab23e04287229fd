// Operations on rows of activations: norms, rotary embedding, activations, routing. All are bound by launching and by reading their
// input once; a decode step has a few thousand bytes of each.
#include "common.cuh"

enum Norm : int { RMS = 0, LAYER = 1 };
enum Activation : int { SILU = 0, GELU_TANH = 1, GELU = 2 };

// o = norm(x) for the row of the block. Grid: rows.
KERNEL __launch_bounds__(256) norm_rows(const float *__restrict__ x, int kind, float eps, const float *__restrict__ weight,
                                   const float *__restrict__ bias, const Out o) {
  __shared__ float part[32];
  const float *row = x + (size_t)blockIdx.x * o.width;
  float mean = 0.f, square = 0.f;
  if (kind == LAYER) {
    for (int i = threadIdx.x; i < o.width; i += blockDim.x) mean += row[i];
    mean = block_sum(mean, part) / o.width;
  }
  for (int i = threadIdx.x; i < o.width; i += blockDim.x) square += (row[i] - mean) * (row[i] - mean);
  const float inv = 1.f / sqrtf(block_sum(square, part) / o.width + eps);
  for (int c = threadIdx.x; c < o.padded; c += blockDim.x) {
    float v = 0.f;
    if (c < o.width) v = (row[c] - mean) * inv * weight[c] + (bias ? bias[c] : 0.f);
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
  __shared__ float part[32];
  const float *row = x + (size_t)blockIdx.x * width;
  float mean = 0.f, square = 0.f;
  if (kind == LAYER) {
    for (int i = threadIdx.x; i < width; i += blockDim.x) mean += row[i];
    mean = block_sum(mean, part) / width;
  }
  for (int i = threadIdx.x; i < width; i += blockDim.x) square += (row[i] - mean) * (row[i] - mean);
  const float inv = 1.f / sqrtf(block_sum(square, part) / width + eps);
  for (int i = threadIdx.x; i < width; i += blockDim.x)
    y[(size_t)blockIdx.x * width + i] += (row[i] - mean) * inv * weight[i] + (bias ? bias[i] : 0.f);
}

// RMS norm in place of `n` columns of a row from column `first`. Grid (pieces, rows).
KERNEL __launch_bounds__(256) norm_heads(float *x, int stride, int first, int n, const float *__restrict__ weight, float eps) {
  __shared__ float part[32];
  float *row = x + (size_t)blockIdx.y * stride + first + blockIdx.x * n;
  float square = 0.f;
  for (int i = threadIdx.x; i < n; i += blockDim.x) square += row[i] * row[i];
  const float inv = 1.f / sqrtf(block_sum(square, part) / n + eps);
  for (int i = threadIdx.x; i < n; i += blockDim.x) row[i] = row[i] * inv * weight[i];
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
  if (kind == GELU_TANH) return x / (1.f + expf(-1.5957691216f * x * (1.f + 0.044715f * x * x)));
  return 0.5f * x * (1.f + erff(x * 0.70710678118f));
}

// o = act(gate) * up of rows laid out gate | up; without `gated`, o = act(x). Grid: rows, or (blocks of columns, rows).
KERNEL __launch_bounds__(256) activate(const float *__restrict__ x, int kind, int gated, const Out o) {
  const float *row = x + (size_t)blockIdx.y * o.width * (gated ? 2 : 1);
  for (int c = blockIdx.x * blockDim.x + threadIdx.x; c < o.padded; c += gridDim.x * blockDim.x) {
    float v = 0.f;
    if (c < o.width) v = activated(kind, row[c]) * (gated ? row[o.width + c] : 1.f);
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

// The `used` experts with the largest logits of each row, best first, of equals the first; and their weights under the softmax of
// all logits, with `renormalise` of those chosen. One warp to a row; grid: rows.
KERNEL __launch_bounds__(32) route(const float *__restrict__ logits, int count, int used, int renormalise, uint32_t *chosen, float *weights) {
  const float *row = logits + (size_t)blockIdx.x * count;
  const int lane = threadIdx.x;
  float most = -INFINITY;
  for (int i = lane; i < count; i += 32) most = fmaxf(most, row[i]);
  most = warp_max(most);
  float sum = 0.f;
  for (int i = lane; i < count; i += 32) sum += expf(row[i] - most);
  sum = warp_sum(sum);
  float last = INFINITY, total = 0.f;
  int last_index = -1;
  for (int k = 0; k < used; k++) {
    float best = -INFINITY;
    int index = count;
    for (int i = lane; i < count; i += 32) {
      const bool later = row[i] < last || (row[i] == last && i > last_index);
      if (later && (index == count || row[i] > best)) best = row[i], index = i;
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
    const float weight = expf(best - most);
    total += weight;
    if (lane == 0) {
      chosen[blockIdx.x * used + k] = index;
      weights[blockIdx.x * used + k] = weight;
    }
  }
  __syncwarp();
  for (int k = lane; k < used; k += 32) weights[blockIdx.x * used + k] /= renormalise ? total : sum;
}

// out[r] = the weighted sum of the outputs of its experts, in the order in which they were chosen. Grid: rows.
KERNEL mix(const float *__restrict__ y, const float *__restrict__ weights, int used, float *out, int width) {
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    float sum = 0.f;
    for (int k = 0; k < used; k++) sum = fmaf(weights[blockIdx.x * used + k], y[((size_t)blockIdx.x * used + k) * width + i], sum);
    out[(size_t)blockIdx.x * width + i] = sum;
  }
}
