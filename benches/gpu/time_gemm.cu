// Times and checks products of prompt rows on compute capability 9.0, in both sizes of tiles, beside those for 8.0: see kernels.sh.
#include "quantised.cu"
#include "timing.cuh"
#include <cstring>
#include <random>

template <int L> __global__ void __launch_bounds__(256, 1) wide(const Product p, const Experts e, const Groups g) { gemm_wide<L, 256>(p, e, g); }
template <int L> __global__ void __launch_bounds__(256, 2) narrow(const Product p, const Experts e, const Groups g) { gemm_wide<L, 128>(p, e, g); }
template <int L> __global__ void __launch_bounds__(256) plain(const Product p, const Experts e, const Groups g) { gemm<PackedTile<L>>(p, e, g); }
template <int L> __global__ void dequantise(const uint8_t *w, int units, float *out, int columns) {
  using T = Packed<L>;
  const int r = blockIdx.x;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    const int at = c / 32, block = at % T::BLOCKS, j = c % 32 / 4;
    const uint8_t *unit = w + ((size_t)(r / 16) * units + at / T::BLOCKS) * T::UNIT;
    Scales<L> scales;
    scales.load(unit, r % 16, block);
    uint32_t words[8];
    load_words<L>(unit + T::SCALES + block * T::CODES, r % 16, words);
    float s, m;
    scales.get(block, j / 4, s, m);
    out[(size_t)r * columns + c] = s * code_value<L>(quad<L>(words, j), c % 4) - m;
  }
}
// A thread an output.
__global__ void reference(const float *w, const uint16_t *x, float *y, int rows, int columns) {
  const int r = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
  if (r >= rows) return;
  double sum = 0;
  for (int k = 0; k < columns; k++) sum += (double)w[(size_t)r * columns + k] * bf16_value(x[(size_t)t * columns + k]);
  y[(size_t)t * rows + r] = (float)sum;
}

static std::mt19937 rng(1);
static uint16_t bf16(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  return (uint16_t)((bits + 0x8000) >> 16);
}
// Random codes with plausible scales.
template <int L> static std::vector<uint8_t> weights(int rows, int units) {
  using T = Packed<L>;
  using P = Layout<L>;
  std::vector<uint8_t> w((size_t)(rows + 15) / 16 * units * T::UNIT);
  uint64_t state = 88172645463325252ull;
  for (size_t i = 0; i + 4 <= w.size(); i += 4) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    const uint32_t bits = (uint32_t)(state >> 16);
    memcpy(&w[i], &bits, 4);
  }
  for (size_t u = 0; u < w.size() / T::UNIT; u++) {
    uint8_t *at = w.data() + u * T::UNIT;
    // Of half precision 0.0005 to 0.002, of bf16 about as much.
    const auto scale = [&](int offset) {
      const uint16_t bits = P::wide ? 0x3a00 + rng() % 256 : 0x1000 + rng() % 2048;
      memcpy(at + offset, &bits, 2);
    };
    if (!P::two_level) for (int i = 0; i < T::SCALES; i += 2) scale(i);
    else {
      for (int r = 0; r < 32; r++) scale(2 * r);
      if (!T::nibbles) for (int i = 64; i < T::SCALES; i++) at[i] &= 63;
    }
  }
  return w;
}

static bool wrong = false;
struct Variant {
  const char *name;
  void (*kernel)(const Product, const Experts, const Groups);
  int rows, shared;
};
template <int L> static void run(const char *format, int rows, int columns, int n) {
  const Variant variants[] = {
    {"256 rows", wide<L>, 256, HOPPER_SHARED<256, PackedRows<L>>},
    {"128 rows", narrow<L>, 128, HOPPER_SHARED<128, PackedRows<L>>},
    {"for 8.0", plain<L>, 128, 0},
  };
  const int units = columns / (Packed<L>::BLOCKS * 32);
  const auto w = weights<L>(rows, units);
  // As many copies as L2 does not hold.
  const int copies = std::clamp((int)(120e6 / w.size()), 1, 12);
  uint8_t *dw;
  CHECK(cudaMalloc(&dw, w.size() * copies));
  for (int c = 0; c < copies; c++) CHECK(cudaMemcpy(dw + c * w.size(), w.data(), w.size(), cudaMemcpyHostToDevice));
  std::normal_distribution<float> normal;
  std::vector<uint16_t> table(4096), x((size_t)n * columns);
  for (auto &v : table) v = bf16(normal(rng));
  for (auto &v : x) v = table[rng() & 4095];
  uint16_t *dx;
  float *y, *truth, *dequantised;
  const size_t outputs = (size_t)n * rows;
  CHECK(cudaMalloc(&dx, 2 * x.size()));
  CHECK(cudaMemcpy(dx, x.data(), 2 * x.size(), cudaMemcpyHostToDevice));
  CHECK(cudaMalloc(&y, 4 * outputs));
  CHECK(cudaMalloc(&truth, 4 * outputs));
  const bool small = (size_t)rows * columns < 80e6 && n <= 600;
  std::vector<float> want(outputs), got(outputs), first;
  if (small) {
    CHECK(cudaMalloc(&dequantised, 4 * (size_t)rows * columns));
    dequantise<L><<<rows, 256>>>(dw, units, dequantised, columns);
    reference<<<dim3((rows + 255) / 256, n), 256>>>(dequantised, dx, truth, rows, columns);
    CHECK(cudaMemcpy(want.data(), truth, 4 * outputs, cudaMemcpyDeviceToHost));
    CHECK(cudaFree(dequantised));
  }
  static const Experts experts = {};
  const Groups groups = {};
  for (const Variant &v : variants) {
    Product p = {dw, dx, y, nullptr, units, columns, rows, rows, n, 0};
    CHECK(cudaFuncSetAttribute(v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.shared));
    const dim3 grid((n + v.rows - 1) / v.rows, (rows + 127) / 128);
    CHECK(cudaMemset(y, 0xff, 4 * outputs));
    v.kernel<<<grid, 256, v.shared>>>(p, experts, groups);
    CHECK(cudaMemcpy(got.data(), y, 4 * outputs, cudaMemcpyDeviceToHost));
    double error = 0, all = 0;
    for (size_t i = 0; small && i < outputs; i++) error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]), all += (double)want[i] * want[i];
    const bool same = first.empty() || v.shared == 0 || memcmp(first.data(), got.data(), 4 * outputs) == 0;
    if (first.empty()) first = got;
    const double us = median_us([&](int i) {
      p.w = dw + i % copies * w.size();
      v.kernel<<<grid, 256, v.shared, stream>>>(p, experts, groups);
    }, std::max(4, copies), 7, false);
    const bool right = same && (!small || error < 2e-5 * all);
    wrong |= !right;
    printf("%-6s %6d x %-5d, %4d rows | %-8s | %8.1f us %6.0f TFLOPS", format, rows, columns, n, v.name, us, 2e-6 * rows * columns * n / us);
    if (small) printf(" | NMSE %.1e", error / all);
    printf("%s\n", right ? "" : same ? " WRONG" : " OTHER BITS");
  }
  fflush(stdout);
  for (void *at : {(void *)dw, (void *)dx, (void *)y, (void *)truth}) CHECK(cudaFree(at));
}

int main() {
  CHECK(cudaStreamCreate(&stream));
  for (int n : {512, 2048}) {
    run<7>("q4_k", 28672, 4096, n);
    run<7>("q4_k", 6144, 4096, n);
    run<7>("q4_k", 4096, 4096, n);
    run<9>("q6_k", 4096, 14336, n);
  }
  run<7>("q4_k", 4000, 2048, 77);
  run<0>("q4_0", 4096, 4096, 512);
  run<4>("q8_0", 4096, 4096, 512);
  run<5>("q2_k", 4096, 4096, 512);
  run<6>("q3_k", 4096, 4096, 512);
  run<8>("q5_k", 4096, 4096, 512);
  run<10>("iq4_nl", 4096, 4096, 512);
  run<7>("q4_k", 8192, 8192, 8192);
  puts(wrong ? "SOME ARE WRONG" : "all right");
  return wrong;
}
