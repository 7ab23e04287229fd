#!/usr/bin/env bash
# Checks and measures kinfer on an NVIDIA GPU, beside llama.cpp where that is installed, and writes one report. Builds nothing.
#
# usage: benches/gpu/run.sh [REPORT.md] [SHAPE:FORMAT ...]
#
#   KINFER       kinfer's command (default: target/release/kinfer, else the one in PATH)
#   LLAMA_BENCH  llama.cpp's llama-bench, built for CUDA (default: the one in PATH, if there is one)
#   DEVICE       the GPU (default: cuda)
#   SWEEP        options of `kinfer bench` for each model, instead of prompts of 512 and 4096, depths 0 and 4096, and 1 to 32 sequences
#
# Models are random weights of real shapes, by default llama-1b:q4_k_m, llama-8b:q4_k_m, llama-8b:q8_0 and granite-1b-a400m:q4_k_m:
# 16 GB in KINFER_CACHE. On an H100, expect half an hour, most of it for writing them.
set -uo pipefail
report=${1:-gpu-report.md}
shift || true
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(llama-1b:q4_k_m llama-8b:q4_k_m llama-8b:q8_0 granite-1b-a400m:q4_k_m)
device=${DEVICE:-cuda}
read -ra sweep <<<"${SWEEP:--p 512,4096 -n 128 --depth 0,4096 --batch 1,8,32 -r 5}"
read -ra figure <<<"${SWEEP:--p 128,512,2048 -n 64 --depth 0,4096 --batch 1,2,4,8,16,32 -r 3}"
here=$(cd "$(dirname "$0")/../.." && pwd)
kinfer=${KINFER:-$here/target/release/kinfer}
[ -x "$kinfer" ] || kinfer=$(command -v kinfer) || { echo "there is no kinfer: set KINFER to its path" >&2; exit 1; }
llama=${LLAMA_BENCH:-$(command -v llama-bench || true)}
export KINFER_CACHE=${KINFER_CACHE:-$HOME/.cache/kinfer}

: >"$report" || exit 1
failed=0
section() { printf '\n## %s\n\n' "$1" | tee -a "$report"; }
# Runs a command, its output in the report; a failure is part of the report, too.
record() {
  printf '    $ %s\n' "$*" | sed "s|$kinfer|kinfer|; s|$HOME|~|g" | tee -a "$report"
  "$@" 2>&1 | sed 's/^/    /' | tee -a "$report"
  local status=${PIPESTATUS[0]}
  [ $status = 0 ] || { failed=1; printf '    exit status %d\n' $status | tee -a "$report"; }
}

printf '# kinfer on a GPU, %s\n' "$(date -u +%F)" >>"$report"
section "Machine"
record "$kinfer" --version
record "$kinfer" doctor
command -v nvidia-smi >/dev/null && record nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit --format=csv

# The kernels that the GPU runs by default, and those that only compute capability 9.0 has.
kernels=("")
[ "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1)" = 9.0 ] && kernels+=(sm90a)
for isa in "${kernels[@]}"; do
  section "Every format and shape against the CPU${isa:+, $isa}"
  record "$kinfer" check --device "$device" ${isa:+--gpu-isa $isa}
  record "$kinfer" check --device "$device" ${isa:+--gpu-isa $isa} -ngl 2 tiny:q4_k_m tiny:q8_0
done

for model in "${models[@]}"; do
  section "$model"
  for isa in "${kernels[@]}"; do
    record "$kinfer" bench --device "$device" ${isa:+--gpu-isa $isa} --synthetic "$model" "${sweep[@]}"
    record "$kinfer" bench --device "$device" ${isa:+--gpu-isa $isa} --synthetic "$model" -p 0 -n 128 -r 5 --no-graphs --no-bounds
  done
  file=$KINFER_CACHE/synthetic/${model%%:*}.${model##*:}.v1.gguf
  if [ -n "$llama" ] && [ -e "$file" ]; then
    record "$llama" -m "$file" -ngl 99 -fa 1 -p 512,4096 -n 128 -d 0,4096 -r 5
  fi
done
[ -n "$llama" ] || echo "llama-bench was not found: set LLAMA_BENCH to compare." | tee -a "$report"

section "Figure"
record "$kinfer" bench --device "$device" --synthetic "${models[0]}" "${figure[@]}" --plot "${report%.md}.svg"
echo "The report is in $report."
exit $failed
