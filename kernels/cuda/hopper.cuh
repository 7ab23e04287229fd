// The product of gemm.cuh on GPUs of compute capability 9.0, whose tensor cores take 64 rows of four warps at a time (wgmma).
//
// A block computes 128 rows of W by N rows of X. X passes through shared memory, 64 columns at a time and several steps ahead; W's codes, too,
// and its rows become bf16 on their way to the tensor cores, which take them from registers: W is never written as bf16. While
// a product of 16 columns runs, the next one's are brought to bf16. Each output is summed in one order, whatever N is.
// Per 16 columns and multiprocessor at N = 256: 256 cycles of the tensor cores, 90 of each scheduler, 128 of shared memory.
#pragma once
#include "gemm.cuh"

#if defined(CUDA_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define HOPPER 1
#endif

// Where there are these kernels, there are no others: the PTX for 9.0 is for no other GPU.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ONLY_HOPPER 1
#endif

#ifdef HOPPER
#ifndef CUDA_EMULATED
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory"); }
// What this thread wrote to shared memory is seen by the tensor cores.
__device__ __forceinline__ void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// A matrix in shared memory: rows of 128 bytes in which 16 bytes lie at their place XOR the row modulo 8 (PTX ISA, "128B swizzling").
__device__ __forceinline__ uint64_t matrix_of(const void *at) {
  const uint64_t address = (uint32_t)__cvta_generic_to_shared(at);
  return (address & 0x3ffff) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F16(i) F4(i), F4(i + 4), F4(i + 8), F4(i + 12)
#define F64(i) F16(i), F16(i + 16), F16(i + 32), F16(i + 48)
#define R64 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define R128 \
  R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95," \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121," \
  "%122,%123,%124,%125,%126,%127"
// d = a b^T, or d += a b^T, for 64 rows of a, sixteen of each warp in fragments as for mma.m16n8k16, and N rows of b, 16 columns.
__device__ __forceinline__ void wgmma(float (&d)[64], const uint32_t (&a)[4], const void *b, bool add) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" R64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 0;}"
               : F64(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(matrix_of(b)), "r"((int)add));
}
__device__ __forceinline__ void wgmma(float (&d)[128], const uint32_t (&a)[4], const void *b, bool add) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %133, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" R128 "}, {%128,%129,%130,%131}, %132, p, 1, 1, 0;}"
               : F64(0), F64(64) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(matrix_of(b)), "r"((int)add));
}
#undef F4
#undef F16
#undef F64
#undef R64
#undef R128
#endif

// Columns of a step, and steps of which there is room.
constexpr int STEP = 64, STAGES = 4;
// Bytes of shared memory, of which the first 1024 are for alignment.
template <int N, class W> constexpr int HOPPER_SHARED = 1024 + STAGES * N * 2 * STEP + W::BYTES;

// W is what brings a block's 128 rows of a weight to bf16: BYTES of shared memory for a step and RING for what lasts longer,
//   copy(p, step, slot)        puts what a step needs on its way
//   load(step, slot)           before a step's columns are asked for
//   fragment(k, a)             the warp's sixteen rows of columns 16 k ..
template <int N, class W, class P> __device__ __forceinline__ void gemm_hopper(const P &p, const BlockRows &rows_of) {
  static_assert(STAGES > 3, "one step is multiplied while the last one's products end and two are on their way");
  constexpr int X = N * 2 * STEP; // bytes of a step of X
  DYNAMIC_SHARED(unaligned);
  uint8_t *shared = unaligned + (1024 - ((uintptr_t)unaligned & 1023)) % 1024;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int steps = p.columns / STEP;
  // A thread copies 16 bytes of every 32nd row of X. Rows past the end repeat the last one and are not written.
  const int part = threadIdx.x & 7;
  uint32_t from[N / 32];
#pragma unroll
  for (int i = 0; i < N / 32; i++) from[i] = (uint32_t)rows_of.x(min((int)(threadIdx.x >> 3) + 32 * i, rows_of.count - 1)) * (uint32_t)(p.columns / 8) + part;
  const int to = (threadIdx.x >> 3) * 128 + (part ^ (threadIdx.x >> 3 & 7)) * 16;
  W weight(p, shared + STAGES * X, warp, lane);
  const auto copy = [&](int step) {
    if (step < steps) {
      uint8_t *x = shared + step % STAGES * X;
#pragma unroll
      for (int i = 0; i < N / 32; i++) copy16(x + to + i * 32 * 128, static_cast<const uint4 *>(p.x) + (from[i] + step * (STEP / 8)));
      weight.copy(p, step);
    }
    copy_commit();
  };
  float acc[N / 2];
#pragma unroll
  for (int step = 0; step < STAGES - 2; step++) copy(step);
  uint32_t a[2][4];
  for (int step = 0; step < steps; step++) {
    copy_wait<STAGES - 3>();
    shared_fence();
#ifndef PLANT_STEP_BARRIER
    __syncthreads();
#endif
    // Every warp has ended the products of the step before the last one.
    copy(step + STAGES - 2);
    const uint8_t *x = shared + step % STAGES * X;
    weight.load(step);
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
      weight.fragment(k, a[k & 1]);
      wgmma_fence();
      wgmma(acc, a[k & 1], x + 32 * k, step + k > 0);
      wgmma_commit();
      wgmma_wait<1>();
    }
  }
  wgmma_wait<0>();
  __syncthreads();
  // Outputs pass through the memory of X, to be written row by row; which is 32 banks at a time, either way.
  static_assert(STAGES * X >= 128 * N * 4, "room for all outputs");
  float *outputs = reinterpret_cast<float *>(shared);
  const auto place = [](int t, int r) { return t * 128 + (r ^ 8 * (t >> 1 & 3)); };
#pragma unroll
  for (int i = 0; i < N / 8; i++)
#pragma unroll
    for (int k = 0; k < 4; k++) outputs[place(8 * i + 2 * (lane & 3) + (k & 1), 16 * warp + (lane >> 2) + 8 * (k >> 1))] = acc[4 * i + k];
  __syncthreads();
  const int r = threadIdx.x & 127, row = blockIdx.y * 128 + r;
  if (row >= p.rows) return;
  const float bias = p.bias ? p.bias[row] : 0.f;
#pragma unroll 4
  for (int t = threadIdx.x >> 7; t < rows_of.count; t += 2) {
    float *out = p.y + (size_t)rows_of.y(t) * p.stride + row;
    const float v = outputs[place(t, r)] + bias;
    *out = p.add ? *out + v : v;
  }
}
#endif
