#!/usr/bin/env bash
# kinfer beside llama.cpp: same file, machine, threads and run; alternating; medians and ratios.
#
# usage: benches/peers/run.sh [--threads 1,2] [--reps 5] [MODEL.gguf ...]
#
# llama.cpp is built natively from the source that its Python package ships (once, into target/peers; about ten minutes on
# two cores), with clang 19: gcc 12's build crashes in the AMX path. Models default to the two test models.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=target/peers/venv
if [ ! -e target/peers/ready ]; then
  command -v clang-19 >/dev/null || { echo "clang-19 is missing: apt-get install clang-19 libomp-19-dev cmake ninja-build" >&2; exit 1; }
  mkdir -p target/peers
  python3 -m venv "$venv"
  CC=clang-19 CXX=clang++-19 CMAKE_ARGS="-DGGML_NATIVE=ON" \
    "$venv/bin/pip" install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36
  touch target/peers/ready
fi
cargo build --release --quiet
options=() models=()
while [ $# -gt 0 ]; do
  case $1 in
    --*) options+=("$1" "$2"); shift 2 ;;
    *) models+=("$1"); shift ;;
  esac
done
if [ ${#models[@]} -eq 0 ]; then
  dir=${KINFER_TEST_MODELS:-target/test-models}
  tests/fetch-models "$dir" >/dev/null
  models=("$dir"/SmolLM2-135M-Instruct.Q4_1.gguf "$dir"/gemma-3-270m-q4_k_m.gguf)
fi
exec "$venv/bin/python" benches/peers/compare.py --kinfer target/release/kinfer "${options[@]}" "${models[@]}"
