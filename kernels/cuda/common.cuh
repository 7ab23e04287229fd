// What every kernel includes: the few operations whose body is PTX on a GPU and C++ in the emulator (emulator/cuda.h), and the
// types that kernels and crates/cuda share.
#pragma once
#ifdef CUDA_EMULATED
#include "emulator/cuda.h"
#else
#include <cstdint>
#include <type_traits>
#include <cuda_runtime.h>

__device__ __forceinline__ float f16_value(uint16_t bits) {
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
  return v;
}
__device__ __forceinline__ uint16_t f16_bits(float v) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return bits;
}
#if __CUDA_ARCH__ >= 800
// Two floats as bf16, rounded to nearest; the first one in the low half.
__device__ __forceinline__ uint32_t bf16_pair(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
// d += a b on tensor cores: a is 16x16, b 16x8; fragments as the PTX ISA lays them out for mma.m16n8k16.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8x8 matrices of 16-bit elements from shared memory; lane l names row l % 8 of matrix l / 8, 16 bytes.
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const void *row) {
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], const void *row) {
  const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
// The same product of halves.
__device__ __forceinline__ uint32_t f16_pair(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// d = a b in signed bytes: a is 16x16, b 16x8, d as above. A lane has columns 4 (l % 4) .. of rows l / 4 and l / 4 + 8 of a, rows
// 4 (l % 4) .. of column l / 4 of b.
__device__ __forceinline__ void mma_int8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(a0), "r"(a1), "r"(b), "r"(0));
}
// Copies 16 bytes to shared memory without waiting for them; zeros instead where `from` is not `valid`. What was begun before
// copy_commit() is a group; copy_wait<N>() waits until at most N groups of this thread are on their way.
__device__ __forceinline__ void copy16(void *shared, const void *from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
#endif
// Two halves as floats; the first one is the low half.
__device__ __forceinline__ void f16_values(uint32_t pair, float &low, float &high) {
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(low), "=f"(high) : "r"(pair));
}
// 2 to the power of v, to two units in the last place.
__device__ __forceinline__ float power_of_2(float v) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
  return power;
}
// A warp asks for bytes to be brought into L2, where all writes are seen: it may do so before wait_for_inputs(). Both are multiples of 16.
__device__ __forceinline__ void bring_to_l2(const void *from, int bytes) {
#if __CUDA_ARCH__ >= 900
  if ((threadIdx.x & 31) == 0) asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(__cvta_generic_to_global(from)), "r"(bytes));
#else
  for (int i = 128 * (threadIdx.x & 31); i < bytes; i += 4096)
    asm volatile("prefetch.global.L2 [%0];" :: "l"(__cvta_generic_to_global(reinterpret_cast<const char *>(from) + i)));
#endif
}
// A kernel may begin before the one ahead of it on the stream has ended (where the launch says so and the GPU is 9.0): what it
// reads or writes of what others write or read comes after wait_for_inputs(). let_next_begin() lets the one behind it begin.
#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void wait_for_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void let_next_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
#else
__device__ __forceinline__ void wait_for_inputs() {}
__device__ __forceinline__ void let_next_begin() {}
#endif
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// Whether this compilation has the tensor core kernels. Those of sm_75 have no bf16: there every row goes the 8-bit way.
#if defined(CUDA_EMULATED) || __CUDA_ARCH__ >= 800 || !defined(__CUDA_ARCH__)
#define TENSOR_CORES 1
#endif

// Planted mistakes that tests must notice (tests/gpu/ladder): PLANT_*_BARRIER leave one out.
#ifdef PLANT_OFF_BY_ONE
#define PLANT_LAST_UNIT - 1
#else
#define PLANT_LAST_UNIT
#endif

#define KERNEL extern "C" __global__ void
#define ALL 0xffffffffu

__device__ __forceinline__ float bf16_value(uint16_t bits) { return __uint_as_float((uint32_t)bits << 16); }
__device__ __forceinline__ uint16_t bf16_bits(float v) {
  const uint32_t u = __float_as_uint(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 64);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(ALL, v, o);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL, v, o));
  return v;
}
// The sum over a block of at most 1024 threads, for all of them; `part` has room for 32 floats.
__device__ __forceinline__ float block_sum(float v, float *part) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  v = warp_sum(v);
  __syncthreads();
  if (lane == 0) part[warp] = v;
#ifndef PLANT_SUM_BARRIER
  __syncthreads();
#endif
  float sum = 0.f;
  for (int i = 0; i < warps; i++) sum += part[i];
  return sum;
}

// 32 activations as 8-bit integers with a scale for each 16: x = d * q; n is the sum of the integers of each half.
struct __align__(16) ActBlock {
  int4 q[2];
  float d[2];
  int n[2];
};
static_assert(sizeof(ActBlock) == 48, "three 16-byte loads");

// Role of a row (kinfer_core::batch::Role): prompt rows are multiplied in bf16 on tensor cores, generated rows in 8-bit integers.
enum Role : uint32_t { PROMPT = 0, GENERATED = 1 };

// Activations that a kernel writes: as floats, and rounded the way that the next product reads them.
struct Out {
  float *f;              // [rows, width]
  ActBlock *q;           // [rows, padded / 32]; null: not rounded
  uint16_t *h;           // [rows, padded], bf16
  const uint32_t *roles; // [rows]
  int width;
  int padded;            // width rounded up to 64, with zeros
};

// Called by a whole warp for 32 columns from `col`, one to a lane.
__device__ __forceinline__ void emit(const Out &o, int row, int col, float v) {
  const int lane = threadIdx.x & 31, c = col + lane;
  if (c < o.width) o.f[(size_t)row * o.width + c] = v; else v = 0.f;
  if (!o.q) return;
  if (o.roles[row] == PROMPT) {
    o.h[(size_t)row * o.padded + c] = bf16_bits(v);
    return;
  }
  float most = fabsf(v);
#pragma unroll
  for (int i = 8; i > 0; i >>= 1) most = fmaxf(most, __shfl_xor_sync(ALL, most, i));
  // As on the CPU: a block of tiny values is zero, an infinite one has no scale.
  const bool zero = most < 1e-30f, finite = most <= 3.402823466e38f;
  const int q = zero || !finite ? 0 : __float2int_rn(v * (127.f / most));
  int n = q;
#pragma unroll
  for (int i = 8; i > 0; i >>= 1) n += __shfl_xor_sync(ALL, n, i);
  ActBlock &block = o.q[((size_t)row * o.padded + col) >> 5];
  reinterpret_cast<int8_t *>(block.q)[lane] = (int8_t)q;
  if ((lane & 15) == 0) {
    block.d[lane >> 4] = zero ? 0.f : finite ? most / 127.f : __uint_as_float(0x7fc00000u);
    block.n[lane >> 4] = n;
  }
}
