// The likeliest tokens of a step. A block finds the `k` best of its piece by their digits, and the last pass, of one block, sorts them. A piece is small
// in the first pass, for many blocks to read the logits, and large in the later ones.
#include "common.cuh"

// Elements that a thread of `likeliest` keeps, and threads at most.
constexpr int EACH = 8;
constexpr int THREADS = 1024;
// Tokens that it can find: MOST of crates/cuda.
constexpr int MOST = 256;
typedef unsigned long long Rank;

// A logit and its token as one number: larger is likelier, and of equals the lower token. What is no number comes first, so that it is seen.
__device__ __forceinline__ Rank rank(float logit, uint32_t token) {
  const uint32_t bits = __float_as_uint(logit);
  const uint32_t ordered = logit != logit ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (Rank)ordered << 32 | (uint32_t)~token;
}

// The largest of the block's ranks, for thread 0.
__device__ __forceinline__ Rank largest(const Rank (&s)[EACH]) {
  __shared__ Rank part[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  Rank best = s[0];
#pragma unroll
  for (int i = 1; i < EACH; i++) best = max(best, s[i]);
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) best = max(best, __shfl_xor_sync(ALL, best, o));
  if (lane == 0) part[warp] = best;
  __syncthreads();
  if (warp) return 0;
  best = lane < warps ? part[lane] : 0;
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) best = max(best, __shfl_xor_sync(ALL, best, o));
  return best;
}

// Digits of 8 bits that ranks may have in common with the last one that is wanted; those above it, and those that equal it, are wanted.
struct Bound {
  Rank prefix; // the digits, the rest zeros
  int wanted;  // of those with these digits
  bool all;    // there are no more of them
};
// The least rank that is taken of the block's for the `k` largest; if there are no more than k, 1: zeros are none.
__device__ __forceinline__ Rank least(const Rank (&s)[EACH], int k) {
  __shared__ uint32_t counts[256];
  __shared__ Bound bound;
  if (threadIdx.x == 0) {
    bound.prefix = 0;
    bound.wanted = k;
    // Where there are not even k, no digit ends the search.
    bound.all = true;
  }
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) counts[i] = 0;
    __syncthreads();
    const Rank prefix = bound.prefix;
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (s[i] && (shift == 56 || (s[i] ^ prefix) >> (shift + 8) == 0)) atomicAdd(&counts[s[i] >> shift & 255], 1u);
    __syncthreads();
    if (threadIdx.x < 32) {
      // A lane has eight digits, lane 0 the largest ones; `above` is how many ranks have a larger one than those.
      const int lane = threadIdx.x, wanted = bound.wanted;
      int mine = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) mine += counts[255 - 8 * lane - i];
      int upto = mine;
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const int before = __shfl_up_sync(ALL, upto, o);
        if (lane >= o) upto += before;
      }
      int above = upto - mine;
      if (above < wanted && wanted <= upto)
        for (int digit = 255 - 8 * lane;; digit--) {
          const int here = counts[digit];
          if (above + here >= wanted) {
            bound.prefix = prefix | (Rank)digit << shift;
            bound.wanted = wanted - above;
            bound.all = above + here == wanted;
            break;
          }
          above += here;
        }
    }
    __syncthreads();
    if (bound.all) break;
  }
  return max(bound.prefix, (Rank)1);
}

// The `k` largest of each piece of a row of `n`: of logits, or of the ranks that this made of them; the last pass, of one piece, gives them in order, the
// largest first. 0 stands for none. A block has a piece of EACH elements for each of its threads. Grid (pieces, rows).
KERNEL __launch_bounds__(THREADS) likeliest(const float *logits, const Rank *ranks, int n, int k, Rank *out) {
  __shared__ Rank found[MOST];
  __shared__ uint32_t count;
  if (threadIdx.x == 0) count = 0;
  wait_for_inputs();
  let_next_begin();
  const size_t row = (size_t)blockIdx.y * n;
  const int piece = blockIdx.x * EACH * blockDim.x;
  Rank s[EACH];
  if (logits) {
#pragma unroll
    for (int i = 0; i < EACH; i += 4) {
      const int at = piece + i * blockDim.x + 4 * threadIdx.x;
      const float4 v = quad(logits + row, at, n);
      s[i] = at < n ? rank(v.x, at) : 0;
      s[i + 1] = at + 1 < n ? rank(v.y, at + 1) : 0;
      s[i + 2] = at + 2 < n ? rank(v.z, at + 2) : 0;
      s[i + 3] = at + 3 < n ? rank(v.w, at + 3) : 0;
    }
  } else {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int at = piece + i * blockDim.x + threadIdx.x;
      s[i] = at < n ? ranks[row + at] : 0;
    }
  }
  out += ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * k;
  if (k == 1) {
    const Rank best = largest(s);
    if (threadIdx.x == 0) *out = best;
    return;
  }
  const Rank from = least(s, k);
#pragma unroll
  for (int i = 0; i < EACH; i++)
    if (s[i] >= from) found[atomicAdd(&count, 1u)] = s[i];
  __syncthreads();
  const int have = count;
  for (int i = threadIdx.x; i < k; i += blockDim.x) {
    const Rank mine = i < have ? found[i] : 0;
    int place = i;
    if (gridDim.x == 1 && i < have) {
      place = 0;
      for (int j = 0; j < have; j++) place += found[j] > mine;
    }
    out[place] = mine;
  }
}
