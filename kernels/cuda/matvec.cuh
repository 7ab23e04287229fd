// Products of generated rows with quantised weights, in 8-bit integers: y[t] = W x[t].
//
// Columns are cut into chunks of 256, and a chunk into two halves of four blocks of 32. The sum of an output: the blocks of the first
// halves of every eighth chunk, one after another; the same of the second halves; both added are one of eight parts; the parts in
// order. That is so for one row and for several, in all kernels here: which bits a row gets depends on the number of columns alone.
#pragma once
#include "activation.cuh"
#include "packed.cuh"

// What becomes of a product's outputs in the kernel that computes them.
struct Ending {
  Out out;    // of act(W x), all of whose rows are generated ones
  int kind;   // enum Activation
  int pieces; // 0: they go to y as they are; 1: they are activated; 2: W is gate | up, each of which fills its groups of rows
};

// What a product needs to know.
struct Product {
  const uint8_t *w;
  const void *x;      // ActBlock, bf16 or float, [rows of x, padded columns]
  float *y;           // [rows of x, stride], of which this weight has `rows` columns
  const float *bias;  // [rows], or null; of experts, those of the first, `stride` apart
  int units;          // of a row of W: of blocks of 64 or 256 columns
  int columns;        // of x, padded
  int rows;           // of W
  int stride;         // of y
  int n;              // rows of x
  int add;            // y += instead of y =
  Ending ending;
};

// The weights of a layer's experts. Kernel parameters hold at most 4 KiB.
struct Experts {
  const uint8_t *w[256];
};

// 256 columns of a group of sixteen rows of W.
template <int L> struct Chunk {
  using T = Packed<L>;
  static constexpr int UNITS = 8 / T::BLOCKS;
  static constexpr int BYTES = UNITS * T::UNIT;
  static constexpr int X = 8 * sizeof(ActBlock); // of a row of x
  static constexpr int STAGE = BYTES + X;
};
constexpr int PARTS = 8;
// Chunks that a warp copies ahead.
constexpr int AHEAD = 2;

// Scales and minimums of both 16 columns of a block.
struct BlockScales {
  float s[2], m[2];
};
template <int L> __device__ __forceinline__ BlockScales block_scales(const Scales<L> &scales, int block) {
  BlockScales b;
  scales.get(block, 0, b.s[0], b.m[0]);
  b.s[1] = b.s[0];
  b.m[1] = b.m[0];
  if (Layout<L>::group == 16) scales.get(block, 1, b.s[1], b.m[1]);
  return b;
}
// What the minimums of a block are multiplied by: sums of the activations.
template <int L> __device__ __forceinline__ void block_sums(float d0, float d1, int n0, int n1, float (&sums)[2]) {
  if (!Layout<L>::min) return;
  sums[0] = __fmul_rn(d0, (float)n0);
  if (Layout<L>::group == 16) sums[1] = __fmul_rn(d1, (float)n1);
  else sums[0] = fmaf(d1, (float)n1, sums[0]);
}
// Adds a block to an output, of which `a` and `b` are the integer products of both 16 columns.
template <int L>
__device__ __forceinline__ float add_block(float acc, const float (&s)[2], const float (&m)[2], float a, float b, float d0, float d1, const float (&sums)[2]) {
  if (Layout<L>::group == 16) {
    acc = fmaf(s[0], __fmul_rn(d0, a), acc);
    acc = fmaf(s[1], __fmul_rn(d1, b), acc);
    if (Layout<L>::min) acc = fmaf(-m[1], sums[1], fmaf(-m[0], sums[0], acc));
  } else {
    acc = fmaf(s[0], fmaf(d1, b, __fmul_rn(d0, a)), acc);
    if (Layout<L>::min) acc = fmaf(-m[0], sums[0], acc);
  }
  return acc;
}
// The same for a lane that has a row of the block.
template <int L>
__device__ __forceinline__ float add_block(float acc, const uint32_t (&words)[8], const BlockScales &scales, const ActBlock &x) {
  const int4 q0 = x.q[0], q1 = x.q[1];
  const float d0 = x.d[0], d1 = x.d[1];
  const int n0 = x.n[0], n1 = x.n[1];
  int a = -Packed<L>::OFFSET * n0, b = -Packed<L>::OFFSET * n1;
  a = __dp4a((int)quad<L>(words, 0), q0.x, a);
  a = __dp4a((int)quad<L>(words, 1), q0.y, a);
  a = __dp4a((int)quad<L>(words, 2), q0.z, a);
  a = __dp4a((int)quad<L>(words, 3), q0.w, a);
  b = __dp4a((int)quad<L>(words, 4), q1.x, b);
  b = __dp4a((int)quad<L>(words, 5), q1.y, b);
  b = __dp4a((int)quad<L>(words, 6), q1.z, b);
  b = __dp4a((int)quad<L>(words, 7), q1.w, b);
  float sums[2];
  block_sums<L>(d0, d1, n0, n1, sums);
  return add_block<L>(acc, scales.s, scales.m, (float)a, (float)b, d0, d1, sums);
}

// Output `r` of W: `part(k)` is its part k.
template <class F> __device__ __forceinline__ float sum_parts(const float *bias, int r, int parts, F part) {
  float sum = bias ? bias[r] : 0.f;
  for (int k = 0; k < parts; k++) sum += part(k);
  return sum;
}
// Ends a product for output `r` of row `t` of x.
template <class F> __device__ __forceinline__ void write_sum(const Product &p, float *y, const float *bias, int r, int t, int parts, F part) {
  const float sum = sum_parts(bias, r, parts, part);
  float *out = y + (size_t)t * p.stride + r;
  *out = p.add ? *out + sum : sum;
}
// Ends an activated product: called by a whole warp for two times 16 outputs of rows of x that may differ, of which a lane has `c` of row `t`, or
// none where it is not `live`. `part(i, k)` is part k of the output in piece i.
template <class F> __device__ __forceinline__ void write_activated(const Product &p, const float *bias, int c, int t, bool live, int parts, F part) {
  const Out &o = p.ending.out;
  const int kind = p.ending.kind;
  float v = 0.f;
  if (c < o.width) {
    const float x = sum_parts(bias, c, parts, [&](int k) { return part(0, k); });
    if (p.ending.pieces == 1) v = activated(kind, x);
    else v = activated(kind, x, sum_parts(bias, o.width + c, parts, [&](int k) { return part(1, k); }));
    if (live && o.f) o.f[(size_t)t * o.width + c] = v;
  }
  emit_int8(o, t, c, v, live);
  if (!live || (c | 15) < o.width - 1) return;
  // The last ones: zeros after the width.
  for (c += 16; c < o.padded; c += 16) {
    ActBlock &block = o.q[((size_t)t * o.padded + c) >> 5];
    reinterpret_cast<int8_t *>(block.q)[c & 31] = 0;
    if (c & 15) continue;
    block.d[c >> 4 & 1] = 0.f;
    block.n[c >> 4 & 1] = 0;
  }
}
// The group of rows of W of which this block computes piece `i`, where a block has one group of each piece.
__device__ __forceinline__ int group_of(int i) { return blockIdx.y + i * gridDim.y; }

// Up to N rows of x, read as they lie: for GPUs without asynchronous copies. A warp has every eighth chunk, half a warp half a chunk of a
// group, a lane a row. Block: a warp for each chunk, at most eight. `to`: the row of what is activated that the first row of x has.
template <int L, int N>
__device__ __forceinline__ void direct(const Product &p, const uint8_t *w, const ActBlock *x, float *y, const float *bias, int n, int to) {
  using T = Packed<L>;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, pieces = max(p.ending.pieces, 1);
  const int row = lane & 15, half = lane >> 4, blocks = T::blocks(p.units, p.columns), x_blocks = p.columns / 32;
  __shared__ float part[2][PARTS][N][16];
#pragma unroll 1
  for (int piece = 0; piece < pieces; piece++) {
    const uint8_t *group = w + (size_t)group_of(piece) * p.units * T::UNIT;
    float acc[N];
#pragma unroll
    for (int t = 0; t < N; t++) acc[t] = 0.f;
    for (int first = 8 * warp; first < blocks PLANT_LAST_UNIT; first += 8 * warps) {
      Scales<L> scales;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int at = first + 4 * half + i, block = at % T::BLOCKS;
        if (at >= blocks) break;
        const uint8_t *unit = group + (size_t)(at / T::BLOCKS) * T::UNIT;
        if (i == 0 || !Layout<L>::two_level) scales.load(unit, row, block);
        uint32_t words[8];
        load_words<L>(unit + T::SCALES + block * T::CODES, row, words);
        const BlockScales of = block_scales<L>(scales, block);
#pragma unroll
        for (int t = 0; t < N; t++)
          if (N == 1 || t < n) acc[t] = add_block<L>(acc[t], words, of, x[(size_t)t * x_blocks + at]);
      }
    }
#pragma unroll
    for (int t = 0; t < N; t++) {
      const float sum = acc[t] + __shfl_xor_sync(ALL, acc[t], 16);
      if (half == 0) part[piece][warp][t][row] = sum;
    }
  }
#ifndef PLANT_PARTS_BARRIER
  __syncthreads();
#endif
  for (int i = threadIdx.x; i < max(16 * N, 32); i += blockDim.x) {
    const int t = i >> 4, r = blockIdx.y * 16 + (i & 15);
    if (p.ending.pieces)
      write_activated(p, bias, r, to + t, t < n, warps, [&](int piece, int k) { return part[piece][k][min(t, N - 1)][i & 15]; });
    else if (t < n && r < p.rows) write_sum(p, y, bias, r, t, warps, [&](int k) { return part[0][k][t][i & 15]; });
  }
}
// Grid (chunks of N rows of x, groups of W).
template <int L, int N> __device__ __forceinline__ void direct(const Product &p) {
  const int first = blockIdx.x * N;
  direct<L, N>(p, p.w, static_cast<const ActBlock *>(p.x) + (size_t)first * (p.columns / 32), p.y + (size_t)first * p.stride, p.bias, min(N, p.n - first), first);
}

// Which product of `experts` a block computes: y[i] = W[chosen[i]] x[i / per_row]. Grid (chosen, groups of W).
struct Chosen {
  const uint8_t *w;
  const ActBlock *x;
  float *y;
  const float *bias;
  __device__ __forceinline__ Chosen(const Product &p, const Experts &experts, const uint32_t *chosen, int per_row) {
    const int i = blockIdx.x;
    const uint32_t expert = chosen[i];
    w = experts.w[expert];
    x = static_cast<const ActBlock *>(p.x) + (size_t)(i / per_row) * (p.columns / 32);
    y = p.y + (size_t)i * p.stride;
    bias = p.bias ? p.bias + (size_t)expert * p.stride : nullptr;
  }
};

#ifdef TENSOR_CORES
// One row of x, split over warps and lanes as above. A warp copies two chunks ahead to shared memory of its own, weights before it waits for
// the kernel that computes x, and x after. An H100 reads 3 TB/s where each multiprocessor has 20 KB on their way; a block has up to 44 KB
// (Q4_K), of which five fit. Instructions for a chunk of Q4_K: 5 copies, 16 loads of x and codes, 48 to unpack, 32 dp4a, about 110 others: 26 % of the
// issue slots at full bandwidth.
// Of gate | up a block has a group of each, gate's chunks first: as many bytes are on their way, to half as many blocks.
template <int L, int AHEAD>
__device__ __forceinline__ void matvec(const Product &p, const uint8_t *w, const ActBlock *x, float *y, const float *bias, int to) {
  using T = Packed<L>;
  using C = Chunk<L>;
  DYNAMIC_SHARED(shared);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, pieces = max(p.ending.pieces, 1);
  const int row = lane & 15, half = lane >> 4, blocks = T::blocks(p.units, p.columns), chunks = (blocks + 7) / 8;
  // No more stages than a warp has chunks: the rest is not allocated.
  uint8_t *ring = shared + warp * min(AHEAD, pieces * ((chunks + warps - 1) / warps)) * C::STAGE;
  // A chunk of a piece, and the next one of this warp.
  struct Place {
    int piece, chunk;
  };
  const auto after = [&](Place at) {
    at.chunk += warps;
    if (at.chunk >= chunks) at.chunk = warp, at.piece++;
    return at;
  };
  const auto copy_weights = [&](Place at, int stage) {
    const int bytes = min(C::UNITS, p.units - at.chunk * C::UNITS) * T::UNIT;
    const uint8_t *from = w + (size_t)group_of(at.piece) * p.units * T::UNIT + (size_t)at.chunk * C::BYTES;
#pragma unroll
    for (int i = 0; i < C::BYTES; i += 512)
      if (i + 16 * lane < bytes) copy16(ring + stage * C::STAGE + i + 16 * lane, from + i + 16 * lane);
  };
  const auto copy_x = [&](int chunk, int stage) {
    if (lane < 3 * min(8, blocks - 8 * chunk))
      copy16(ring + stage * C::STAGE + C::BYTES + 16 * lane, reinterpret_cast<const uint8_t *>(x) + chunk * C::X + 16 * lane);
  };
  const Place first = {0, warp};
  Place ahead = first;
#pragma unroll
  for (int s = 0; s < AHEAD; s++, ahead = after(ahead))
    if (ahead.piece < pieces) copy_weights(ahead, s);
  let_next_begin();
  wait_for_inputs();
  ahead = first;
#pragma unroll
  for (int s = 0; s < AHEAD; s++, ahead = after(ahead)) {
    if (ahead.piece < pieces) copy_x(ahead.chunk, s);
    copy_commit();
  }
  __shared__ float part[2][PARTS][16];
  float acc = 0.f;
  Place now = first;
  int left = pieces * ((chunks - warp + warps - 1) / warps) PLANT_LAST_UNIT;
  for (int stage = 0; left > 0; left--, stage = (stage + 1) % AHEAD) {
    copy_wait<AHEAD - 1>();
    __syncwarp();
    const uint8_t *codes = ring + stage * C::STAGE;
    const ActBlock *of_x = reinterpret_cast<const ActBlock *>(codes + C::BYTES);
    Scales<L> scales;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int at = 4 * half + i, block = at % T::BLOCKS;
      if (T::OPEN && 8 * now.chunk + at >= blocks) break;
      const uint8_t *unit = codes + at / T::BLOCKS * T::UNIT;
      if (i == 0 || !Layout<L>::two_level) scales.load(unit, row, block);
      uint32_t words[8];
      load_words<L>(unit + T::SCALES + block * T::CODES, row, words);
      acc = add_block<L>(acc, words, block_scales<L>(scales, block), of_x[at]);
    }
    __syncwarp();
    if (ahead.piece < pieces) {
      copy_weights(ahead, stage);
      copy_x(ahead.chunk, stage);
    }
    copy_commit();
    ahead = after(ahead);
    const Place next = after(now);
    if (next.piece != now.piece) {
      const float sum = acc + __shfl_xor_sync(ALL, acc, 16);
      if (half == 0) part[now.piece][warp][row] = sum;
      acc = 0.f;
    }
    now = next;
  }
#ifndef PLANT_PARTS_BARRIER
  __syncthreads();
#endif
  if (warp) return;
  const int r = blockIdx.y * 16 + row;
  if (p.ending.pieces) write_activated(p, bias, r, to, half == 0, warps, [&](int piece, int k) { return part[piece][k][row]; });
  else if (half == 0 && r < p.rows) write_sum(p, y, bias, r, 0, warps, [&](int k) { return part[0][k][row]; });
}

// Up to N rows of x on tensor cores, in integers, so that each row has the bits that it has alone.
//
// A block has 32 rows of W. Its warps are SPLIT sets, each of which has PARTS / SPLIT of the parts and copies half a chunk of W and of x ahead
// at a time; a warp of a set has 16 rows of W by 8 or 16 of x. Instructions for 16 rows of W by 8 of x by 32 columns: 2 mma, 8 to make floats
// of integers, 16 to scale and add them, 4 loads of x, up to 8 for sums, 12 for scales and codes.
template <int L, int N> struct Batch {
  using T = Packed<L>;
  static constexpr int GROUPS = 2;                          // of 16 rows of W
  static constexpr int TILES = N == 8 ? 1 : 2;              // of eight rows of x, of a warp
  static constexpr int SIDES = N / (8 * TILES);             // warps side by side over x
  static constexpr int WARPS = GROUPS * SIDES;              // of a set
  static constexpr int SPLIT = 8 / WARPS;
  static constexpr int ROOM = Chunk<L>::BYTES / 2 + 160;    // half a chunk: of two levels with all scales
  static constexpr int PIECE = Layout<L>::two_level ? T::SCALES + 4 * T::CODES : 2 * T::UNIT;
  static constexpr int X_STRIDE = Chunk<L>::X / 2 + 16;     // padded: eight rows lie in different banks
  static constexpr int STAGE = GROUPS * ROOM + N * X_STRIDE;
  static constexpr int SHARED = SPLIT * 2 * STAGE + PARTS * N * 32 * 4; // bytes: two stages of each set, and all parts of outputs
  static_assert(PIECE <= ROOM, "half a chunk has room");
};

// Half chunks of parts `part` up to `end`, in the order in which they are added.
struct Cursor {
  int part, end, chunks, chunk, half;
  __device__ __forceinline__ Cursor(int part, int end, int chunks) : part(part), end(end), chunks(chunks), chunk(part), half(0) {}
  __device__ __forceinline__ bool valid() const { return part < end && part < chunks; }
  __device__ __forceinline__ bool last_of_half() const { return chunk + PARTS >= chunks; }
  __device__ __forceinline__ void next() {
    chunk += PARTS;
    if (chunk < chunks) return;
    part += half;
    half ^= 1;
    chunk = part;
  }
};

// An integer of 22 bits added to these is the bits of a float: conversions take GPUs several times as long as a subtraction.
constexpr int FLOAT_BITS = 0x4b400000;
__device__ __forceinline__ float float_of(int bits) { return __uint_as_float((uint32_t)bits) - 12582912.f; }

// Words of a row's codes of which quads 0 and 4 are quads `j` and 4 + `j` of the row: what a lane has of a fragment.
template <int L> __device__ __forceinline__ void load_quads(const uint8_t *block, int row, int j, uint32_t (&low_high)[2]) {
  constexpr int B = Layout<L>::bits;
  const auto word = [&](int plane, int words, int i) { return *reinterpret_cast<const uint32_t *>(block + 64 * plane + 4 * (words * row + i)); };
  uint32_t w[8];
  if (B >= 4) w[0] = word(0, 4, j);
  if (B == 8) w[4] = word(4, 4, j);
  if (B == 6 || B == 3 || B == 2) {
    constexpr int first = B == 6 ? 4 : 0;
    const uint2 v = *reinterpret_cast<const uint2 *>(block + 64 * first + 8 * row);
    w[first] = v.x >> 2 * j;
    w[first + 1] = v.y >> 2 * j;
  }
  if (B == 5 || B == 3) w[B - 1] = word(B - 1, 1, 0) >> j;
  low_high[0] = quad<L>(w, 0);
  low_high[1] = quad<L>(w, 4);
  // As signed bytes less the offset, for which the sums of x are not needed then.
  if (Packed<L>::OFFSET)
    for (int i = 0; i < 2; i++) low_high[i] = (low_high[i] + (128 - Packed<L>::OFFSET) * 0x01010101u) ^ 0x80808080u;
}

// Grid (chunks of N rows of x, pairs of groups of W, of gate | up one of each); 256 threads.
template <int L, int N> __device__ __forceinline__ void batch(const Product &p) {
  using T = Packed<L>;
  using B = Batch<L, N>;
  constexpr bool two_level = Layout<L>::two_level;
  DYNAMIC_SHARED(shared);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int set = warp / B::WARPS, group = warp % B::GROUPS, side = warp % B::WARPS / B::GROUPS;
  const int blocks = T::blocks(p.units, p.columns), chunks = (blocks + 7) / 8, x_blocks = p.columns / 32;
  const bool gated = p.ending.pieces == 2;
  const int first = blockIdx.x * N, n = min(N, p.n - first), groups = (p.rows + 15) / 16;
  const ActBlock *x = static_cast<const ActBlock *>(p.x) + (size_t)first * x_blocks;
  uint8_t *ring = shared + set * 2 * B::STAGE;
  // Parts of outputs, [PARTS][N][32].
  float *parts = reinterpret_cast<float *>(shared + B::SPLIT * 2 * B::STAGE);
  const int thread = threadIdx.x % (32 * B::WARPS);
  const auto copy_weights = [&](const Cursor &of, int stage) {
    if (!of.valid()) return;
    const int unit = two_level ? of.chunk : 4 * of.chunk + 2 * of.half;
    const int bytes = two_level ? B::PIECE : min(2, p.units - unit) * T::UNIT;
    for (int i = thread; i < B::GROUPS * B::PIECE / 16; i += 32 * B::WARPS) {
      const int g = i / (B::PIECE / 16), at = 16 * (i % (B::PIECE / 16));
      if (at >= bytes) continue;
      const uint8_t *from = p.w + ((size_t)min(gated ? group_of(g) : (int)blockIdx.y * B::GROUPS + g, groups - 1) * p.units + unit) * T::UNIT;
      copy16(ring + stage * B::STAGE + g * B::ROOM + at, from + at + (two_level && at >= T::SCALES ? of.half * 4 * T::CODES : 0));
    }
  };
  const auto copy_x = [&](const Cursor &of, int stage) {
    if (!of.valid()) return;
    const int block = 8 * of.chunk + 4 * of.half;
    for (int i = thread; i < N * 12; i += 32 * B::WARPS) {
      const int t = i / 12, at = i % 12;
      // Rows past the end repeat the last one and are not written.
      if (block + at / 3 < blocks)
        copy16(ring + stage * B::STAGE + B::GROUPS * B::ROOM + t * B::X_STRIDE + 16 * at,
               reinterpret_cast<const uint8_t *>(x + (size_t)min(t, n - 1) * x_blocks + block) + 16 * at);
    }
  };
  const int each = PARTS / B::SPLIT;
  Cursor now(set * each, set * each + each, chunks), ahead = now;
  // The first set has the most to do; all pass its barriers.
  Cursor most(0, each, chunks);
  copy_weights(ahead, 0);
  let_next_begin();
  wait_for_inputs();
  copy_x(ahead, 0);
  copy_commit();
  const int r = lane >> 2, j = lane & 3;
  float acc[B::TILES][4] = {}, halves[B::TILES][4];
  for (int stage = 0; most.valid(); most.next(), stage ^= 1) {
    copy_wait<0>();
    __syncthreads();
    ahead.next();
    copy_weights(ahead, stage ^ 1);
    copy_x(ahead, stage ^ 1);
    copy_commit();
    if (!now.valid()) continue;
    const uint8_t *of_w = ring + stage * B::STAGE + group * B::ROOM;
    const uint8_t *of_x = ring + stage * B::STAGE + B::GROUPS * B::ROOM;
    Scales<L> scales[2];
#pragma unroll
    for (int b = 0; b < 4; b++) {
      const int block = two_level ? 4 * now.half + b : b & 1;
      if (T::OPEN && 8 * now.chunk + 4 * now.half + b >= blocks) break;
      const uint8_t *unit = two_level ? of_w : of_w + (b >> 1) * T::UNIT;
      const uint8_t *codes = unit + T::SCALES + (two_level ? b : b & 1) * T::CODES;
      BlockScales s[2];
      uint32_t a[2][2];
#pragma unroll
      for (int k = 0; k < 2; k++) {
        if (b == 0 || !two_level) scales[k].load(unit, r + 8 * k, block);
        s[k] = block_scales<L>(scales[k], block);
        load_quads<L>(codes, r + 8 * k, j, a[k]);
      }
#pragma unroll
      for (int tile = 0; tile < B::TILES; tile++) {
        const int t = 8 * (side * B::TILES + tile);
        if (t >= n) break;
        const uint8_t *q = of_x + (t + r) * B::X_STRIDE + 48 * b + 4 * j;
        int low[4], high[4];
        mma_int8(low, a[0][0], a[1][0], *reinterpret_cast<const uint32_t *>(q), FLOAT_BITS);
        mma_int8(high, a[0][1], a[1][1], *reinterpret_cast<const uint32_t *>(q + 16), FLOAT_BITS);
#pragma unroll
        for (int c = 0; c < 2; c++) {
          // d and n of a block.
          const int4 of = *reinterpret_cast<const int4 *>(of_x + (t + 2 * j + c) * B::X_STRIDE + 48 * b + 32);
          const float d0 = __uint_as_float(of.x), d1 = __uint_as_float(of.y);
          float sums[2];
          block_sums<L>(d0, d1, of.z, of.w, sums);
#pragma unroll
          for (int k = 0; k < 2; k++)
            acc[tile][2 * k + c] = add_block<L>(acc[tile][2 * k + c], s[k].s, s[k].m, float_of(low[2 * k + c]), float_of(high[2 * k + c]), d0, d1, sums);
        }
      }
    }
    if (now.last_of_half()) {
#pragma unroll
      for (int tile = 0; tile < B::TILES; tile++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int t = 8 * (side * B::TILES + tile) + 2 * j + (e & 1);
          if (now.half) parts[(now.part * N + t) * 32 + 16 * group + r + 8 * (e >> 1)] = halves[tile][e] + acc[tile][e];
          else halves[tile][e] = acc[tile][e];
          acc[tile][e] = 0.f;
        }
    }
    now.next();
  }
#ifndef PLANT_PARTS_BARRIER
  __syncthreads();
#endif
  if (p.ending.pieces) {
    const int outputs = gated ? 16 : 32;
    for (int i = threadIdx.x; i < outputs * N; i += blockDim.x) {
      const int t = i / outputs, c = i % outputs;
      write_activated(p, p.bias, blockIdx.y * outputs + c, first + t, t < n, min(PARTS, chunks),
                      [&](int piece, int k) { return parts[(k * N + t) * 32 + 16 * piece + c]; });
    }
    return;
  }
  for (int i = threadIdx.x; i < 32 * N; i += blockDim.x) {
    const int t = i >> 5, to = blockIdx.y * 32 + (i & 31);
    if (t < n && to < p.rows)
      write_sum(p, p.y + (size_t)first * p.stride, p.bias, to, t, min(PARTS, chunks), [&](int k) { return parts[k * 32 * N + i]; });
  }
}
#endif
