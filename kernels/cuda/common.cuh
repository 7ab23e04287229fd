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
#if __CUDA_ARCH__ >= 800 || !defined(__CUDA_ARCH__)
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
// The same of halves, and their product.
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
// d = start + a b in signed bytes: a is 16x16, b 16x8, d as above. A lane has columns 4 (l % 4) .. of rows l / 4 and l / 4 + 8 of a, rows
// 4 (l % 4) .. of column l / 4 of b.
__device__ __forceinline__ void mma_int8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, int start = 0) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(a0), "r"(a1), "r"(b), "r"(start));
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
// The most dynamic shared memory that kernel NAME uses, as a constant `shared_NAME`: the host reads it in the PTX.
#define SHARED_BYTES(constant, ...) extern "C" __device__ const unsigned int constant = __VA_ARGS__;
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
  float *f;              // [rows, width]; null: nobody reads them
  ActBlock *q;           // [rows, padded / 32]; null: not rounded
  uint16_t *h;           // [rows, padded], bf16
  const uint32_t *roles; // [rows]
  int width;
  int padded;            // width rounded up to 64, with zeros
};

// Writes 8-bit blocks of a generated row, or nothing where it is not `live`: called by a whole warp for two times 16 columns, of which a lane has c.
__device__ __forceinline__ void emit_int8(const Out &o, int row, int c, float v, bool live = true) {
  float most = fabsf(v);
#pragma unroll
  for (int i = 8; i > 0; i >>= 1) most = fmaxf(most, __shfl_xor_sync(ALL, most, i));
  // As on the CPU: a block of tiny values is zero, an infinite one has no scale.
  const bool zero = most < 1e-30f, finite = most <= 3.402823466e38f;
  const int q = zero || !finite ? 0 : __float2int_rn(v * (127.f / most));
  int n = q;
#pragma unroll
  for (int i = 8; i > 0; i >>= 1) n += __shfl_xor_sync(ALL, n, i);
  if (!live) return;
  ActBlock &block = o.q[((size_t)row * o.padded + c) >> 5];
  reinterpret_cast<int8_t *>(block.q)[c & 31] = (int8_t)q;
  if ((c & 15) == 0) {
    block.d[c >> 4 & 1] = zero ? 0.f : finite ? most / 127.f : __uint_as_float(0x7fc00000u);
    block.n[c >> 4 & 1] = n;
  }
}

// Called by a whole warp for 32 columns from `col`, one to a lane.
__device__ __forceinline__ void emit(const Out &o, int row, int col, float v) {
  const int lane = threadIdx.x & 31, c = col + lane;
  if (c >= o.width) v = 0.f; else if (o.f) o.f[(size_t)row * o.width + c] = v;
  if (!o.q) return;
  if (o.roles[row] == PROMPT) {
    o.h[(size_t)row * o.padded + c] = bf16_bits(v);
    return;
  }
  emit_int8(o, row, c, v);
}

// Whether a row of n floats can be read four at a time.
__device__ __forceinline__ bool in_quads(const float *row, int n) { return (((size_t)row >> 2 | n) & 3) == 0; }
// Columns c to c + 3 of a row of n, zeros after its end.
__device__ __forceinline__ float4 quad(const float *row, int c, int n) {
  float4 v = {0.f, 0.f, 0.f, 0.f};
  if (in_quads(row, n)) {
    if (c < n) v = *reinterpret_cast<const float4 *>(row + c);
  } else {
    if (c < n) v.x = row[c];
    if (c + 1 < n) v.y = row[c + 1];
    if (c + 2 < n) v.z = row[c + 2];
    if (c + 3 < n) v.w = row[c + 3];
  }
  return v;
}
__device__ __forceinline__ void put_quad(float *row, int c, int n, float4 v) {
  if (in_quads(row, n)) {
    if (c < n) *reinterpret_cast<float4 *>(row + c) = v;
  } else {
    if (c < n) row[c] = v.x;
    if (c + 1 < n) row[c + 1] = v.y;
    if (c + 2 < n) row[c + 2] = v.z;
    if (c + 3 < n) row[c + 3] = v.w;
  }
}

// As `emit`, four columns to a lane: called by a whole warp for 128 columns, of which this lane has those from c; v is anything after the
// width. `role` is that of the row.
__device__ __forceinline__ void emit_quad(const Out &o, uint32_t role, int row, int c, float4 v) {
  if (o.f) put_quad(o.f + (size_t)row * o.width, c, o.width, v);
  if (!o.q) return;
  if (c >= o.width) v.x = 0.f;
  if (c + 1 >= o.width) v.y = 0.f;
  if (c + 2 >= o.width) v.z = 0.f;
  if (c + 3 >= o.width) v.w = 0.f;
  const size_t at = (size_t)row * o.padded + c;
#ifdef TENSOR_CORES
  if (role == PROMPT) {
    const uint2 pairs = {bf16_pair(v.x, v.y), bf16_pair(v.z, v.w)};
    if (c < o.padded) *reinterpret_cast<uint2 *>(o.h + at) = pairs;
    return;
  }
#endif
  float most = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
  most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
  most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
  const bool zero = most < 1e-30f, finite = most <= 3.402823466e38f;
  const float scale = zero || !finite ? 0.f : 127.f / most;
  int q[4] = {};
  if (finite) q[0] = __float2int_rn(v.x * scale), q[1] = __float2int_rn(v.y * scale), q[2] = __float2int_rn(v.z * scale), q[3] = __float2int_rn(v.w * scale);
  int n = q[0] + q[1] + q[2] + q[3];
  n += __shfl_xor_sync(ALL, n, 1);
  n += __shfl_xor_sync(ALL, n, 2);
  if (c >= o.padded) return;
  ActBlock &block = o.q[at >> 5];
  const int half = c >> 4 & 1;
  reinterpret_cast<uint32_t *>(block.q)[c >> 2 & 7] = (q[0] & 255) | (q[1] & 255) << 8 | (q[2] & 255) << 16 | (uint32_t)q[3] << 24;
  if ((c & 15) == 0) {
    block.d[half] = zero ? 0.f : finite ? most / 127.f : __uint_as_float(0x7fc00000u);
    block.n[half] = n;
  }
}
