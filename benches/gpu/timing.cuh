// How the programs beside this time kernels.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#define CHECK(call) \
  do { \
    const cudaError_t error_ = (call); \
    if (error_ != cudaSuccess) { \
      printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error_)); \
      exit(1); \
    } \
  } while (0)

// All launches are on it; each program's main makes it.
static cudaStream_t stream;

// Median over `rounds` rounds of `batch` launches each, after a round that does not count: microseconds a launch. Launch i is told i. The launches of a
// round are a graph, or done one by one.
static double median_us(const std::function<void(int)> &one, int batch, int rounds, bool graph = true) {
  const auto all = [&] { for (int i = 0; i < batch; i++) one(i); };
  cudaGraphExec_t exec = nullptr;
  if (graph) {
    cudaGraph_t recorded;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    all();
    CHECK(cudaStreamEndCapture(stream, &recorded));
    CHECK(cudaGraphInstantiate(&exec, recorded, 0));
    CHECK(cudaGraphDestroy(recorded));
  }
  cudaEvent_t from, to;
  CHECK(cudaEventCreate(&from));
  CHECK(cudaEventCreate(&to));
  std::vector<double> times;
  for (int round = 0; round <= rounds; round++) {
    CHECK(cudaEventRecord(from, stream));
    if (graph) CHECK(cudaGraphLaunch(exec, stream));
    else all();
    CHECK(cudaEventRecord(to, stream));
    CHECK(cudaEventSynchronize(to));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, from, to));
    if (round) times.push_back(1e3 * ms / batch);
  }
  std::sort(times.begin(), times.end());
  if (graph) CHECK(cudaGraphExecDestroy(exec));
  CHECK(cudaEventDestroy(from));
  CHECK(cudaEventDestroy(to));
  return times[times.size() / 2];
}
