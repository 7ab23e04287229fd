#!/usr/bin/env bash
# kinfer beside llama.cpp: same file, machine, threads and run; alternating; medians and ratios.
#
# usage: benches/peers/run.sh [--threads 1,2] [--reps 5] [--isa best,avx2] [--cases "decode,prefill 512"]
#                             [--synthetic llama-1b:q4_k_m,...] [--record benches/record/NAME.md] [MODEL.gguf ...]
#
# llama.cpp is built from the source that its Python package ships, with clang 19 (gcc 12's build crashes in the AMX path), once
# each into target/peers, about ten minutes on two cores:
#   native  for this machine
#   noamx   the same without AMX, where the machine has it: it can be faster
#   avx2    AVX2, FMA and F16C only, for kinfer with KINFER_ISA=avx2
# Models default to the two test models, where there is no --synthetic either.
set -euo pipefail
cd "$(dirname "$0")/../.."
peers=target/peers
build() { # name, flags for the compiler, options for cmake
  local venv=$peers/$1
  [ -e "$venv/ready" ] && return
  command -v clang-19 >/dev/null || { echo "clang-19 is missing: apt-get install clang-19 libomp-19-dev cmake ninja-build" >&2; exit 1; }
  echo "building llama.cpp: $1" >&2
  rm -rf "$venv"
  mkdir -p $peers
  python3 -m venv "$venv"
  CC=clang-19 CXX=clang++-19 CFLAGS=$2 CXXFLAGS=$2 CMAKE_ARGS=$3 \
    nice "$venv/bin/pip" install --quiet --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36
  touch "$venv/ready"
}
build native "" "-DGGML_NATIVE=ON"
if grep -qs amx_tile /proc/cpuinfo; then
  build noamx "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" "-DGGML_NATIVE=ON"
fi
isa="-DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF -DGGML_AVX_VNNI=OFF"
build avx2 "" "-DGGML_NATIVE=OFF $isa"
cargo build --release --quiet
kinfer=${CARGO_TARGET_DIR:-target}/release/kinfer
options=() models=() synthetic=
while [ $# -gt 0 ]; do
  case $1 in
    --*) [ $# -gt 1 ] || { echo "$1 needs a value" >&2; exit 2; }
      [ "$1" = --synthetic ] && synthetic=yes
      options+=("$1" "$2"); shift 2 ;;
    *) models+=("$1"); shift ;;
  esac
done
if [ ${#models[@]} -eq 0 ] && [ -z "$synthetic" ]; then
  dir=${KINFER_TEST_MODELS:-target/test-models}
  tests/fetch-models "$dir" >/dev/null
  models=("$dir"/SmolLM2-135M-Instruct.Q4_1.gguf "$dir"/gemma-3-270m-q4_k_m.gguf)
fi
exec python3 benches/peers/compare.py --kinfer "$kinfer" --peers $peers "${options[@]}" "${models[@]}"
