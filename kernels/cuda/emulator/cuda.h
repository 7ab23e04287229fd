// Runs CUDA C++ kernels on a CPU, to test what they compute where there is no GPU.
//
// The blocks of a launch are spread over a few OS threads; the threads of a block are fibers of one of them. A fiber runs until a
// barrier (__syncthreads, __syncwarp, a shuffle, an mma), so a barrier that is missing shows as a wrong result under one of the
// orders in which fibers are resumed: CUDA_EMULATOR_ORDER=forward, backward or random. A barrier that some threads never
// reach is reported and ends the process.
#pragma once
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// A variable of a function that is static, and of which each OS thread, which runs one block at a time, has its own.
#define __shared__ static thread_local
#define DYNAMIC_SHARED(name) unsigned char *name = emulator::dynamic_shared()

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
using std::max;
using std::min;

// Saves the callee-saved registers on this stack, and takes up another one.
extern "C" void emulator_switch(void **save, void *to);
#if defined(__x86_64__)
__asm__(".text\n.weak emulator_switch\n.type emulator_switch,@function\nemulator_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nretq\n");
#else
#error "the emulator has no switch of stacks for this processor"
#endif

namespace emulator {
constexpr size_t STACK = 64 << 10;
struct Barrier { unsigned arrived = 0; unsigned long generation = 0; };
// What lanes exchange lies in one of two sets of slots by turns: a lane can be one exchange ahead of those that still read the last one.
struct Warp { Barrier barrier; unsigned live = 0; uint64_t slot[2][32]; uint32_t fragment[32][6]; float product[16][8]; int integers[16][8]; };
// What a thread has begun and not waited for: groups of copies to shared memory, or of products, the last one not yet closed.
struct Pending {
  std::deque<std::vector<std::function<void()>>> groups{1};
  void begin(std::function<void()> what) { groups.back().push_back(std::move(what)); }
  void commit() { groups.emplace_back(); }
  void wait(size_t left) {
    for (; groups.size() > left + 1; groups.pop_front())
      for (auto &what : groups.front()) what();
  }
};
struct Fiber { void *stack_pointer; uint3 index; bool done; Warp *warp; unsigned lane, turn; Pending copies, products; };

// What an OS thread runs: one block at a time.
struct Worker {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> stacks, shared;
  Barrier barrier;
  unsigned live = 0;
  void *main_stack;
  Fiber *current = nullptr;
  bool progress = false;
  void (*entry)(void *) = nullptr;
  void *argument = nullptr;
  dim3 grid, block;
  uint3 index;
  std::mt19937 random{1234};
};
inline thread_local Worker *worker = nullptr;

inline unsigned char *dynamic_shared() { return reinterpret_cast<unsigned char *>((reinterpret_cast<uintptr_t>(worker->shared.data()) + 127) & ~uintptr_t(127)); }

// The last one to arrive calls `last`.
template <class F> inline void wait(Barrier &barrier, const unsigned &live, F &&last) {
  Worker *w = worker;
  w->progress = true;
  const unsigned long generation = barrier.generation;
  barrier.arrived++;
  while (barrier.generation == generation) {
    if (barrier.arrived >= live) {
      last();
      barrier.arrived = 0;
      barrier.generation++;
      w->progress = true;
      break;
    }
    emulator_switch(&w->current->stack_pointer, w->main_stack);
  }
}
inline void wait(Barrier &barrier, const unsigned &live) { wait(barrier, live, [] {}); }
inline void wait_warp() { wait(worker->current->warp->barrier, worker->current->warp->live); }

inline void fiber_main() {
  Worker *w = worker;
  w->entry(w->argument);
  w->current->done = true;
  w->live--;
  w->current->warp->live--;
  w->progress = true;
  for (;;) emulator_switch(&w->current->stack_pointer, w->main_stack);
}

enum Order { FORWARD, BACKWARD, RANDOM };
inline Order order() {
  static const Order o = [] {
    const char *name = getenv("CUDA_EMULATOR_ORDER");
    const std::string s = name ? name : "forward";
    return s == "random" ? RANDOM : s == "backward" ? BACKWARD : FORWARD;
  }();
  return o;
}

inline void run_block(Worker &w) {
  const unsigned n = w.block.x * w.block.y * w.block.z;
  w.live = n;
  w.barrier = {};
  for (auto &warp : w.warps) warp.live = 0, warp.barrier = {};
  for (unsigned i = 0; i < n; i++) {
    Fiber &f = w.fibers[i];
    f.index = {i % w.block.x, i / w.block.x % w.block.y, i / (w.block.x * w.block.y)};
    f.done = false;
    f.warp = &w.warps[i / 32];
    f.lane = i % 32;
    f.turn = 0;
    f.copies = f.products = {};
    f.warp->live++;
    void **sp = reinterpret_cast<void **>((reinterpret_cast<uintptr_t>(w.stacks.data()) + (i + 1) * STACK) & ~uintptr_t(63)) - 2;
    *sp = reinterpret_cast<void *>(&fiber_main);
    for (int k = 0; k < 6; k++) *--sp = nullptr;
    f.stack_pointer = sp;
  }
  static thread_local std::vector<unsigned> turn;
  turn.resize(n);
  for (unsigned i = 0; i < n; i++) turn[i] = order() == BACKWARD ? n - 1 - i : i;
  while (w.live) {
    if (order() == RANDOM) std::shuffle(turn.begin(), turn.end(), w.random);
    w.progress = false;
    for (unsigned i : turn) {
      if (w.fibers[i].done) continue;
      w.current = &w.fibers[i];
      emulator_switch(&w.main_stack, w.current->stack_pointer);
    }
    if (!w.progress) {
      fprintf(stderr, "emulator: a barrier that some threads of block (%u, %u, %u) never reach\n", w.index.x, w.index.y, w.index.z);
      abort();
    }
  }
}

// Runs all blocks of a grid; `body` is the kernel with its arguments.
template <class F> void run_grid(dim3 grid, dim3 block, size_t shared, F &&body) {
  const size_t blocks = (size_t)grid.x * grid.y * grid.z;
  std::atomic<size_t> next{0};
  const auto work = [&] {
    static thread_local std::unique_ptr<Worker> own;
    if (!own) own.reset(new Worker);
    Worker &w = *own;
    worker = &w;
    const unsigned n = block.x * block.y * block.z;
    if (w.fibers.size() < n) w.fibers.resize(n), w.stacks.resize(n * STACK);
    w.warps.resize((n + 31) / 32);
    if (w.shared.size() < shared + 128) w.shared.resize(shared + 128);
    w.grid = grid;
    w.block = block;
    w.entry = [](void *f) { (*static_cast<std::remove_reference_t<F> *>(f))(); };
    w.argument = &body;
    for (size_t b; (b = next++) < blocks;) {
      w.index = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
      // What a kernel finds in shared memory is not what it left there.
      std::memset(w.shared.data(), 0xff, w.shared.size());
      run_block(w);
    }
  };
  static const unsigned most = std::max(1u, std::min(8u, std::thread::hardware_concurrency()));
  std::vector<std::thread> helpers;
  // A thread costs about as much as a block.
  for (unsigned i = 1; i < most && i * 4 < blocks; i++) helpers.emplace_back(work);
  work();
  for (auto &h : helpers) h.join();
}

// The value of `v` in lane `from`; this lane's own unless `valid`.
template <class T> inline T exchange(T v, unsigned from, bool valid) {
  Fiber *f = worker->current;
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof(T));
  uint64_t *slots = f->warp->slot[f->turn ^= 1];
  slots[f->lane] = bits;
  wait_warp();
  T r = v;
  if (valid) std::memcpy(&r, &slots[from], sizeof(T));
  return r;
}

// Kernels by name, called as cuLaunchKernel does: with pointers to the arguments.
struct Entry {
  void (*launch)(dim3, dim3, size_t, void **);
  std::vector<size_t> arguments; // bytes of each
};
inline std::map<std::string, Entry> &kernels() {
  static std::map<std::string, Entry> all;
  return all;
}
template <auto K> struct Kernel;
template <class... A, void (*K)(A...)> struct Kernel<K> {
  template <size_t... I> static void call(void **a, std::index_sequence<I...>) { K(*static_cast<std::remove_cv_t<std::remove_reference_t<A>> *>(a[I])...); }
  static void launch(dim3 grid, dim3 block, size_t shared, void **a) {
    run_grid(grid, block, shared, [a] { call(a, std::index_sequence_for<A...>{}); });
  }
  static Entry entry() { return {&launch, {sizeof(A)...}}; }
};
} // namespace emulator
#define EMULATE(kernel) static const bool emulated_##kernel = (emulator::kernels()[#kernel] = emulator::Kernel<&kernel>::entry(), true);

#define threadIdx (emulator::worker->current->index)
#define blockIdx (emulator::worker->index)
#define blockDim (emulator::worker->block)
#define gridDim (emulator::worker->grid)

inline void __syncthreads() { emulator::wait(emulator::worker->barrier, emulator::worker->live); }
inline void __syncwarp(unsigned = ~0u) { emulator::wait_warp(); }
template <class T> inline T __shfl_xor_sync(unsigned, T v, int mask) { return emulator::exchange(v, (emulator::worker->current->lane ^ mask) & 31, true); }
template <class T> inline T __shfl_up_sync(unsigned, T v, int by) {
  const int lane = emulator::worker->current->lane;
  return emulator::exchange(v, lane - by, lane >= by);
}

template <class T> inline T __shfl_sync(unsigned, T v, int from) { return emulator::exchange(v, from & 31, true); }
inline uint32_t __ballot_sync(unsigned, bool v) {
  uint32_t bits = (uint32_t)v << emulator::worker->current->lane;
  for (int mask = 16; mask; mask /= 2) bits |= __shfl_xor_sync(~0u, bits, mask);
  return bits;
}

inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += (int8_t)(a >> i) * (int8_t)(b >> i);
  return c;
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = a | (uint64_t)b << 32;
  uint32_t r = 0;
  for (int i = 0; i < 4; i++) r |= (uint32_t)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return r;
}
inline int __float2int_rn(float v) { return (int)std::nearbyintf(v); }
// Rounded by itself: the compiler does not see where the value comes from, and makes one operation of no two.
template <class T> inline T alone(T v) { asm("" : "+g"(v)); return v; }
inline float __fmul_rn(float a, float b) { return alone(a * b); }
inline float __fsub_rn(float a, float b) { return alone(a - b); }
inline float __fadd_rn(float a, float b) { return alone(a + b); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return alone(a * b); }
inline double __ull2double_rn(unsigned long long u) { return (double)u; }
inline unsigned long long __double2ull_rz(double v) { return (unsigned long long)v; }
inline unsigned long long __double2ull_ru(double v) { return (unsigned long long)std::ceil(v); }
inline double __hiloint2double(int high, int low) { const uint64_t bits = (uint64_t)(uint32_t)high << 32 | (uint32_t)low; double v; std::memcpy(&v, &bits, 8); return v; }
inline int __ffs(uint32_t v) { return __builtin_ffs((int)v); }
inline float __uint_as_float(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
inline uint32_t __float_as_uint(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }
using std::fmaf;

inline float f16_value(uint16_t bits) { _Float16 h; std::memcpy(&h, &bits, 2); return (float)h; }
inline uint16_t f16_bits(float v) { const _Float16 h = (_Float16)v; uint16_t bits; std::memcpy(&bits, &h, 2); return bits; }
uint16_t bf16_bits(float v);
inline uint32_t bf16_pair(float low, float high) { return bf16_bits(low) | (uint32_t)bf16_bits(high) << 16; }

namespace emulator {
inline float bf16_half(uint32_t pair, int i) { return __uint_as_float(i ? pair & 0xffff0000u : pair << 16); }
inline void ldmatrix(uint32_t (&r)[4], const void *row, bool transposed) {
  Fiber *f = worker->current;
  const uint64_t mine = (uint64_t)row;
  if (mine % 16) fprintf(stderr, "emulator: ldmatrix of an address that is no multiple of 16\n"), abort();
  uint64_t *slots = f->warp->slot[f->turn ^= 1];
  slots[f->lane] = mine;
  wait_warp();
  for (int m = 0; m < 4; m++) {
    uint16_t e[2];
    for (int i = 0; i < 2; i++) {
      const int r0 = f->lane / 4, c0 = 2 * (f->lane % 4) + i;
      const uint16_t *at = (const uint16_t *)slots[8 * m + (transposed ? c0 : r0)];
      e[i] = at[transposed ? r0 : c0];
    }
    r[m] = e[0] | (uint32_t)e[1] << 16;
  }
}
} // namespace emulator
inline void ldmatrix(uint32_t (&r)[4], const void *row) { emulator::ldmatrix(r, row, false); }
inline void ldmatrix_transposed(uint32_t (&r)[4], const void *row) { emulator::ldmatrix(r, row, true); }
// Threads are fibers of one thread.
template <class T> inline T atomicAdd(T *at, T v) {
  const T before = *at;
  *at += v;
  return before;
}
namespace emulator {
// mma.m16n8k16 of 16-bit floats, which `value` reads from a pair.
template <class F> inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, F value) {
  Fiber *f = worker->current;
  uint32_t *mine = f->warp->fragment[f->lane];
  for (int i = 0; i < 4; i++) mine[i] = a[i];
  mine[4] = b0;
  mine[5] = b1;
  Warp &w = *f->warp;
  wait(w.barrier, w.live, [&w, value] {
    float x[16][16], y[16][8];
    for (int lane = 0; lane < 32; lane++)
      for (int i = 0; i < 8; i++) x[lane / 4 + 8 * (i >> 1 & 1)][2 * (lane % 4) + (i & 1) + 8 * (i >> 2)] = value(w.fragment[lane][i >> 1], i & 1);
    for (int lane = 0; lane < 32; lane++)
      for (int i = 0; i < 4; i++) y[2 * (lane % 4) + (i & 1) + 8 * (i >> 1)][lane / 4] = value(w.fragment[lane][4 + (i >> 1)], i & 1);
    for (int r = 0; r < 16; r++) {
      float sum[8] = {};
      for (int k = 0; k < 16; k++)
        for (int c = 0; c < 8; c++) sum[c] += x[r][k] * y[k][c];
      std::memcpy(w.product[r], sum, sizeof(sum));
    }
  });
  for (int i = 0; i < 4; i++) d[i] += w.product[f->lane / 4 + 8 * (i >> 1)][2 * (f->lane % 4) + (i & 1)];
}
} // namespace emulator
inline uint32_t f16_pair(float low, float high) { return f16_bits(low) | (uint32_t)f16_bits(high) << 16; }
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emulator::mma(d, a, b0, b1, emulator::bf16_half); }
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::mma(d, a, b0, b1, [](uint32_t pair, int i) { return f16_value((uint16_t)(pair >> 16 * i)); });
}
inline void mma_int8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, int start = 0) {
  using namespace emulator;
  Fiber *f = worker->current;
  Warp &w = *f->warp;
  uint32_t *mine = w.fragment[f->lane];
  mine[0] = a0; mine[1] = a1; mine[2] = b;
  wait(w.barrier, w.live, [&w] {
    for (int r = 0; r < 16; r++)
      for (int c = 0; c < 8; c++) {
        int sum = 0;
        for (int k = 0; k < 4; k++) sum = __dp4a((int)w.fragment[r % 8 * 4 + k][r / 8], (int)w.fragment[c * 4 + k][2], sum);
        w.integers[r][c] = sum;
      }
  });
  for (int i = 0; i < 4; i++) d[i] = start + w.integers[f->lane / 4 + 8 * (i >> 1)][2 * (f->lane % 4) + (i & 1)];
}
// Happens when it is waited for, and before that the memory holds something else: a copy_wait that is missing shows, and so does memory
// that is read when the next copy to it has begun.
inline void copy16(void *shared, const void *from, bool valid = true) {
  if ((uintptr_t)shared % 16 || (valid && (uintptr_t)from % 16)) fprintf(stderr, "emulator: copy16 of an address that is no multiple of 16\n"), abort();
  std::memset(shared, 0xff, 16);
  emulator::worker->current->copies.begin([=] { valid ? std::memcpy(shared, from, 16) : std::memset(shared, 0, 16); });
}
inline void copy_commit() { emulator::worker->current->copies.commit(); }
template <int LEFT> inline void copy_wait() { emulator::worker->current->copies.wait(LEFT); }
// As hopper.cuh says, of each warp its sixteen rows: when it is waited for, or at once where threads are resumed forward, as hardware may
// read its matrices at any time between.
template <int OUTPUTS> inline void wgmma(float (&d)[OUTPUTS], const uint32_t (&a)[4], const void *b, bool add) {
  using namespace emulator;
  Fiber *f = worker->current;
  for (int i = 0; i < 4; i++) f->warp->fragment[f->lane][i] = a[i];
  wait_warp();
  std::array<float, 32> x;
  for (int h = 0; h < 2; h++)
    for (int k = 0; k < 16; k++) x[16 * h + k] = bf16_half(f->warp->fragment[f->lane / 4 * 4 + k % 8 / 2][h + 2 * (k / 8)], k & 1);
  wait_warp();
  const unsigned lane = f->lane;
  const auto product = [&d, x, b, add, lane] {
    const uint8_t *matrix = (const uint8_t *)((uintptr_t)b & ~uintptr_t(1023));
    const int first = (int)((uintptr_t)b & 127) / 16;
    for (int i = 0; i < OUTPUTS; i++) {
      const int n = 8 * (i / 4) + 2 * (lane % 4) + (i & 1);
      float sum = 0.f;
      for (int k = 0; k < 16; k++) {
        uint16_t bits;
        std::memcpy(&bits, matrix + 128 * n + ((first + k / 8) ^ (n & 7)) * 16 + 2 * (k % 8), 2);
        sum += x[16 * (i >> 1 & 1) + k] * __uint_as_float((uint32_t)bits << 16);
      }
      d[i] = (add ? d[i] : 0.f) + sum;
    }
  };
  if (order() == FORWARD) product(); else f->products.begin(product);
}
inline void wgmma_fence() {}
inline void wgmma_commit() { emulator::worker->current->products.commit(); }
template <int LEFT> inline void wgmma_wait() { emulator::worker->current->products.wait(LEFT); }
inline void shared_fence() {}
inline void f16_values(uint32_t pair, float &low, float &high) { low = f16_value((uint16_t)pair); high = f16_value((uint16_t)(pair >> 16)); }
inline float power_of_2(float v) { return std::exp2(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline void bring_to_l2(const void *, int) {}
// A kernel begins when the one ahead of it has ended.
inline void wait_for_inputs() {}
inline void let_next_begin() {}
