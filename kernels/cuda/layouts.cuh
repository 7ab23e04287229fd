// The table of layouts in kernels/src/pack/layout.rs; written by its tests, with KINFER_WRITE_LAYOUTS=1 set.
#pragma once
#include <cstdint>
template <int L> struct Layout;
template <> struct Layout<0> { // Q4_0
  static constexpr int bits = 4, group = 32, shift = 0, offset = 8;
  static constexpr bool two_level = false, e4m3 = false, min = false, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<1> { // Q4_1
  static constexpr int bits = 4, group = 32, shift = 0, offset = 0;
  static constexpr bool two_level = false, e4m3 = false, min = true, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<2> { // Q5_0
  static constexpr int bits = 5, group = 32, shift = 0, offset = 16;
  static constexpr bool two_level = false, e4m3 = false, min = false, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<3> { // Q5_1
  static constexpr int bits = 5, group = 32, shift = 0, offset = 0;
  static constexpr bool two_level = false, e4m3 = false, min = true, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<4> { // Q8_0
  static constexpr int bits = 8, group = 32, shift = 0, offset = 128;
  static constexpr bool two_level = false, e4m3 = false, min = false, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<5> { // Q2_K
  static constexpr int bits = 2, group = 16, shift = 0, offset = 0;
  static constexpr bool two_level = true, e4m3 = false, min = true, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<6> { // Q3_K
  static constexpr int bits = 3, group = 16, shift = 0, offset = 4;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<7> { // Q4_K
  static constexpr int bits = 4, group = 32, shift = 0, offset = 0;
  static constexpr bool two_level = true, e4m3 = false, min = true, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<8> { // Q5_K
  static constexpr int bits = 5, group = 32, shift = 0, offset = 0;
  static constexpr bool two_level = true, e4m3 = false, min = true, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<9> { // Q6_K
  static constexpr int bits = 6, group = 16, shift = 0, offset = 32;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = false;
  static constexpr uint32_t level0 = 0x00000000, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<10> { // IQ4_NL
  static constexpr int bits = 4, group = 32, shift = 0, offset = 128;
  static constexpr bool two_level = false, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0xbfad9881, level1 = 0xf6eaddcf, level2 = 0x26190d01, level3 = 0x71594535;
};
template <> struct Layout<11> { // IQ4_XS
  static constexpr int bits = 4, group = 32, shift = 0, offset = 128;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0xbfad9881, level1 = 0xf6eaddcf, level2 = 0x26190d01, level3 = 0x71594535;
};
template <> struct Layout<12> { // MXFP4
  static constexpr int bits = 4, group = 32, shift = 0, offset = 16;
  static constexpr bool two_level = false, e4m3 = false, min = false, wide = true, table = true;
  static constexpr uint32_t level0 = 0x03020100, level1 = 0x0c080604, level2 = 0xfdfeff00, level3 = 0xf4f8fafc;
};
template <> struct Layout<13> { // IQ2_XXS
  static constexpr int bits = 3, group = 32, shift = 3, offset = 64;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0xf82b1908, level1 = 0x0000d5e7, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<14> { // IQ2_XS, IQ2_S
  static constexpr int bits = 3, group = 16, shift = 3, offset = 64;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0xf82b1908, level1 = 0x0000d5e7, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<15> { // IQ3_XXS
  static constexpr int bits = 4, group = 32, shift = 2, offset = 64;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0x1c140c04, level1 = 0x3e342c24, level2 = 0xe4ecf4fc, level3 = 0xc2ccd4dc;
};
template <> struct Layout<16> { // IQ3_S
  static constexpr int bits = 4, group = 32, shift = 0, offset = 16;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0x07050301, level1 = 0x0f0d0b09, level2 = 0xf9fbfdff, level3 = 0xf1f3f5f7;
};
template <> struct Layout<17> { // IQ1_S
  static constexpr int bits = 3, group = 32, shift = 3, offset = 16;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0x01fff9f7, level1 = 0x00000907, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<18> { // IQ1_M
  static constexpr int bits = 3, group = 16, shift = 3, offset = 16;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0x01fff9f7, level1 = 0x00000907, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<19> { // TQ1_0, TQ2_0
  static constexpr int bits = 2, group = 32, shift = 0, offset = 4;
  static constexpr bool two_level = true, e4m3 = false, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0x020100ff, level1 = 0x00000000, level2 = 0x00000000, level3 = 0x00000000;
};
template <> struct Layout<20> { // NVFP4
  static constexpr int bits = 4, group = 16, shift = 0, offset = 16;
  static constexpr bool two_level = true, e4m3 = true, min = false, wide = false, table = true;
  static constexpr uint32_t level0 = 0x03020100, level1 = 0x0c080604, level2 = 0xfdfeff00, level3 = 0xf4f8fafc;
};
