// Times and checks rows.cu and draw.cu: see kernels.sh.
// Each launch reads another of several buffers, so many that they do not stay in L2 where "cold" is said; "warm": one buffer, as in a decode step, where the
// kernel before has just written it. "chain": launches back to back that overlap (programmatic), so the time is that of a link of a decode step's chain.
#include "rows.cu"
#include "draw.cu"
#include "timing.cuh"
#include <cmath>
#include <random>
#include <string>

template <int H, int T> __global__ void __launch_bounds__(T) norm_variant(const float *x, int kind, float eps, const float *__restrict__ weight, const float *__restrict__ bias, const Out o) {
  norm_row<H>(x, kind, eps, weight, bias, o);
}
template <int H, int T> __global__ void __launch_bounds__(T) add_variant(const float *x, int kind, float eps, const float *__restrict__ weight, const float *__restrict__ bias, float *y, int width) {
  add_norm_row<H>(x, kind, eps, weight, bias, y, width);
}

static bool failed = false;
static std::mt19937 generator(7);

// As crates/cuda launches: kernels that may begin before the last one has ended.
template <class... P, class... A> static void launch(void (*kernel)(P...), dim3 grid, int threads, bool early, A... a) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  CHECK(cudaLaunchKernelEx(&config, kernel, P(a)...));
}

static void report(const std::string &what, const char *how, double us, double bytes) {
  printf("%-44s %-6s %9.2f us %8.0f GB/s\n", what.c_str(), how, us, bytes / us / 1e3);
  fflush(stdout);
}
// All three ways.
static void time_all(const std::string &what, double bytes, int buffers, const std::function<void(int, bool)> &one) {
  report(what, "cold", median_us([&](int i) { one(i % buffers, false); }, 60, 9), bytes);
  report(what, "warm", median_us([&](int) { one(0, false); }, 60, 9), bytes);
  report(what, "chain", median_us([&](int) { one(0, true); }, 60, 9), bytes);
}

template <class T> static T *device(size_t n) {
  T *p;
  CHECK(cudaMalloc(&p, n * sizeof(T)));
  CHECK(cudaMemset(p, 0, n * sizeof(T)));
  return p;
}
static std::vector<float> normal(size_t n, float scale) {
  // A pool of numbers, at odd offsets: quick to make.
  static const std::vector<float> pool = [] {
    std::vector<float> p(1 << 20);
    std::normal_distribution<float> d;
    for (auto &v : p) v = d(generator);
    return p;
  }();
  std::vector<float> v(n);
  size_t at = generator();
  for (auto &e : v) e = scale * pool[at++ & (pool.size() - 1)], at += (at & 4095) == 0 ? 977 : 0;
  return v;
}
template <class T> static std::vector<T> host(const T *p, size_t n) {
  std::vector<T> v(n);
  CHECK(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
  return v;
}
static void expect(bool ok, const std::string &what) {
  if (!ok) printf("WRONG: %s\n", what.c_str()), failed = true;
}

struct Rows {
  int rows, width, padded, buffers;
  float *x, *f, *weight;
  ActBlock *q;
  uint16_t *h;
  uint32_t *roles[2];
  std::vector<float> first, w;
  Rows(int rows, int width, int per_row = 1) : rows(rows), width(width), padded((width + 63) / 64 * 64) {
    const size_t bytes = 4ull * rows * width * per_row;
    buffers = (int)std::min<size_t>(60, std::max<size_t>(3, (160ull << 20) / bytes));
    x = device<float>(bytes / 4 * buffers);
    first = normal(bytes / 4, 1.f);
    w = normal(width, 1.f);
    for (int b = 0; b < buffers; b++) CHECK(cudaMemcpy(x + bytes / 4 * b, first.data(), bytes, cudaMemcpyHostToDevice));
    f = device<float>((size_t)rows * width * buffers);
    weight = device<float>(width);
    CHECK(cudaMemcpy(weight, w.data(), 4 * width, cudaMemcpyHostToDevice));
    q = device<ActBlock>((size_t)rows * padded / 32);
    h = device<uint16_t>((size_t)rows * padded * buffers);
    for (int r = 0; r < 2; r++) {
      std::vector<uint32_t> role(rows, r);
      roles[r] = device<uint32_t>(rows);
      CHECK(cudaMemcpy(roles[r], role.data(), 4 * rows, cudaMemcpyHostToDevice));
    }
  }
  ~Rows() {
    for (void *p : {(void *)x, (void *)f, (void *)weight, (void *)q, (void *)h, (void *)roles[0], (void *)roles[1]}) CHECK(cudaFree(p));
  }
  Out out(int b, bool floats, uint32_t role) const { return {floats ? f + (size_t)b * rows * width : nullptr, q, h + (size_t)b * rows * padded, roles[role], width, padded}; }
  // What was rounded is near `wanted`.
  void check(const std::vector<float> &wanted, uint32_t role, const std::string &what) const {
    double worst = 0;
    if (role == PROMPT) {
      const auto got = host(h, (size_t)rows * padded);
      for (int r = 0; r < rows; r++)
        for (int c = 0; c < width; c++) {
          const uint32_t bits = (uint32_t)got[(size_t)r * padded + c] << 16;
          float v;
          memcpy(&v, &bits, 4);
          const float want = wanted[(size_t)r * width + c];
          worst = std::max(worst, (double)std::fabs(v - want) / (std::fabs(want) + 1e-3));
        }
      expect(worst < 0.006, what + " in bf16");
    } else {
      const auto got = host(q, (size_t)rows * padded / 32);
      for (int r = 0; r < rows; r++)
        for (int c = 0; c < width; c++) {
          const ActBlock &b = got[((size_t)r * padded + c) / 32];
          const int half = c / 16 % 2;
          const float v = b.d[half] * reinterpret_cast<const int8_t *>(b.q)[c % 32];
          worst = std::max(worst, std::fabs((double)v - wanted[(size_t)r * width + c]) - 0.51 * b.d[half]);
          int sum = 0;
          for (int i = 0; i < 16; i++) sum += reinterpret_cast<const int8_t *>(b.q)[16 * half + i];
          if (sum != b.n[half]) worst = INFINITY;
        }
      expect(worst < 1e-4, what + " in 8 bits");
    }
  }
  double bytes(uint32_t role, int per_row, bool floats) const { return (double)rows * width * (4 * per_row + (floats ? 4 : 0) + (role == PROMPT ? 2 : 1.5)); }
};
static int threads_for(int width, int held) { return std::min(1024, std::max(32, (width + 4 * held * 32 - 1) / (4 * held * 32) * 32)); }
static dim3 quads_grid(int width, int rows, int &threads) {
  threads = std::min(256, std::max(32, (width + 127) / 128 * 32));
  return dim3((width + 4 * threads - 1) / (4 * threads), rows);
}
static std::vector<float> norm_of(const Rows &a) {
  std::vector<float> wanted(a.first.size());
  for (int r = 0; r < a.rows; r++) {
    const float *x = a.first.data() + (size_t)r * a.width;
    double square = 0;
    for (int c = 0; c < a.width; c++) square += (double)x[c] * x[c];
    for (int c = 0; c < a.width; c++) wanted[(size_t)r * a.width + c] = (float)(x[c] / std::sqrt(square / a.width + 1e-5)) * a.w[c];
  }
  return wanted;
}
typedef void (*NormKernel)(const float *, int, float, const float *, const float *, const Out);
typedef void (*AddKernel)(const float *, int, float, const float *, const float *, float *, int);

static void norms(int rows, int width) {
  Rows a(rows, width);
  const uint32_t role = rows == 1 ? GENERATED : PROMPT;
  const auto wanted = norm_of(a);
  const std::string shape = " " + std::to_string(rows) + " x " + std::to_string(width);
  struct Variant { const char *name; int held; NormKernel norm; AddKernel add; };
  const Variant variants[] = {{" held 2", HELD, norm_rows, add_norm}, {" held 1", 1, norm_variant<1, 1024>, add_variant<1, 1024>}, {" held 2 of 512", 2, norm_variant<2, 512>, add_variant<2, 512>},
                              {" held 4 of 512", 4, norm_variant<4, 512>, add_variant<4, 512>}};
  for (const auto &v : variants) {
    const int threads = threads_for(width, v.held);
    for (bool floats : {false, true}) {
      const auto one = [&](int b, bool early) { launch(v.norm, dim3(rows), threads, early, a.x + (size_t)b * rows * width, 0, 1e-5f, a.weight, nullptr, a.out(b, floats, role)); };
      one(0, false);
      CHECK(cudaDeviceSynchronize());
      a.check(wanted, role, "norm_rows" + shape + v.name);
      time_all("norm_rows" + shape + v.name + (floats ? " + floats" : ""), a.bytes(role, 1, floats), a.buffers, one);
    }
    CHECK(cudaMemset(a.f, 0, 4ull * rows * width * a.buffers));
    const auto add = [&](int b, bool early) { launch(v.add, dim3(rows), threads, early, a.x + (size_t)b * rows * width, 0, 1e-5f, a.weight, nullptr, a.f + (size_t)b * rows * width, width); };
    add(0, false);
    CHECK(cudaDeviceSynchronize());
    const auto got = host(a.f, (size_t)rows * width);
    double worst = 0;
    for (size_t i = 0; i < got.size(); i++) worst = std::max(worst, (double)std::fabs(got[i] - wanted[i]));
    expect(worst < 1e-4, "add_norm" + shape);
    time_all("add_norm" + shape + v.name, 12. * rows * width, a.buffers, add);
  }
  const auto round = [&](int b, bool early) {
    int threads;
    const dim3 grid = quads_grid(a.padded, rows, threads);
    launch(round_rows, grid, threads, early, a.x + (size_t)b * rows * width, a.out(b, false, role));
  };
  round(0, false);
  CHECK(cudaDeviceSynchronize());
  a.check(a.first, role, "round_rows" + shape);
  time_all("round_rows" + shape, a.bytes(role, 1, false), a.buffers, round);
}

static void activations(int rows, int width) {
  Rows a(rows, width, 2);
  const uint32_t role = rows == 1 ? GENERATED : PROMPT;
  std::vector<float> wanted((size_t)rows * width);
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < width; c++) {
      const float *x = a.first.data() + (size_t)r * width * 2;
      wanted[(size_t)r * width + c] = x[c] / (1 + std::exp(-x[c])) * x[width + c];
    }
  for (bool floats : {false, true}) {
    const auto one = [&](int b, bool early) {
      int threads;
      const dim3 grid = quads_grid(a.padded, rows, threads);
      launch(activate, grid, threads, early, a.x + (size_t)b * rows * width * 2, 0, 1, a.out(b, floats, role));
    };
    one(0, false);
    CHECK(cudaDeviceSynchronize());
    const std::string what = "activate " + std::to_string(rows) + " x " + std::to_string(width) + (floats ? " + floats" : "");
    a.check(wanted, role, what);
    time_all(what, a.bytes(role, 2, floats), a.buffers, one);
  }
}

static void tokens(int rows, int vocab, int k, bool equal) {
  const int buffers = (int)std::min<size_t>(60, std::max<size_t>(3, (120ull << 20) / (4ull * rows * vocab)));
  float *logits = device<float>((size_t)rows * vocab * buffers);
  auto values = normal((size_t)rows * vocab, 3.f);
  if (equal) std::fill(values.begin(), values.end(), 1.f);
  for (int b = 0; b < buffers; b++) CHECK(cudaMemcpy(logits + (size_t)rows * vocab * b, values.data(), 4 * values.size(), cudaMemcpyHostToDevice));
  // As by default, and of what is random nothing: the likeliest.
  const float numbers[] = {0.8f, 0.95f, std::log(0.05f)};
  const uint32_t many = k;
  uint32_t *fields = device<uint32_t>(6 * rows);
  for (int r = 0; r < rows; r++) {
    const uint32_t *n = (const uint32_t *)numbers;
    const uint32_t values[6] = {n[0], many, n[1], n[2], 0, 0};
    for (int f = 0; f < 6; f++) CHECK(cudaMemcpy(fields + f * rows + r, values + f, 4, cudaMemcpyHostToDevice));
  }
  const Draws draws = {(const float *)fields, fields + rows, (const float *)(fields + 2 * rows), (const float *)(fields + 3 * rows), fields + 4 * rows, fields + 5 * rows};
  for (int first : {256, 512, 128}) {
    const auto pieces = [&](int n, bool is_first) {
      const int threads = (n + EACH * 32 - 1) / (EACH * 32) * 32;
      if (threads <= THREADS) return std::make_pair(1, threads);
      const int t = is_first ? first : THREADS;
      return std::make_pair((n + EACH * t - 1) / (EACH * t), t);
    };
    Rank *between[2] = {device<Rank>((size_t)rows * pieces(vocab, true).first * k), device<Rank>((size_t)rows * pieces(vocab, true).first * k)};
    uint32_t *drawn;
    CHECK(cudaMallocHost(&drawn, 4ull * rows));
    const auto one = [&](int b, bool early) {
      const float *from = logits + (size_t)b * rows * vocab;
      const Rank *ranks = nullptr;
      int n = vocab;
      for (int pass = 0;; pass++) {
        const auto [count, threads] = pieces(n, pass == 0);
        Rank *to = between[pass % 2];
        launch(draw, dim3(count, rows), threads, early, pass ? nullptr : from, ranks, n, k, to, draws, drawn);
        if (count == 1) break;
        n = count * k, ranks = to;
      }
    };
    one(0, false);
    CHECK(cudaDeviceSynchronize());
    const std::string what = "draw k=" + std::to_string(k) + " " + std::to_string(rows) + " x " + std::to_string(vocab) + (equal ? " equal" : "") + " by " + std::to_string(first);
    for (int r = 0; r < rows; r++) {
      const float *row = values.data() + (size_t)r * vocab;
      expect(drawn[r] == std::max_element(row, row + vocab) - row, what);
    }
    time_all(what, 4. * rows * vocab, buffers, one);
    CHECK(cudaFree(between[0]));
    CHECK(cudaFree(between[1]));
    CHECK(cudaFreeHost(drawn));
  }
  CHECK(cudaFree(fields));
  CHECK(cudaFree(logits));
}

int main() {
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int width : {2048, 4096})
    for (int rows : {1, 512}) norms(rows, width);
  for (int rows : {1, 512}) activations(rows, 14336);
  for (int vocab : {128256, 262144})
    for (int rows : {1, 32})
      for (int k : {1, 40}) tokens(rows, vocab, k, false);
  tokens(1, 128256, 40, true);
  tokens(1, 128256, 256, false);
  puts(failed ? "SOME ARE WRONG" : "all right");
  return failed;
}
