// A stand-in for libcuda.so.1: the part of the CUDA driver API that crates/cuda uses, over host memory and the emulator. It keeps the
// driver's limits: sizes of grids and blocks, bounds of copies, names in the loaded PTX, what may happen while a stream is captured.
//   CUDA_EMULATOR_CAPABILITY  compute capability, two digits: 80 unless set
//   CUDA_EMULATOR_MEMORY      bytes of each device's memory: 16 GiB unless set
//   CUDA_EMULATOR_DEVICES     number of devices: 1 unless set
//   CUDA_EMULATOR_POOLS       0: no memory in the order of streams
//   CUDA_EMULATOR_COUNT       file to which the launches of each kernel are written at exit
#include "kernels.cpp"
#include <functional>
#include <mutex>
#define API extern "C" __attribute__((visibility("default"))) int
typedef unsigned long long Pointer;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_PTX = 218, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900 };

struct Function {
  std::string name;
  emulator::Entry entry;
  int dynamic_shared = 48 << 10;
};
struct Module {
  std::string image;
  std::map<std::string, Function> functions;
};
struct Graph { std::vector<std::function<int()>> nodes; };

static std::mutex mutex;
struct Allocation { size_t bytes; int device; };
static std::map<Pointer, Allocation> allocations;
static std::map<int, size_t> used;
static std::map<std::string, size_t> launches;
// A device's context is its number and 1.
static thread_local void *current;
static int current_device() { return (int)(size_t)current - 1; }

static size_t setting(const char *name, size_t otherwise) {
  const char *value = getenv(name);
  return value ? strtoull(value, nullptr, 10) : otherwise;
}
static size_t memory() { return setting("CUDA_EMULATOR_MEMORY", 16ull << 30); }
static int devices() { return (int)setting("CUDA_EMULATOR_DEVICES", 1); }
static int capability() { return (int)setting("CUDA_EMULATOR_CAPABILITY", 80); }

struct Count {
  ~Count() {
    const char *path = getenv("CUDA_EMULATOR_COUNT");
    FILE *f = path ? fopen(path, "a") : nullptr;
    if (!f) return;
    for (auto &[name, n] : launches) fprintf(f, "%s %zu\n", name.c_str(), n);
    fclose(f);
  }
} static count_at_exit;

struct Stream { Graph *capture = nullptr; int mode = 0, device = current_device(); };
// Captures of this thread that do not let it wait: those in another mode than RELAXED.
static thread_local int strict = 0;
constexpr int RELAXED = 2;

// Whether a copy lies inside one allocation of the current device.
static bool inside(Pointer p, size_t n) {
  std::lock_guard lock(mutex);
  auto it = allocations.upper_bound(p);
  if (it == allocations.begin()) return false;
  --it;
  return p + n <= it->first + it->second.bytes && it->second.device == current_device();
}
// One thing at a time, whichever thread puts it on a stream.
static std::mutex running;
static int act(void *stream, std::function<int()> node) {
  Stream *s = (Stream *)stream;
  if (s && s->device != current_device()) return INVALID_CONTEXT;
  if (!s || !s->capture) {
    std::lock_guard lock(running);
    return node();
  }
  s->capture->nodes.push_back(std::move(node));
  return SUCCESS;
}

API cuInit(unsigned) { return SUCCESS; }
API cuDriverGetVersion(int *v) { *v = 12080; return SUCCESS; }
API cuDeviceGetCount(int *n) { *n = devices(); return SUCCESS; }
API cuDeviceGet(int *d, int i) { *d = i; return i < 0 || i >= devices() ? INVALID_DEVICE : SUCCESS; }
API cuDeviceGetName(char *s, int n, int) { snprintf(s, n, "emulated GPU, compute capability %d.%d", capability() / 10, capability() % 10); return SUCCESS; }
API cuDeviceGetUuid_v2(void *uuid, int d) { memset(uuid, 0xe0 + d, 16); return SUCCESS; }
API cuDeviceGetUuid(void *uuid, int d) { return cuDeviceGetUuid_v2(uuid, d); }
API cuDeviceTotalMem_v2(size_t *n, int) { *n = memory(); return SUCCESS; }
API cuMemGetInfo_v2(size_t *available, size_t *total) { std::lock_guard lock(mutex); *total = memory(); *available = *total - std::min(used[current_device()], *total); return SUCCESS; }
API cuDeviceGetAttribute(int *v, int attribute, int) {
  switch (attribute) {
    case 16: *v = 4; break;                    // multiprocessors
    case 75: *v = capability() / 10; break;
    case 76: *v = capability() % 10; break;
    case 97: *v = (capability() == 90 ? 227 : 99) << 10; break;             // shared memory that a block can opt in to
    case 115: *v = setting("CUDA_EMULATOR_POOLS", 1) != 0; break;           // memory pools
    default: *v = 0;
  }
  return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)(size_t)(d + 1); return SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void *c) { current = c; return SUCCESS; }
API cuCtxGetCurrent(void **c) { *c = current; return SUCCESS; }
API cuCtxSynchronize() { return SUCCESS; }

API cuStreamCreate(void **s, unsigned) { *s = new Stream; return SUCCESS; }
API cuStreamDestroy_v2(void *s) { delete (Stream *)s; return SUCCESS; }
API cuStreamSynchronize(void *s) { return strict || (s && ((Stream *)s)->capture) ? CAPTURE_UNSUPPORTED : SUCCESS; }
API cuStreamBeginCapture_v2(void *s, int mode) {
  Stream *stream = (Stream *)s;
  if (!stream || stream->capture) return INVALID_VALUE;
  stream->capture = new Graph;
  stream->mode = mode;
  strict += mode != RELAXED;
  return SUCCESS;
}
API cuStreamEndCapture(void *s, void **graph) {
  Stream *stream = (Stream *)s;
  *graph = stream->capture;
  strict -= stream->capture && stream->mode != RELAXED;
  stream->capture = nullptr;
  return *graph ? SUCCESS : INVALID_VALUE;
}
API cuStreamIsCapturing(void *s, int *status) { *status = s && ((Stream *)s)->capture; return SUCCESS; }
API cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long) { *exec = new Graph(*(Graph *)graph); return SUCCESS; }
API cuGraphDestroy(void *graph) { delete (Graph *)graph; return SUCCESS; }
API cuGraphExecDestroy(void *graph) { delete (Graph *)graph; return SUCCESS; }
API cuGraphLaunch(void *graph, void *stream) {
  if (((Stream *)stream)->device != current_device()) return INVALID_CONTEXT;
  std::lock_guard lock(running);
  for (auto &node : ((Graph *)graph)->nodes) if (int error = node()) return error;
  return SUCCESS;
}
API cuEventCreate(void **e, unsigned) { *e = new int; return SUCCESS; }
API cuEventDestroy_v2(void *e) { delete (int *)e; return SUCCESS; }
API cuEventRecord(void *, void *) { return SUCCESS; }
API cuEventSynchronize(void *) { return SUCCESS; }
API cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }

API cuMemAlloc_v2(Pointer *p, size_t n) {
  std::lock_guard lock(mutex);
  if (!n) return INVALID_VALUE;
  void *m = nullptr;
  if (!current) return INVALID_VALUE;
  if (used[current_device()] + n > memory() || posix_memalign(&m, 256, n)) return OUT_OF_MEMORY;
  // Fresh memory holds anything: here NaN.
  memset(m, 0xff, n);
  *p = (Pointer)m;
  allocations[*p] = {n, current_device()};
  used[current_device()] += n;
  return SUCCESS;
}
API cuMemFree_v2(Pointer p) {
  {
    std::lock_guard lock(mutex);
    auto it = allocations.find(p);
    if (it == allocations.end()) return INVALID_VALUE;
    used[it->second.device] -= it->second.bytes;
    allocations.erase(it);
  }
  free((void *)p);
  return SUCCESS;
}
// In the order of streams: what is put on one runs at once, so this is now. A recording would take them into its graph, which crates/cuda must not.
static bool captured(void *s) { return !s || ((Stream *)s)->capture; }
API cuMemAllocAsync(Pointer *p, size_t n, void *s) { return captured(s) ? CAPTURE_UNSUPPORTED : cuMemAlloc_v2(p, n); }
API cuMemFreeAsync(Pointer p, void *s) { return captured(s) ? CAPTURE_UNSUPPORTED : cuMemFree_v2(p); }
API cuMemHostAlloc(void **p, size_t n, unsigned) { return posix_memalign(p, 4096, n) ? OUT_OF_MEMORY : SUCCESS; }
API cuMemFreeHost(void *p) { free(p); return SUCCESS; }
API cuMemcpyHtoDAsync_v2(Pointer d, const void *s, size_t n, void *stream) {
  if (!inside(d, n)) return INVALID_VALUE;
  return act(stream, [=] { memcpy((void *)d, s, n); return (int)SUCCESS; });
}
API cuMemcpyDtoHAsync_v2(void *d, Pointer s, size_t n, void *stream) {
  if (!inside(s, n)) return INVALID_VALUE;
  return act(stream, [=] { memcpy(d, (void *)s, n); return (int)SUCCESS; });
}
API cuMemcpyHtoD_v2(Pointer d, const void *s, size_t n) { return cuMemcpyHtoDAsync_v2(d, s, n, nullptr); }
API cuMemcpyDtoH_v2(void *d, Pointer s, size_t n) { return cuMemcpyDtoHAsync_v2(d, s, n, nullptr); }
API cuMemsetD8Async(Pointer d, unsigned char v, size_t n, void *stream) {
  if (!inside(d, n)) return INVALID_VALUE;
  return act(stream, [=] { memset((void *)d, v, n); return (int)SUCCESS; });
}
API cuMemsetD8_v2(Pointer d, unsigned char v, size_t n) { return cuMemsetD8Async(d, v, n, nullptr); }

API cuModuleLoadData(void **m, const void *image) {
  const std::string text((const char *)image);
  const size_t at = text.find(".target sm_");
  if (at == std::string::npos || atoi(text.c_str() + at + 11) > capability()) return INVALID_PTX;
  *m = new Module{text, {}};
  return SUCCESS;
}
API cuModuleUnload(void *m) { delete (Module *)m; return SUCCESS; }
// A kernel must be in the PTX, and be emulated.
API cuModuleGetFunction(void **f, void *m, const char *name) {
  Module &module = *(Module *)m;
  const auto it = emulator::kernels().find(name);
  if (module.image.find(".entry " + std::string(name) + "(") == std::string::npos || it == emulator::kernels().end()) return NOT_FOUND;
  *f = &module.functions.try_emplace(name, Function{name, it->second}).first->second;
  return SUCCESS;
}
API cuFuncSetAttribute(void *f, int attribute, int v) {
  if (attribute != 8 || v > (capability() == 90 ? 227 : 99) << 10) return INVALID_VALUE;
  ((Function *)f)->dynamic_shared = v;
  return SUCCESS;
}
API cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **arguments, void **) {
  const Function &function = *(Function *)f;
  const size_t threads = (size_t)bx * by * bz;
  if (!gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535 || !threads || threads > 1024 || bz > 64) return INVALID_VALUE;
  if ((int)shared > function.dynamic_shared) return INVALID_VALUE;
  {
    std::lock_guard lock(mutex);
    launches[function.name]++;
  }
  // Arguments are copied now, as the driver does.
  std::vector<std::vector<unsigned char>> values;
  for (size_t i = 0; i < function.entry.arguments.size(); i++) {
    const auto *from = (const unsigned char *)arguments[i];
    values.emplace_back(from, from + function.entry.arguments[i]);
  }
  return act(stream, [=]() mutable {
    std::vector<void *> pointers;
    for (auto &v : values) pointers.push_back(v.data());
    function.entry.launch({gx, gy, gz}, {bx, by, bz}, shared, pointers.data());
    return (int)SUCCESS;
  });
}

// As cuda.h's CUlaunchConfig. Kernels run one after the other: overlap is only asked for, and only of GPUs that have it.
struct Attribute { int id, pad, value, rest[15]; };
struct Config { unsigned gx, gy, gz, bx, by, bz, shared; void *stream; Attribute *attributes; unsigned count; };
static_assert(sizeof(Attribute) == 72 && sizeof(Config) == 56);
API cuLaunchKernelEx(const Config *c, void *f, void **arguments, void **extra) {
  for (unsigned i = 0; i < c->count; i++)
    if (c->attributes[i].id != 6 || c->attributes[i].value != 1 || capability() < 90) return INVALID_VALUE;
  return cuLaunchKernel(f, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, c->stream, arguments, extra);
}

static const char *name(int error) {
  switch (error) {
    case INVALID_VALUE: return "CUDA_ERROR_INVALID_VALUE";
    case OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
    case INVALID_CONTEXT: return "CUDA_ERROR_INVALID_CONTEXT";
    case INVALID_DEVICE: return "CUDA_ERROR_INVALID_DEVICE";
    case INVALID_PTX: return "CUDA_ERROR_INVALID_PTX";
    case NOT_FOUND: return "CUDA_ERROR_NOT_FOUND";
    case CAPTURE_UNSUPPORTED: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
    default: return "CUDA_ERROR_UNKNOWN";
  }
}
API cuGetErrorName(int error, const char **s) { *s = name(error); return SUCCESS; }
API cuGetErrorString(int error, const char **s) { *s = name(error); return SUCCESS; }
