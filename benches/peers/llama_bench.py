#!/usr/bin/env python3
"""kinfer beside a program with llama-bench's options (ik_llama.cpp's, llama.cpp's): same file, machine, threads and run; alternating; medians and
ratios as Markdown.

    llama_bench.py --kinfer KINFER --llama-bench LLAMA_BENCH [--flags "-rtr 1"]... [--isa avx2] [--threads 2] [--reps 5]
                   [--prompt 512] [--generate 128] [--synthetic llama-1b:q4_k_m]... [MODEL.gguf ...]

Each --flags is one way of running the other program; the best one counts. Files of --synthetic are made by kinfer and lie in its cache.
"""

import argparse
import json
import os
import statistics
import subprocess


def run(command, isa=None):
    env = os.environ | ({"KINFER_ISA": isa} if isa else {})
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def kinfer(a, model, synthetic):
    """Tokens per second by test, and the model's file."""
    which = ["--synthetic", model] if synthetic else [model]
    shape = ["-p", str(a.prompt), "-n", str(a.generate), "-r", "1", "-t", str(a.threads)]
    results = run([a.kinfer, "bench", *which, *shape, "--output", "json", "--no-bounds"], a.isa)["results"]
    return {r["kind"]: r["tokens_per_s"]["median"] for r in results}, results[0]["path"]


def other(a, path, flags):
    shape = ["-p", str(a.prompt), "-n", str(a.generate), "-r", "1", "-t", str(a.threads)]
    results = run([a.llama_bench, "-m", path, *shape, "-o", "json", *flags.split()])
    return {"prefill" if r["n_prompt"] else "decode": r["avg_ts"] for r in results}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinfer", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--flags", action="append")
    parser.add_argument("--isa")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--synthetic", action="append", default=[])
    parser.add_argument("models", nargs="*")
    a = parser.parse_args()
    ways = a.flags or [""]
    print("| model | test | kinfer | other | flags | ratio |\n|---|---|---|---|---|---|")
    for model, synthetic in [(m, False) for m in a.models] + [(m, True) for m in a.synthetic]:
        own, others = {}, {}
        for _ in range(a.reps):
            speeds, path = kinfer(a, model, synthetic)
            for test, speed in speeds.items():
                own.setdefault(test, []).append(speed)
            for flags in ways:
                for test, speed in other(a, path, flags).items():
                    others.setdefault(test, {}).setdefault(flags, []).append(speed)
        for test, speeds in own.items():
            mine = statistics.median(speeds)
            best, flags = max((statistics.median(v), flags) for flags, v in others[test].items())
            spread = lambda v: f"[{min(v):.3g}..{max(v):.3g}]"
            print(
                f"| {os.path.basename(model)} | {test} | {mine:.4g} {spread(speeds)} | {best:.4g} {spread(others[test][flags])}"
                f" | {flags} | {mine / best:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
