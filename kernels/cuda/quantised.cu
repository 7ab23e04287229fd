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

#include "hopper.cuh"

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

#ifdef HOPPER
// The same for hopper.cuh: a warp's sixteen rows are a group. A lane has rows lane / 4 and 8 more, of sixteen columns 2 (lane % 4), the next one
// and those 8 to the right.
template <int L> struct PackedRows {
  using T = Packed<L>;
  using P = Layout<L>;
  static constexpr int GROUP = P::two_level ? 2 * T::CODES : T::UNIT; // bytes of a step
  static constexpr int RING = P::two_level ? 2 : 0;                   // units of which the scales are kept
  static constexpr int BYTES = 8 * (STAGES * GROUP + RING * T::SCALES);
  static constexpr bool is_signed = P::table || P::bits == 8;
  const uint8_t *w;
  uint8_t *shared;
  const uint8_t *codes, *scales;
  size_t next_group;
  int first, last, warp, row, c, step;
  uint32_t words[2][2];
  float s[2], base[2];

  __device__ __forceinline__ PackedRows(const Product &p, uint8_t *at, int warp, int lane)
      : w(p.w), shared(at), next_group((size_t)p.units * T::UNIT), first(blockIdx.y * 8), last((p.rows + 15) / 16 - 1), warp(warp), row(lane >> 2), c(lane & 3) {}
  // Of eight groups, `BYTES` bytes each from `offset`.
  template <int BYTES> __device__ __forceinline__ void copy(uint8_t *to, size_t offset) const {
#pragma unroll
    for (int first_part = 0; first_part < BYTES / 2; first_part += 256) {
      const int i = first_part + threadIdx.x, group = i / (BYTES / 16), part = i % (BYTES / 16);
      if (BYTES / 2 % 256 == 0 || i < BYTES / 2) copy16(to + 16 * i, w + min(first + group, last) * next_group + offset + 16 * part);
    }
  }
  __device__ __forceinline__ void copy(const Product &, int step) const {
    uint8_t *to = shared + step % STAGES * 8 * GROUP;
    if (!P::two_level) {
      copy<GROUP>(to, (size_t)step * T::UNIT);
      return;
    }
    const size_t unit = (size_t)(step / 4) * T::UNIT;
    copy<GROUP>(to, unit + T::SCALES + step % 4 * GROUP);
    if (step % 4 == 0) copy<T::SCALES>(shared + 8 * (STAGES * GROUP + step / 4 % 2 * T::SCALES), unit);
  }
  __device__ __forceinline__ void load(int at) {
    step = at;
    codes = shared + (step % STAGES * 8 + warp) * GROUP;
    scales = P::two_level ? shared + 8 * STAGES * GROUP + (step / 4 % 2 * 8 + warp) * T::SCALES : codes;
    if (!P::two_level) codes += T::SCALES;
  }
  static __device__ __forceinline__ uint32_t two_bytes(const uint8_t *at) { return *reinterpret_cast<const uint16_t *>(at); }
  // Two bits of each code from where the first two columns have theirs, and the others four bits higher.
  static __device__ __forceinline__ uint32_t two_bits(uint32_t v) { return (v & 0x0303u) | (v << 12 & 0x03030000u); }
  // Four codes of row r, columns 16 h and on, of a block.
  __device__ __forceinline__ uint32_t quad_of(const uint8_t *block, int i, int h) {
    constexpr int B = P::bits;
    const int r = row + 8 * i;
    if (B >= 4 && (h == 0 || B == 8)) {
      const uint8_t *at = block + (B == 8 ? 256 * h : 0) + 16 * r + 2 * c;
      words[i][0] = two_bytes(at) | two_bytes(at + 8) << 16;
    }
    uint32_t q = B == 8 ? words[i][0] ^ 0x80808080u : words[i][0] >> 4 * h & 0x0f0f0f0fu;
    const int pair = 2 * (c & 1), quarter = c >> 1; // which two bytes of a word of planes, and which quad
    if (B == 6) q |= two_bits(two_bytes(block + 256 + 8 * r + 4 * h + pair) >> 2 * quarter) << 4;
    if (B == 3 || B == 2) q = two_bits(two_bytes(block + 8 * r + 4 * h + pair) >> 2 * quarter);
    if (B == 5 || B == 3) {
      const uint32_t v = two_bytes(block + 64 * (B - 1) + 4 * r + pair) >> (4 * h + quarter);
      q |= ((v & 0x0101u) | (v << 14 & 0x01010000u)) << (B - 1);
    }
    return P::table ? looked_up<L>(q) : q;
  }
  __device__ __forceinline__ void scale_of(int i, int block, int h) {
    const int r = row + 8 * i;
    float min = 0.f;
    if (!P::two_level) {
      s[i] = Scales<L>::half(scales + 32 * block + 2 * r);
      if (P::min) min = Scales<L>::half(scales + 64 + 32 * block + 2 * r);
    } else {
      const int b = step % 4 * 2 + block, g = P::group == 32 ? b : 2 * b + h;
      const uint8_t *at = scales + 64 + T::GROUPS * r + g;
      const float d = Scales<L>::of_unit(scales, r);
      s[i] = d * (T::nibbles ? (float)(*at & 15) : Scales<L>::of_group(*at));
      if (P::min) min = Scales<L>::half(scales + 32 + 2 * r) * (float)(T::nibbles ? *at >> 4 : at[T::GROUPS * 16]);
    }
    base[i] = is_signed ? min : fmaf(s[i], 128.f + T::OFFSET, min);
    if (!is_signed) s[i] *= 128.f;
  }
  __device__ __forceinline__ void fragment(int k, uint32_t (&a)[4]) {
    const int block = k / 2, h = k % 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (h == 0 || P::group == 16) scale_of(i, block, h);
      const uint32_t q = quad_of(codes + block * T::CODES, i, h);
      float v[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        // A code below 128 in the upper bits of a float's mantissa is 1 + code / 128: no conversion, which GPUs do at a quarter of the speed.
        const float x = is_signed ? code_value<L>(q, j) : __uint_as_float(__byte_perm(q | 0x80808080u, 0x3f000000u, 0x7044 | j << 8));
        v[j] = fmaf(s[i], x, -base[i]);
      }
      a[i] = bf16_pair(v[0], v[1]);
      a[2 + i] = bf16_pair(v[2], v[3]);
    }
  }
};
template <int L, int N> __device__ __forceinline__ void gemm_wide(Product p, const Experts &experts, const Groups &groups) {
  BlockRows rows_of;
  if (block_rows<N>(p, experts, groups, rows_of)) gemm_hopper<N, PackedRows<L>>(p, rows_of);
}
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#if defined(TENSOR_CORES) && !defined(ONLY_HOPPER)
#define GEMM(L) \
  KERNEL __launch_bounds__(256) JOIN(gemm, L)(const Product p, const Experts e, const Groups g) { gemm<PackedTile<L>>(p, e, g); }
#else
#define GEMM(L)
#endif
#ifdef HOPPER
#define WIDE(L) \
  KERNEL __launch_bounds__(256, 2) JOIN(gemm128, L)(const Product p, const Experts e, const Groups g) { gemm_wide<L, 128>(p, e, g); } \
  KERNEL __launch_bounds__(256, 1) JOIN(gemm256, L)(const Product p, const Experts e, const Groups g) { gemm_wide<L, 256>(p, e, g); } \
  SHARED_BYTES(JOIN(shared_gemm128, L), HOPPER_SHARED<128, PackedRows<L>>) SHARED_BYTES(JOIN(shared_gemm256, L), HOPPER_SHARED<256, PackedRows<L>>)
#else
#define WIDE(L)
#endif
#ifdef TENSOR_CORES
// Registers: four blocks to a multiprocessor leave 64, three 80, two 128.
#define STAGED(L) \
  KERNEL __launch_bounds__(256, Layout<L>::bits < 6 ? 4 : 3) JOIN(matvec1, L)(const Product p) { matvec<L, AHEAD>(p, p.w, static_cast<const ActBlock *>(p.x), p.y, p.bias, 0); } \
  KERNEL __launch_bounds__(256, 3) JOIN(experts, L)(const Product p, const Experts e, const uint32_t *chosen, int per_row) { \
    wait_for_inputs(); \
    const Chosen own(p, e, chosen, per_row); \
    matvec<L, AHEAD>(p, own.w, own.x, own.y, own.bias, blockIdx.x); \
  } \
  KERNEL __launch_bounds__(256, 2) JOIN(batch8, L)(const Product p) { batch<L, 8>(p); } \
  KERNEL __launch_bounds__(256, 2) JOIN(batch16, L)(const Product p) { batch<L, 16>(p); } \
  KERNEL __launch_bounds__(256, 2) JOIN(batch32, L)(const Product p) { batch<L, 32>(p); } \
  SHARED_BYTES(JOIN(shared_matvec1, L), PARTS * AHEAD * Chunk<L>::STAGE) SHARED_BYTES(JOIN(shared_experts, L), PARTS * AHEAD * Chunk<L>::STAGE) \
  SHARED_BYTES(JOIN(shared_batch8, L), Batch<L, 8>::SHARED) SHARED_BYTES(JOIN(shared_batch16, L), Batch<L, 16>::SHARED) \
  SHARED_BYTES(JOIN(shared_batch32, L), Batch<L, 32>::SHARED)
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
    direct<L, 1>(p, own.w, own.x, own.y, own.bias, 1, blockIdx.x); \
  }
#else
#define DIRECT(L)
#endif
#define INSTANCES(L) \
  KERNEL JOIN(embed, L)(const uint8_t *w, int units, const uint32_t *tokens, float scale, float *out, int columns) { embed<L>(w, units, tokens, scale, out, columns); } \
  STAGED(L) DIRECT(L) GEMM(L) WIDE(L)
#ifdef LAYOUT
INSTANCES(LAYOUT)
#endif
