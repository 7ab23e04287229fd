#!/usr/bin/env bash
# Times the CUDA kernels, and variants of them, one by one on an NVIDIA GPU of compute capability 9.0 (H100, H200), each checked against a plain
# computation. For whoever tunes them: needs nvcc 12.3 or later. How fast models are: `kinfer bench`, and run.sh beside this.
#
# usage: benches/gpu/kernels.sh [-n] [NAME ...]    of gemm, matvec, attention and rows: by default all; -n: compile only
#
#   NVCC   the compiler (default: the one in PATH, else that of kernels/cuda/build-ptx)
set -euo pipefail
cd "$(dirname "$0")/../.."
run=1
if [ "${1:-}" = -n ]; then run=0; shift; fi
nvcc=${NVCC:-$(command -v nvcc || echo target/tools/nvcc/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)}
[ -x "$nvcc" ] || { echo "there is no nvcc: set NVCC to its path, or run kernels/cuda/build-ptx, which fetches one" >&2; exit 1; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for name in ${@:-gemm matvec attention rows}; do
  "$nvcc" -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -Ikernels/cuda -L"$(dirname "$nvcc")/../lib" "benches/gpu/time_$name.cu" -o "$out/$name"
  if [ $run = 1 ]; then echo "$name" && "$out/$name"; fi
done
