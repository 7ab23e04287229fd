// Draws the tokens of a step. A block finds the `k` likeliest of its piece by their digits, and the last pass, of one block, sorts them and draws. A piece
// is small in the first pass, for many blocks to read the logits, and large in the later ones.
#include "common.cuh"
#include <cfloat>
#include <cmath>

// Elements that a thread keeps, and threads at most.
constexpr int EACH = 8;
constexpr int THREADS = 1024;
// Tokens that it can find: MOST of crates/cuda.
constexpr int MOST = 256;
typedef unsigned long long Rank;

// A logit and its token as one number: larger is likelier, and of equals the lower token; -0 equals 0. What is no number comes first, so that it is seen.
__device__ __forceinline__ Rank rank(float logit, uint32_t token) {
  logit = __fadd_rn(logit, 0.f);
  const uint32_t bits = __float_as_uint(logit);
  const uint32_t ordered = logit != logit ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (Rank)ordered << 32 | (uint32_t)~token;
}
// The other way. What was no number is none again.
__device__ __forceinline__ float logit(Rank rank) {
  const uint32_t ordered = (uint32_t)(rank >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
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

// How the tokens of a step are drawn, as `Draw` of crates/core says; what only the host's `ln` can tell, it did.
struct Draws {
  const float *temperature; // 0: the likeliest
  const uint32_t *top_k;
  const float *top_p;
  const float *below; // how much less than the largest logit: ln of min-p
  const uint32_t *low, *high; // of what is random, as a double
};
// No tokens, but what is wrong with the logits: as in crates/cuda.
constexpr uint32_t NOT_FINITE = 0xffffffffu, NONE_LEFT = 0xfffffffeu;

// Weight of a token in a softmax, as `weight` of crates/gen computes it: 2^40 e^x for x up to 0. Each operation is rounded, by itself.
__device__ __forceinline__ Rank weight(float x) {
  x = fmaxf(x, -40.f);
  const int n = __float2int_rn(__fmul_rn(x, 1.44269504088896341f));
  const float r = __fsub_rn(__fsub_rn(x, __fmul_rn((float)n, 0.6933594f)), __fmul_rn((float)n, -2.1219444e-4f));
  const float terms[7] = {1.f / 720.f, 1.f / 120.f, 1.f / 24.f, 1.f / 6.f, 0.5f, 1.f, 1.f};
  float e = 1.f / 5040.f;
#pragma unroll
  for (int i = 0; i < 7; i++) e = __fadd_rn(__fmul_rn(e, r), terms[i]);
  return (Rank)__fmul_rn(e, 16777216.f) << 16 >> -n;
}

// Ranks of a row, the largest first, of which a warp draws.
struct Choice {
  const Rank *ranks;
  float most; // the largest logit
  __device__ __forceinline__ Rank share(int i, float temperature) const { return weight(__fdiv_rn(__fsub_rn(logit(ranks[i]), most), temperature)); }
  // All of the first `n` together.
  __device__ __forceinline__ Rank total(int n, float temperature) const {
    Rank sum = 0;
    for (int i = threadIdx.x & 31; i < n; i += 32) sum += share(i, temperature);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(ALL, sum, o);
    return sum;
  }
  // The first of them that reaches `goal` together with those before it; the last one if none does.
  __device__ __forceinline__ int reach(int n, float temperature, Rank goal) const {
    const int lane = threadIdx.x & 31;
    Rank before = 0;
    for (int first = 0; first < n; first += 32) {
      Rank upto = first + lane < n ? share(first + lane, temperature) : 0;
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        const Rank left = __shfl_up_sync(ALL, upto, o);
        if (lane >= o) upto += left;
      }
      upto += before;
      const uint32_t there = __ballot_sync(ALL, upto >= goal);
      if (there) return first + __ffs(there) - 1;
      before = __shfl_sync(ALL, upto, 31);
    }
    return n - 1;
  }
  // How many of the first `n` are `least` or more: those in front. Where there is no rank, its logit is NaN.
  __device__ __forceinline__ int from(int n, float least) const {
    int count = 0;
    for (int i = threadIdx.x & 31; i < n; i += 32) count += logit(ranks[i]) >= least;
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) count += __shfl_xor_sync(ALL, count, o);
    return count;
  }
};

// The token of the largest rank, if it has one.
__device__ __forceinline__ uint32_t likeliest(Rank best) {
  const float most = logit(best);
  if (!best || most == -INFINITY) return NONE_LEFT;
  return most < INFINITY ? ~(uint32_t)best : NOT_FINITE;
}
// The token of row `row`, of whose ranks there are `k`, by one warp: the chain of crates/gen/src/sample.
__device__ __forceinline__ uint32_t token(const Rank *ranks, int k, const Draws &draws, int row) {
  const float temperature = draws.temperature[row];
  const uint32_t best = likeliest(ranks[0]);
  if (temperature == 0.f || best == NOT_FINITE || best == NONE_LEFT) return best;
  const Choice c = {ranks, logit(ranks[0])};
  int n = c.from(min(k, (int)draws.top_k[row]), -FLT_MAX);
  const float p = draws.top_p[row];
  if (p < 1.f) n = c.reach(n, 1.f, __double2ull_ru(__dmul_rn((double)p, __ull2double_rn(c.total(n, 1.f))))) + 1;
  n = c.from(n, __fadd_rn(c.most, draws.below[row]));
  const double unit = __hiloint2double(draws.high[row], draws.low[row]);
  return ~(uint32_t)ranks[c.reach(n, temperature, __double2ull_rz(__dmul_rn(unit, __ull2double_rn(c.total(n, temperature)))) + 1)];
}

// The `k` largest of each piece of a row of `n`: of logits, or of the ranks that this made of them, 0 for none; the last pass, of one piece, draws a token of
// them. A block has a piece of EACH elements for each of its threads. Grid (pieces, rows).
KERNEL __launch_bounds__(THREADS) draw(const float *logits, const Rank *ranks, int n, int k, Rank *out, const Draws draws, uint32_t *tokens) {
  __shared__ Rank found[MOST], sorted[MOST];
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
  const bool last = gridDim.x == 1;
  out += ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * k;
  if (k == 1) {
    const Rank best = largest(s);
    if (threadIdx.x == 0) {
      if (last) tokens[blockIdx.y] = likeliest(best);
      else *out = best;
    }
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
    if (last && i < have) {
      place = 0;
      for (int j = 0; j < have; j++) place += found[j] > mine;
    }
    (last ? sorted : out)[place] = mine;
  }
  if (!last) return;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const uint32_t drawn = token(sorted, k, draws, blockIdx.y);
  if (threadIdx.x == 0) tokens[blockIdx.y] = drawn;
}
