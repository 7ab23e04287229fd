// The most that a GPU reads and computes, as bounds to hold the kernels against. What is computed is written if it has one value in 2^32,
// so that no compiler leaves it out.
#include "common.cuh"

// Reads n times 16 bytes, and adds them up. Grid-stride.
KERNEL __launch_bounds__(256) peak_read(const uint4 *__restrict__ x, size_t n, uint32_t *out) {
  uint32_t sum = 0;
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    const uint4 v = x[i];
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x9e3779b9u) *out = sum;
}

// Eight chains of four-byte dot products in each thread: 64 operations a round.
KERNEL __launch_bounds__(256) peak_int8(int rounds, uint32_t *out) {
  const int a = threadIdx.x * 0x01010101, b = blockIdx.x * 0x01030507;
  int sums[8] = {};
  for (int r = 0; r < rounds; r++)
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] = __dp4a(a, b, sums[i]);
  uint32_t sum = 0;
  for (int i = 0; i < 8; i++) sum = 31 * sum + sums[i];
  if (sum == 0x9e3779b9u) *out = sum;
}

#ifdef TENSOR_CORES
// Eight chains of tensor core products in each warp: 32768 operations a round.
KERNEL __launch_bounds__(256) peak_bf16(int rounds, uint32_t *out) {
  const uint32_t a[4] = {threadIdx.x, threadIdx.x + 1, threadIdx.x + 2, threadIdx.x + 3};
  const uint32_t b0 = blockIdx.x, b1 = blockIdx.x + 1;
  float sums[8][4] = {};
  for (int r = 0; r < rounds; r++)
#pragma unroll
    for (int i = 0; i < 8; i++) mma_bf16(sums[i], a, b0, b1);
  float sum = 0.f;
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 4; j++) sum += sums[i][j];
  if (__float_as_uint(sum) == 0x9e3779b9u) *out = __float_as_uint(sum);
}
#endif
