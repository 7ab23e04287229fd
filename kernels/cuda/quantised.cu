// Products with quantised weights and the embedding look-up, for each layout of layouts.cuh. Compiled once per layout (-DLAYOUT=n) into
// a module of its own, so that only those that a model needs are loaded; the emulator instantiates all.
#include "matvec.cuh"

// out[i] = scale * W[tokens[i]]; bit-equal to the stored row dequantised. Grid: rows; a thread has four columns.
template <int L> __device__ __forceinline__ void embed(const uint8_t *w, int units, const uint32_t *tokens, float scale, float *out, int columns) {
  using T = Packed<L>;
  wait_for_inputs();
  let_next_begin();
  const uint32_t token = tokens[blockIdx.x];
  const uint8_t *group = w + (size_t)(token / 16) * units * T::UNIT;
  const int row = token % 16;
  for (int q = threadIdx.x; q < columns / 4; q += blockDim.x) {
    const int u = q / (T::BLOCKS * 8), block = q / 8 % T::BLOCKS, j = q % 8;
    const uint8_t *unit = group + (size_t)u * T::UNIT;
    Scales<L> scales;
    scales.load(unit, row, block);
    uint32_t words[8];
    load_words<L>(unit + T::SCALES + block * T::CODES, row, words);
    float s, m;
    scales.get(block, j / 4, s, m);
    const uint32_t codes = quad<L>(words, j);
    for (int i = 0; i < 4; i++)
      out[(size_t)blockIdx.x * columns + 4 * q + i] = scale * __fsub_rn(__fmul_rn(s, code_value<L>(codes, i)), m);
  }
}

#include "gemm.cuh"

// A row's 16 columns from 16 `half` of block `block`, as bf16.
template <int L> struct PackedTile {
  using T = Packed<L>;
  Scales<L> scales;
  uint32_t words[8];
  __device__ __forceinline__ void load(const Product &p, int group, int block, int row, int half) {
    const uint8_t *unit = p.w + ((size_t)group * p.units + block / T::BLOCKS) * T::UNIT;
    scales.load(unit, row, block % T::BLOCKS);
    load_words<L>(unit + T::SCALES + block % T::BLOCKS * T::CODES, row, words);
  }
  __device__ __forceinline__ void store(uint32_t (&to)[8], int block, int half) const {
    float s, m;
    scales.get(block % T::BLOCKS, half, s, m);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t low = quad<L>(words, i), high = quad<L>(words, 4 + i), codes = half ? high : low;
      float v[4];
#pragma unroll
      for (int k = 0; k < 4; k++) v[k] = fmaf(s, code_value<L>(codes, k), -m);
      to[2 * i] = bf16_pair(v[0], v[1]);
      to[2 * i + 1] = bf16_pair(v[2], v[3]);
    }
  }
};

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#ifdef TENSOR_CORES
#define GEMM(L) \
  KERNEL __launch_bounds__(256) JOIN(gemm, L)(const Product p, const Experts e, const Groups g) { gemm<PackedTile<L>>(p, e, g); }
#else
#define GEMM(L)
#endif
#ifdef TENSOR_CORES
// Registers: four blocks to a multiprocessor leave 64, three 80, two 128.
#define STAGED(L) \
  KERNEL __launch_bounds__(256, Layout<L>::bits < 6 ? 4 : 3) JOIN(matvec1, L)(const Product p) { matvec<L, AHEAD>(p, p.w, static_cast<const ActBlock *>(p.x), p.y, p.bias); } \
  KERNEL __launch_bounds__(256, 3) JOIN(experts, L)(const Product p, const Experts e, const uint32_t *chosen, int per_row) { \
    wait_for_inputs(); \
    const Chosen own(p, e, chosen, per_row); \
    matvec<L, AHEAD>(p, own.w, own.x, own.y, own.bias); \
  } \
  KERNEL __launch_bounds__(256, 2) JOIN(batch8, L)(const Product p) { batch<L, 8>(p); } \
  KERNEL __launch_bounds__(256, 2) JOIN(batch16, L)(const Product p) { batch<L, 16>(p); } \
  KERNEL __launch_bounds__(256, 2) JOIN(batch32, L)(const Product p) { batch<L, 32>(p); }
#else
#define STAGED(L)
#endif
#if defined(CUDA_EMULATED) || !defined(TENSOR_CORES)
// Without a number of blocks, ptxas spills a few registers on some GPUs to fit one more.
#define DIRECT(L) \
  KERNEL __launch_bounds__(256, 3) JOIN(direct1, L)(const Product p) { direct<L, 1>(p); } \
  KERNEL __launch_bounds__(256, 3) JOIN(direct8, L)(const Product p) { direct<L, 8>(p); } \
  KERNEL __launch_bounds__(256, 2) JOIN(direct_experts, L)(const Product p, const Experts e, const uint32_t *chosen, int per_row) { \
    const Chosen own(p, e, chosen, per_row); \
    direct<L, 1>(p, own.w, own.x, own.y, own.bias, 1); \
  }
#else
#define DIRECT(L)
#endif
#define INSTANCES(L) \
  KERNEL JOIN(embed, L)(const uint8_t *w, int units, const uint32_t *tokens, float scale, float *out, int columns) { embed<L>(w, units, tokens, scale, out, columns); } \
  STAGED(L) DIRECT(L) GEMM(L)
#ifdef LAYOUT
INSTANCES(LAYOUT)
#endif
