// Activations of feed-forwards.
#pragma once
#include "common.cuh"

enum Activation : int { SILU = 0, GELU_TANH = 1, GELU = 2, SWIGLU_OAI = 3 };

__device__ __forceinline__ float activated(int kind, float x) {
  if (kind == SILU) return x / (1.f + expf(-x));
  if (kind == SWIGLU_OAI) {
    x = fminf(x, 7.f);
    return x / (1.f + expf(-1.702f * x));
  }
  if (kind == GELU_TANH) return x / (1.f + expf(-1.5957691216f * x * (1.f + 0.044715f * x * x)));
  return 0.5f * x * (1.f + erff(x * 0.70710678118f));
}

__device__ __forceinline__ float activated(int kind, float x, float up) {
  if (kind == SWIGLU_OAI) up = fmaxf(-7.f, fminf(7.f, up)) + 1.f;
  return activated(kind, x) * up;
}
