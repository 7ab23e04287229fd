// Quantised weights as kinfer_kernels::pack lays them out, turned for GPUs (crates/cuda/src/weight.rs): sixteen rows form a group, a
// group is a sequence of units of 64 columns (256 where scales have two levels), a unit is `scales | codes`. What belongs to
// a row lies together, so that a lane, which has a row, reads it with few wide loads, and sixteen lanes read consecutive bytes:
//   scales, one level:   d [2 blocks][16 rows] f16, with minimums another such array
//   scales, two levels:  d [16] f16, dmin [16] f16 (or d [16] f32), then [16 rows][256 / group] bytes, with minimums another such array
//   codes of 32 columns: planes of 4, 2 and 1 words to a row, [16 rows][words], as many words together as a code has bits
#pragma once
#include "common.cuh"
#include "layouts.cuh"

template <int L> struct Packed {
  using P = Layout<L>;
  static constexpr int BLOCKS = P::two_level ? 8 : 2; // of 32 columns, in a unit
  static constexpr int GROUPS = 256 / P::group;       // scales of a two-level unit
  static constexpr bool nibbles = P::two_level && P::min && P::bits == 2;
  static constexpr int SCALES = P::two_level ? 64 + (P::min && !nibbles ? 2 : 1) * GROUPS * 16 : P::min ? 128 : 64;
  static constexpr int CODES = 64 * P::bits;
  // Whether a row's columns may end within a unit, or half a chunk, of which the rest is not multiplied.
  static constexpr bool OPEN = !P::two_level || P::e4m3;
  // Blocks of a row that are multiplied. Where scales have two levels, only E4M3 ones are of rows that end within a unit.
  static __device__ __forceinline__ int blocks(int units, int columns) { return P::e4m3 ? columns / 32 : units * BLOCKS; }
  static constexpr int UNIT = SCALES + BLOCKS * CODES;
  // Added to the dot product for each activation: codes are stored without sign, and 8-bit ones and tables are made signed.
  static constexpr int OFFSET = P::min || P::table || P::bits == 8 ? 0 : P::offset;
};

__device__ __forceinline__ uint32_t byte_of(const uint4 &v, int i) {
  const uint32_t word = i < 8 ? (i < 4 ? v.x : v.y) : (i < 12 ? v.z : v.w);
  return word >> 8 * (i & 3) & 255;
}

// A lane's scales of a unit.
template <int L> struct Scales {
  using T = Packed<L>;
  using P = Layout<L>;
  float d, dmin;
  uint4 scales, mins;

  static __device__ __forceinline__ float half(const uint8_t *at) {
    const uint16_t bits = *reinterpret_cast<const uint16_t *>(at);
    return P::wide ? bf16_value(bits) : f16_value(bits) * (1.f / (1 << P::shift));
  }
  // Of a unit of two levels.
  static __device__ __forceinline__ float of_unit(const uint8_t *unit, int row) {
    return P::e4m3 ? *reinterpret_cast<const float *>(unit + 4 * row) : half(unit + 2 * row);
  }
  // A byte, which belongs to a group, as a number. An E4M3 float moved up is a half, and 256 times less: d is 256 times more.
  static __device__ __forceinline__ float of_group(uint32_t byte) {
    return P::e4m3 ? f16_value((uint16_t)(byte << 7)) : (float)(int8_t)byte;
  }
  static __device__ __forceinline__ uint4 bytes(const uint8_t *at) {
    if (T::GROUPS == 16) return *reinterpret_cast<const uint4 *>(at);
    const uint2 v = *reinterpret_cast<const uint2 *>(at);
    uint4 r; r.x = v.x; r.y = v.y; r.z = 0; r.w = 0;
    return r;
  }
  // `block` matters to one-level layouts only.
  __device__ __forceinline__ void load(const uint8_t *unit, int row, int block) {
    if (P::two_level) {
      d = of_unit(unit, row);
      scales = bytes(unit + 64 + T::GROUPS * row);
      if (P::min) dmin = half(unit + 32 + 2 * row);
      if (P::min && !T::nibbles) mins = bytes(unit + 64 + T::GROUPS * (16 + row));
    } else {
      d = half(unit + 32 * block + 2 * row);
      if (P::min) dmin = half(unit + 64 + 32 * block + 2 * row);
    }
  }
  // Scale and minimum of columns 16 h .. of a block.
  __device__ __forceinline__ void get(int block, int h, float &scale, float &min) const {
    min = 0.f;
    if (!P::two_level) {
      scale = d;
      if (P::min) min = dmin;
      return;
    }
    const int g = P::group == 32 ? block : 2 * block + h;
    const uint32_t s = byte_of(scales, g);
    if (T::nibbles) {
      scale = __fmul_rn(d, (float)(s & 15));
      min = __fmul_rn(dmin, (float)(s >> 4));
    } else {
      scale = __fmul_rn(d, of_group(s));
      if (P::min) min = __fmul_rn(dmin, (float)byte_of(mins, g));
    }
  }
};

// The stored words of a row's 32 codes; `block` points to the block's codes.
template <int L> __device__ __forceinline__ void load_words(const uint8_t *block, int row, uint32_t (&w)[8]) {
  constexpr int B = Layout<L>::bits;
  if (B >= 4) {
    const uint4 v = *reinterpret_cast<const uint4 *>(block + 16 * row);
    w[0] = v.x; w[1] = v.y; w[2] = v.z; w[3] = v.w;
  }
  if (B == 8) {
    const uint4 v = *reinterpret_cast<const uint4 *>(block + 256 + 16 * row);
    w[4] = v.x; w[5] = v.y; w[6] = v.z; w[7] = v.w;
  }
  if (B == 6 || B == 3 || B == 2) {
    constexpr int first = B == 6 ? 4 : 0;
    const uint2 v = *reinterpret_cast<const uint2 *>(block + 64 * first + 8 * row);
    w[first] = v.x; w[first + 1] = v.y;
  }
  if (B == 5 || B == 3) {
    constexpr int first = B - 1;
    w[first] = *reinterpret_cast<const uint32_t *>(block + 64 * first + 4 * row);
  }
}

// What the table has for four codes.
template <int L> __device__ __forceinline__ uint32_t looked_up(uint32_t c) {
  using P = Layout<L>;
  // A byte permutation looks up eight entries by the nibbles of its selector.
  const uint32_t t = (c | c >> 4) & 0x00ff00ffu, s = (t | t >> 8) & 0xffffu;
  uint32_t v = __byte_perm(P::level0, P::level1, s & 0x7777u);
  if (P::bits == 4) {
    const uint32_t high = __byte_perm(P::level2, P::level3, s & 0x7777u), mask = (c >> 3 & 0x01010101u) * 255u;
    v = (v & ~mask) | (high & mask);
  }
  return v;
}

// Four codes as bytes: quad `j` of a block, as they are multiplied but for Packed::OFFSET.
template <int L> __device__ __forceinline__ uint32_t quad(const uint32_t (&w)[8], int j) {
  using P = Layout<L>;
  uint32_t c;
  if (P::bits == 8) return w[j] ^ 0x80808080u;
  if (P::bits >= 4) c = w[j & 3] >> 4 * (j >> 2) & 0x0f0f0f0fu;
  else c = w[j >> 2] >> 2 * (j & 3) & 0x03030303u;
  if (P::bits == 6) c |= (w[4 + (j >> 2)] >> 2 * (j & 3) & 0x03030303u) << 4;
  if (P::bits == 5) c |= (w[4] >> j & 0x01010101u) << 4;
  if (P::bits == 3) c |= (w[2] >> j & 0x01010101u) << 2;
  return P::table ? looked_up<L>(c) : c;
}

// Byte `i` of a quad as a float, less Packed::OFFSET: a float with the byte in its mantissa is 2^23 greater. No conversion,
// which GPUs do at a quarter of the speed of other instructions.
template <int L> __device__ __forceinline__ float code_value(uint32_t quad, int i) {
  using P = Layout<L>;
  constexpr bool is_signed = P::table || P::bits == 8;
  const uint32_t c = is_signed ? quad ^ 0x80808080u : quad;
  return __uint_as_float(__byte_perm(c, 0x4b000000u, 0x7650 + i)) - (8388608.f + (is_signed ? 128 : Packed<L>::OFFSET));
}
