// Times and checks attention and variants of it: see kernels.sh.
#include "attention.cu"
#include "timing.cuh"
#include <cmath>
#include <cstring>
#include <cuda_fp16.h>

using PromptKernel = void (*)(const Attend, const Rows, const Cache, int, int, const Out);
using DecodeKernel = void (*)(const Attend, const Rows, const Cache, int, float *, const Out);
#define PROMPT_VARIANT(D, W, T, K, N) \
  __global__ void __launch_bounds__(32 * W, N) prompt_##D##_##W##_##T##_##K##_##N(const Attend a, const Rows rows, const Cache c, int first_row, int count, const Out out) { \
    attend_tile<Prompt<D, W, T, K>, D, W, T, K, true>(a, rows, c, first_row, count, out); \
  }
PROMPT_VARIANT(64, 8, 1, 64, 1) PROMPT_VARIANT(64, 4, 1, 64, 3) PROMPT_VARIANT(64, 4, 2, 64, 2) PROMPT_VARIANT(64, 4, 2, 32, 3) PROMPT_VARIANT(64, 8, 2, 64, 1) PROMPT_VARIANT(64, 4, 1, 128, 2)
PROMPT_VARIANT(128, 8, 1, 64, 1) PROMPT_VARIANT(128, 4, 1, 64, 3) PROMPT_VARIANT(128, 4, 1, 64, 2) PROMPT_VARIANT(128, 4, 2, 64, 2) PROMPT_VARIANT(128, 4, 2, 32, 2) PROMPT_VARIANT(128, 8, 1, 128, 1) PROMPT_VARIANT(128, 4, 1, 32, 3) PROMPT_VARIANT(128, 8, 2, 64, 1)
PROMPT_VARIANT(256, 4, 1, 32, 2) PROMPT_VARIANT(256, 4, 1, 64, 2) PROMPT_VARIANT(256, 8, 1, 64, 1)
struct PromptVariant { const char *name; PromptKernel kernel; int dim, threads, queries, shared; };
#define PROMPT_ENTRY(D, W, T, K, N) {"D " #D ", warps " #W ", tiles " #T ", keys " #K ", blocks " #N, prompt_##D##_##W##_##T##_##K##_##N, D, 32 * W, 16 * W * T, Prompt<D, W, T, K>::SHARED}
static const PromptVariant PROMPTS[] = {
  PROMPT_ENTRY(64, 8, 1, 64, 1), PROMPT_ENTRY(64, 4, 1, 64, 3), PROMPT_ENTRY(64, 4, 2, 64, 2), PROMPT_ENTRY(64, 4, 2, 32, 3), PROMPT_ENTRY(64, 8, 2, 64, 1), PROMPT_ENTRY(64, 4, 1, 128, 2),
  PROMPT_ENTRY(128, 8, 1, 64, 1), PROMPT_ENTRY(128, 4, 1, 64, 3), PROMPT_ENTRY(128, 4, 1, 64, 2), PROMPT_ENTRY(128, 4, 2, 64, 2), PROMPT_ENTRY(128, 4, 2, 32, 2), PROMPT_ENTRY(128, 8, 1, 128, 1), PROMPT_ENTRY(128, 4, 1, 32, 3), PROMPT_ENTRY(128, 8, 2, 64, 1),
  PROMPT_ENTRY(256, 4, 1, 32, 2), PROMPT_ENTRY(256, 4, 1, 64, 2), PROMPT_ENTRY(256, 8, 1, 64, 1),
};
#define DECODE_VARIANT(H, A, N, B) \
  __global__ void __launch_bounds__(256, N) decode_##H##_##A##_##N##_##B(const Attend a, const Rows rows, const Cache c, int first_row, float *partial, const Out out) { \
    attend_partition<H, A, 1, B>(a, rows, c, first_row, partial, out); \
  }
DECODE_VARIANT(4, 4, 3, 0) DECODE_VARIANT(4, 4, 3, 1) DECODE_VARIANT(4, 8, 2, 0) DECODE_VARIANT(4, 8, 2, 1) DECODE_VARIANT(4, 4, 2, 1) DECODE_VARIANT(2, 8, 3, 0) DECODE_VARIANT(2, 8, 3, 1) DECODE_VARIANT(2, 4, 4, 1)
struct DecodeVariant { const char *name; DecodeKernel kernel; int heads; };
#define DECODE_ENTRY(H, A, N, B) {"heads " #H ", ahead " #A ", blocks " #N ", to L2 " #B, decode_##H##_##A##_##N##_##B, H}
static const DecodeVariant DECODES[] = {
  DECODE_ENTRY(4, 4, 3, 0), DECODE_ENTRY(4, 4, 3, 1), DECODE_ENTRY(4, 8, 2, 0), DECODE_ENTRY(4, 8, 2, 1), DECODE_ENTRY(4, 4, 2, 1), DECODE_ENTRY(2, 8, 3, 0), DECODE_ENTRY(2, 8, 3, 1), DECODE_ENTRY(2, 4, 4, 1),
};

__device__ uint32_t mix32(uint32_t x) { x ^= x >> 16; x *= 0x7feb352du; x ^= x >> 15; x *= 0x846ca68bu; return x ^ x >> 16; }
__device__ float uniform(uint32_t i) { return (mix32(i) >> 8) * (2.f / (1 << 24)) - 1.f; }
__global__ void fill_floats(float *x, size_t n, uint32_t seed) { for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) x[i] = 2.f * uniform((uint32_t)i * 3 + seed); }
// A row a thread.
__global__ void fill_rows(uint8_t *data, size_t rows, int type, int bytes, int n, uint32_t seed) {
  for (size_t r = blockIdx.x * (size_t)blockDim.x + threadIdx.x; r < rows; r += (size_t)gridDim.x * blockDim.x)
    for (int d = 0; d < n; d++) {
      const float v = 2.f * uniform((uint32_t)(r * n + d) * 7 + seed);
      if (type == F16) reinterpret_cast<uint16_t *>(data + r * bytes)[d] = f16_bits(v);
      else {
        data[r * bytes + d] = (uint8_t)(int8_t)(63.f * v);
        if (d % 32 == 0) reinterpret_cast<uint16_t *>(data + r * bytes + n)[d / 32] = f16_bits(1.f / 63.f);
      }
    }
}

template <class T> struct Device {
  T *p = nullptr;
  size_t n;
  explicit Device(size_t n) : n(n) { CHECK(cudaMalloc(&p, n * sizeof(T))); CHECK(cudaMemset(p, 0, n * sizeof(T))); }
  explicit Device(const std::vector<T> &v) : n(v.size()) { CHECK(cudaMalloc(&p, n * sizeof(T))); CHECK(cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice)); }
  Device(const Device &) = delete;
  ~Device() { cudaFree(p); }
  std::vector<T> read(size_t at, size_t count) const { std::vector<T> v(count); CHECK(cudaMemcpy(v.data(), p + at, count * sizeof(T), cudaMemcpyDeviceToHost)); return v; }
};

static int row_bytes(int type, int n) { return type == F16 ? 2 * n : (n + n / 32 * 2 + 15) / 16 * 16; }

// `layers` caches of `sequences` of `length` positions; blocks in an order that is not theirs.
struct World {
  int heads, kv_heads, dim, type, row, sequences, length, layers, rows;
  size_t layer_bytes;
  Device<uint8_t> data;
  std::vector<uint32_t> table;
  Device<uint32_t> blocks, positions, tables, roles;
  Device<float> qkv, f;
  Device<ActBlock> q8;
  Device<uint16_t> h;
  size_t qkv_row;
  static std::vector<uint32_t> shuffled(int sequences, int length) {
    const uint32_t per = (length + 31) / 32, all = per * sequences;
    std::vector<uint32_t> t(all);
    for (uint32_t i = 0; i < all; i++) t[i] = (uint32_t)((uint64_t)i * 7919 % all);
    std::vector<bool> seen(all);
    for (auto b : t) seen[b] = true;
    for (auto s : seen) if (!s) { for (uint32_t i = 0; i < all; i++) t[i] = all - 1 - i; break; }
    return t;
  }
  static std::vector<uint32_t> numbers(int sequences, int length, int rows, bool prompt, int what) {
    std::vector<uint32_t> v(rows);
    for (int i = 0; i < rows; i++) {
      const uint32_t position = prompt ? length - rows + i : length - 1;
      v[i] = what == 0 ? position : what == 1 ? (prompt ? 0 : i * ((length + 31) / 32)) : prompt ? PROMPT : GENERATED;
    }
    return v;
  }
  World(int heads, int kv_heads, int dim, int type, int sequences, int length, int layers, int rows, bool prompt)
      : heads(heads), kv_heads(kv_heads), dim(dim), type(type), row(row_bytes(type, dim)), sequences(sequences), length(length), layers(layers), rows(rows),
        layer_bytes((size_t)((length + 31) / 32) * sequences * kv_heads * 64 * row), data(layer_bytes * layers), table(shuffled(sequences, length)), blocks(table),
        positions(numbers(sequences, length, rows, prompt, 0)), tables(numbers(sequences, length, rows, prompt, 1)), roles(numbers(sequences, length, rows, prompt, 2)),
        qkv((size_t)layers * rows * (heads + 2 * kv_heads) * dim), f((size_t)rows * heads * dim), q8((size_t)rows * heads * dim / 32), h((size_t)rows * heads * dim),
        qkv_row((size_t)(heads + 2 * kv_heads) * dim) {
    fill_rows<<<2048, 256, 0, stream>>>(data.p, layer_bytes * layers / row, type, row, dim, 11);
    fill_floats<<<2048, 256, 0, stream>>>(qkv.p, qkv.n, 5);
    CHECK(cudaStreamSynchronize(stream));
  }
  Cache cache(int layer) const { return {data.p + layer_bytes * layer, blocks.p, kv_heads, dim, type, type, row, row}; }
  Rows where() const { return {positions.p, tables.p}; }
  Attend attend(int layer) const { return {qkv.p + (size_t)layer * rows * qkv_row, heads, heads / kv_heads, 1.f / sqrtf((float)dim), 0.f, 0, (int)qkv_row, nullptr, nullptr}; }
  Out out() const { return {f.p, q8.p, h.p, roles.p, heads * dim, (heads * dim + 63) / 64 * 64}; }
  // Normalised mean square error of a head of a row that a kernel wrote for `layer`.
  double error(int layer, int r, int head) const {
    const int n = dim, kv = head / (heads / kv_heads);
    const uint32_t position = positions.read(r, 1)[0], first = tables.read(r, 1)[0];
    const auto q = qkv.read((size_t)layer * rows * qkv_row + r * qkv_row + (size_t)head * n, n);
    std::vector<double> scores(position + 1), o(n);
    std::vector<std::vector<uint8_t>> bytes;
    for (uint32_t b = 0; b <= position / 32; b++) bytes.push_back(data.read(layer * layer_bytes + ((size_t)table[first + b] * kv_heads + kv) * 64 * row, 64 * (size_t)row));
    const auto value = [&](uint32_t key, int d, bool v) -> double {
      const uint8_t *at = bytes[key / 32].data() + (v ? 32 * row : 0) + key % 32 * row;
      __half half;
      if (type == F16) { memcpy(&half, at + 2 * d, 2); return __half2float(half); }
      memcpy(&half, at + n + d / 32 * 2, 2);
      return (int8_t)at[d] * (double)__half2float(half);
    };
    double top = -1e30, sum = 0;
    for (uint32_t k = 0; k <= position; k++) {
      for (int d = 0; d < n; d++) scores[k] += q[d] * value(k, d, false);
      scores[k] /= sqrt((double)n);
      top = std::max(top, scores[k]);
    }
    for (uint32_t k = 0; k <= position; k++) {
      const double w = exp(scores[k] - top);
      sum += w;
      for (int d = 0; d < n; d++) o[d] += w * value(k, d, true);
    }
    const auto got = f.read((size_t)r * heads * n + (size_t)head * n, n);
    double wrong = 0, all = 0;
    for (int d = 0; d < n; d++) { wrong += (got[d] - o[d] / sum) * (got[d] - o[d] / sum); all += o[d] / sum * (o[d] / sum); }
    return wrong / all;
  }
};

static int bad = 0;
static const char *verdict(double error, double most) {
  if (error < most) return "ok";
  bad++;
  return "WRONG";
}

static void prompt(int heads, int kv_heads, int dim, int rows) {
  World w(heads, kv_heads, dim, F16, 1, rows, 2, rows, true);
  const double flop = 2.0 * dim * heads * (double)rows * (rows + 1); // seen pairs only
  for (const auto &v : PROMPTS) {
    if (v.dim != dim) continue;
    if (cudaFuncSetAttribute(v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.shared) != cudaSuccess) { printf("prompt %s: no room\n", v.name); cudaGetLastError(); continue; }
    int resident = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, v.kernel, v.threads, v.shared));
    const auto launch = [&](int i) {
      const int per = v.queries / (heads / kv_heads);
      v.kernel<<<dim3(kv_heads, (rows + per - 1) / per), v.threads, v.shared, stream>>>(w.attend(i % 2), w.where(), w.cache(i % 2), 0, rows, w.out());
    };
    CHECK(cudaMemset(w.f.p, 0xff, 4 * w.f.n));
    launch(0);
    CHECK(cudaStreamSynchronize(stream));
    double error = 0;
    for (int r : {0, 1, rows / 2 + 5, rows - 1}) for (int h : {0, heads - 1}) error = std::max(error, w.error(0, r, h));
    const double us = median_us(launch, 10, rows > 1000 ? 5 : 7);
    printf("prompt %d+%d heads of %d, %5d rows | %-42s %d resident | %8.1f us %6.1f TFLOPS | NMSE %.1e %s\n", heads, kv_heads, dim, rows, v.name, resident, us, flop / us * 1e-6, error, verdict(error, 1e-5));
  }
}

static void decode(int heads, int kv_heads, int dim, int type, int sequences, int length) {
  const size_t bytes = (size_t)sequences * length * kv_heads * 2 * row_bytes(type, dim);
  const int layers = (int)std::min<size_t>(32, 1 + (300u << 20) / bytes);
  World w(heads, kv_heads, dim, type, sequences, length, layers, sequences, false);
  int partitions = 1;
  while (partitions * PARTITION < length) partitions *= 2;
  Device<float> partial((size_t)sequences * heads * partitions * (dim + 2));
  const auto merge = [&](int i) {
    if (partitions > 1) attend_merge<<<dim3(heads, sequences), 256, 0, stream>>>(w.attend(i % layers), w.where(), dim, 0, partial.p, partitions, w.out());
  };
  const int group = heads / kv_heads;
  bool first = true;
  for (const auto &v : DECODES) {
    if (type != F16 && v.heads != 4) continue;
    const auto part = [&](int i) {
      v.kernel<<<dim3(partitions, kv_heads * ((group + v.heads - 1) / v.heads), sequences), 256, 0, stream>>>(w.attend(i % layers), w.where(), w.cache(i % layers), 0, partial.p, w.out());
    };
    CHECK(cudaMemset(w.f.p, 0xff, 4 * w.f.n));
    part(0);
    merge(0);
    CHECK(cudaStreamSynchronize(stream));
    double error = 0;
    if (first || sequences == 1) for (int r : {0, sequences - 1}) for (int h : {0, heads - 1}) error = std::max(error, w.error(0, r, h));
    else error = w.error(0, sequences - 1, heads - 1);
    const double us = median_us([&](int i) { part(i); merge(i); }, 20, 5), alone = median_us(part, 20, 5);
    printf("decode %d+%d heads of %d %s, %2d of %5d | %-36s | %7.1f us, without merge %7.1f us %6.0f GB/s | NMSE %.1e %s\n", heads, kv_heads, dim, type == F16 ? "f16 " : "q8_0", sequences, length,
           v.name, us, alone, bytes / alone * 1e-3, error, verdict(error, 1e-9));
    first = false;
  }
}

static void finish(int heads, int kv_heads, int dim, int rows) {
  const int layers = rows > 1 ? 8 : 32;
  World w(heads, kv_heads, dim, F16, 1, rows, layers, rows, true);
  Device<float> weight(dim), cosines((size_t)rows * dim / 2), sines((size_t)rows * dim / 2);
  fill_floats<<<64, 256, 0, stream>>>(weight.p, weight.n, 77);
  fill_floats<<<64, 256, 0, stream>>>(cosines.p, cosines.n, 78);
  fill_floats<<<64, 256, 0, stream>>>(sines.p, sines.n, 79);
  CHECK(cudaStreamSynchronize(stream));
  const Turn turn = {nullptr, nullptr, cosines.p, sines.p, 1e-5f, dim / 2, 0, 0};
  const auto launch = [&](int i) {
    const int l = i % layers;
    qkv_finish<<<dim3((heads + 2 * kv_heads + HEADS_AT_ONCE - 1) / HEADS_AT_ONCE, rows), 32 * HEADS_AT_ONCE, 0, stream>>>(w.qkv.p + (size_t)l * rows * w.qkv_row, (int)w.qkv_row, heads, turn, w.where(), w.cache(l));
  };
  // The last row's key and value of the last head, and a query.
  const int r = rows - 1;
  const auto before = w.qkv.read((size_t)r * w.qkv_row, w.qkv_row), cs = cosines.read((size_t)r * dim / 2, dim / 2), sn = sines.read((size_t)r * dim / 2, dim / 2);
  launch(0);
  CHECK(cudaStreamSynchronize(stream));
  const auto after = w.qkv.read((size_t)r * w.qkv_row, w.qkv_row);
  const auto cached = w.data.read(((size_t)w.table[r / 32] * kv_heads + kv_heads - 1) * 64 * w.row, 64 * (size_t)w.row);
  const auto half = [&](size_t at) { __half x; memcpy(&x, cached.data() + at, 2); return (double)__half2float(x); };
  double wrong = 0, all = 0;
  for (int d = 0; d < dim / 2; d++)
    for (int which = 0; which < 3; which++) {
      const float *x = before.data() + (size_t)(which == 0 ? 0 : heads + which * kv_heads - 1) * dim;
      const double a = x[d], b = x[d + dim / 2], c = which == 2 ? 1 : cs[d], s = which == 2 ? 0 : sn[d];
      const double turned[2] = {a * c - b * s, b * c + a * s};
      for (int i = 0; i < 2; i++) {
        const int e = d + i * dim / 2;
        const double got = which == 0 ? after[e] : half((size_t)(which - 1) * 32 * w.row + r % 32 * w.row + 2 * e);
        wrong += (got - turned[i]) * (got - turned[i]);
        all += turned[i] * turned[i];
      }
    }
  const double us = median_us(launch, 50, 5), bytes = rows * ((double)w.qkv_row * 4 + heads * dim * 4.0 + kv_heads * dim * 4.0);
  printf("qkv_finish %d+%d heads of %d, %4d rows | %6.1f us %6.0f GB/s | NMSE %.1e %s\n", heads, kv_heads, dim, rows, us, bytes / us * 1e-3, wrong / all, verdict(wrong / all, 1e-6));
}

int main() {
  CHECK(cudaStreamCreate(&stream));
  prompt(32, 8, 128, 512);
  prompt(32, 8, 128, 4096);
  prompt(32, 8, 64, 4096);
  prompt(4, 1, 256, 512);
  for (int dim : {64, 128})
    for (int type : {F16, Q8_0}) {
      for (int length : {128, 4096, 16384}) decode(32, 8, dim, type, 1, length);
      for (int sequences : {8, 32}) decode(32, 8, dim, type, sequences, 4096);
    }
  for (int rows : {1, 512}) finish(32, 8, 128, rows);
  printf("%d wrong\n", bad);
  return bad != 0;
}
