// Times and checks products of generated rows and variants of them: see kernels.sh.
#include "quantised.cu"
#include "timing.cuh"
#include <cmath>
INSTANCES(7) INSTANCES(9) INSTANCES(4) INSTANCES(0)
// Other numbers of chunks ahead and of blocks that registers are kept for.
template <int L, int AHEAD_, int BLOCKS_> __global__ void __launch_bounds__(256, BLOCKS_) variant(const Product p) {
  matvec<L, AHEAD_>(p, p.w, static_cast<const ActBlock *>(p.x), p.y, p.bias);
}
template <int L> __global__ void reference(const Product p) { // a thread an output, in double
  using T = Packed<L>;
  const int r = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y, blocks = p.columns / 32;
  if (r >= p.rows) return;
  double sum = 0;
  for (int at = 0; at < blocks; at++) {
    const uint8_t *unit = p.w + ((size_t)(r / 16) * p.units + at / T::BLOCKS) * T::UNIT;
    const int block = at % T::BLOCKS;
    Scales<L> scales;
    scales.load(unit, r % 16, block);
    uint32_t words[8];
    load_words<L>(unit + T::SCALES + block * T::CODES, r % 16, words);
    const ActBlock &x = static_cast<const ActBlock *>(p.x)[(size_t)t * blocks + at];
    for (int h = 0; h < 2; h++) {
      float s, m;
      scales.get(block, h, s, m);
#pragma unroll
      for (int q = 0; q < 8; q++) {
        if (q / 4 != h) continue;
        const uint32_t codes = quad<L>(words, q);
        for (int i = 0; i < 4; i++) {
          const int8_t c = reinterpret_cast<const int8_t *>(x.q)[4 * q + i];
          sum += ((double)s * code_value<L>(codes, i) - m) * c * x.d[h];
        }
      }
    }
  }
  p.y[(size_t)t * p.stride + r] = (float)sum;
}
__global__ void fill(uint32_t *w, size_t n, uint32_t seed) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    uint32_t h = (uint32_t)i * 2654435761u + seed;
    h ^= h >> 16; h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
    w[i] = h;
  }
}
// Plausible d and dmin in a unit.
template <int L> __global__ void fill_scales(uint8_t *w, size_t units) {
  using T = Packed<L>;
  const size_t u = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
  if (u >= units) return;
  uint16_t *d = reinterpret_cast<uint16_t *>(w + u * T::UNIT);
  const int n = Layout<L>::two_level ? (Layout<L>::min ? 32 : 16) : T::SCALES / 2;
  for (int i = 0; i < n; i++) d[i] = 0x1000 + ((u * 31 + i * 7) & 0x3ff);
}
__global__ void fill_x(ActBlock *x, size_t n) {
  const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
  if (i >= n) return;
  ActBlock b;
  int sum[2] = {};
  for (int k = 0; k < 32; k++) {
    const int q = (int)((i * 37 + k * 101 + (i >> 5) * 13) % 255) - 127;
    reinterpret_cast<int8_t *>(b.q)[k] = (int8_t)q;
    sum[k / 16] += q;
  }
  b.d[0] = 0.01f + (i % 7) * 0.001f; b.d[1] = 0.011f + (i % 5) * 0.001f;
  b.n[0] = sum[0]; b.n[1] = sum[1];
  x[i] = b;
}
typedef void (*K)(const Product);
struct Launch { dim3 grid; int threads; size_t shared; };
template <int L> Launch one(int rows, int chunks, int ahead = AHEAD) {
  const int warps = std::min(8, chunks), each = std::min(ahead, (chunks + warps - 1) / warps);
  return {dim3(1, (rows + 15) / 16), 32 * warps, (size_t)warps * each * Chunk<L>::STAGE};
}
template <int L, int N> Launch several(int rows, int n) {
  using B = Batch<L, N>;
  return {dim3((n + N - 1) / N, (rows + 31) / 32), 256, B::SHARED};
}
static void launch(K k, Launch l, Product p, bool programmatic) {
  cudaLaunchConfig_t c = {};
  c.gridDim = l.grid; c.blockDim = dim3(l.threads); c.dynamicSmemBytes = l.shared; c.stream = stream;
  cudaLaunchAttribute a;
  a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  a.val.programmaticStreamSerializationAllowed = 1;
  c.attrs = &a; c.numAttrs = programmatic ? 1 : 0;
  CHECK(cudaLaunchKernelEx(&c, k, p));
}
static uint8_t *pool; static size_t pool_bytes = (size_t)3 << 30;
static ActBlock *x; static float *y, *truth;
constexpr int ROWS_OF_X = 128;
template <int L> void shape(const char *name, int rows, int cols) {
  using T = Packed<L>;
  const int chunks = (cols + 255) / 256, units = (cols / 32 + T::BLOCKS - 1) / T::BLOCKS;
  const size_t bytes = (size_t)((rows + 15) / 16) * units * T::UNIT;
  const int copies = (int)std::max<size_t>(1, std::min<size_t>(pool_bytes / bytes, 64));
  fill<<<2048, 256, 0, stream>>>(reinterpret_cast<uint32_t *>(pool), copies * bytes / 4, 7);
  fill_scales<L><<<(copies * bytes / T::UNIT + 255) / 256, 256, 0, stream>>>(pool, copies * bytes / T::UNIT);
  fill_x<<<ROWS_OF_X * cols / 32 / 128, 128, 0, stream>>>(x, (size_t)ROWS_OF_X * cols / 32);
  Product p = {pool, x, truth, nullptr, units, cols, rows, rows, 1, 0};
  std::vector<float> a(rows), b(rows), alone(rows);
  for (int tried : {1, -1, -2, -3, -4, 2, 8, 16, 32, 64, 128}) {
    const int n = std::max(1, tried);
    if (n > 1 && rows > 100000) continue; // the head: of one row here
    p.n = n; p.y = y; p.w = pool;
    K k; Launch l;
    const auto choose = [&](auto one_kernel, auto b8, auto b16, auto b32) {
      if (n == 1) k = one_kernel, l = one<L>(rows, chunks);
      else if (n <= 8) k = b8, l = several<L, 8>(rows, n);
      else if (n <= 16) k = b16, l = several<L, 16>(rows, n);
      else k = b32, l = several<L, 32>(rows, n);
    };
    const char *what = "";
    if (tried < 0) {
      const int ahead = tried == -1 ? 1 : tried == -2 ? 2 : tried == -3 ? 3 : 4;
      if (ahead >= 3 && chunks <= 16) continue; // no warp has more than two
      what = tried == -1 ? "[1 ahead, 4 blocks] " : tried == -2 ? "[2 ahead, 3 blocks] " : tried == -3 ? "[3 ahead, 3 blocks] " : "[4 ahead, 2 blocks] ";
      k = tried == -1 ? (K)variant<L, 1, 4> : tried == -2 ? (K)variant<L, 2, 3> : tried == -3 ? (K)variant<L, 3, 3> : (K)variant<L, 4, 2>;
      l = one<L>(rows, chunks, ahead);
    } else if (L == 7) choose(matvec1_7, batch8_7, batch16_7, batch32_7);
    else if (L == 9) choose(matvec1_9, batch8_9, batch16_9, batch32_9);
    else if (L == 4) choose(matvec1_4, batch8_4, batch16_4, batch32_4);
    else if (L == 0) choose(matvec1_0, batch8_0, batch16_0, batch32_0);
    CHECK(cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)l.shared));
    int resident = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, k, l.threads, l.shared));
    launch(k, l, p, false);
    // The last row against a reference, and the first one's bits against those that it has alone.
    Product q = p;
    q.x = x + (size_t)(n - 1) * cols / 32; q.y = truth; q.n = 1;
    reference<L><<<(rows + 127) / 128, 128, 0, stream>>>(q);
    CHECK(cudaMemcpyAsync(a.data(), y + (size_t)(n - 1) * rows, 4 * rows, cudaMemcpyDefault, stream));
    CHECK(cudaMemcpyAsync(b.data(), truth, 4 * rows, cudaMemcpyDefault, stream));
    CHECK(cudaStreamSynchronize(stream));
    double error = 0, square = 0;
    for (int i = 0; i < rows; i++) error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]), square += (double)b[i] * b[i];
    bool same = true;
    if (n == 1) alone = a;
    else {
      CHECK(cudaMemcpy(a.data(), y, 4 * rows, cudaMemcpyDefault));
      same = std::equal(a.begin(), a.end(), alone.begin());
    }
    // Launches; a graph; a graph of kernels that begin early.
    double us[3];
    for (int way = 0; way < 3; way++)
      us[way] = median_us([&](int i) {
        p.w = pool + (size_t)(i % copies) * bytes;
        launch(k, l, p, way == 2);
      }, 64, 3, way > 0);
    printf("layout %d %-12s %6d x %5d, %3d rows: launched %7.2f us, graph %7.2f us, early %7.2f us = %6.0f GB/s = %3.0f %%; %d blocks/SM, %zu KiB; NMSE %.1e%s%s %s\n", L, name, rows,
           cols, n, us[0], us[1], us[2], bytes / us[2] / 1e3, bytes / us[2] / 3.04e6 * 100, resident, l.shared >> 10, error / square, error / square < 1e-9 ? "" : " WRONG",
           same ? "" : " OTHER BITS", what);
  }
}
template <int L> void shapes(bool head) {
  shape<L>("8b qkv", 6144, 4096); shape<L>("8b out", 4096, 4096); shape<L>("8b gate|up", 28672, 4096); shape<L>("8b down", 4096, 14336);
  shape<L>("1b qkv", 3072, 2048); shape<L>("1b out", 2048, 2048); shape<L>("1b gate|up", 16384, 2048); shape<L>("1b down", 2048, 8192);
  if (head) { shape<L>("8b head", 128256, 4096); shape<L>("1b head", 128256, 2048); }
}
int main() {
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMalloc(&pool, pool_bytes));
  CHECK(cudaMalloc(&x, (size_t)ROWS_OF_X * 14336 / 32 * sizeof(ActBlock)));
  CHECK(cudaMalloc(&y, (size_t)ROWS_OF_X * 128256 * 4));
  CHECK(cudaMalloc(&truth, 128256 * 4));
  shapes<7>(true); shapes<9>(true); shapes<4>(false); shapes<0>(false);
}
