"""kinfer and llama.cpp in alternation: medians, spread, and ratios. Called by run.sh.

Prefill and decode are engine times on both sides (no tokenizer, no sampling). `first` is the time from opening the file to the
first computed token, file in the page cache; `peak` is what the process's peak resident memory grows by.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def peer(model, threads, n_prompt, n_gen):
    script = os.path.join(HERE, "llama_cpp_side.py")
    return json.loads(run([sys.executable, script, model, str(threads), str(n_prompt), str(n_gen)]))


def timed(command):
    """Seconds and peak memory (MB) of a process of its own."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def ours(kinfer, model, threads, n_prompt, n_gen):
    sizes = ["-p", str(n_prompt), "-n", str(n_gen), "-r", "1", "-t", str(threads), "--output", "json"]
    report = json.loads(run([kinfer, "bench", model, *sizes]))
    speed = {t["kind"]: t["tokens_per_s"]["median"] for t in report["results"]}
    context = str(n_prompt + n_gen + 64)
    seconds, peak = timed([kinfer, "run", model, "-p", "a", "-n", "1", "--raw", "-t", str(threads), "-c", context])
    return {"prefill": speed["prefill"], "decode": speed["decode"], "first": seconds, "peak_mb": peak}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinfer", required=True)
    parser.add_argument("--threads", default=str(len(os.sched_getaffinity(0))))
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    with open("/proc/cpuinfo") as f:
        cpu = next((l.split(":")[1].strip() for l in f if l.startswith("model name")), platform.machine())
    load = os.getloadavg()[0]
    print(f"machine: {cpu}, {os.cpu_count()} CPUs, load {load:.1f}; {args.reps} alternating runs; medians [min..max]")
    if load > 0.5:
        print("warning: the machine is busy; another process can cut a decode to a tenth")
    for model in args.models:
        for threads in map(int, args.threads.split(",")):
            a, b = [], []
            for _ in range(args.reps):
                a.append(ours(args.kinfer, model, threads, args.prompt, args.generate))
                b.append(peer(model, threads, args.prompt, args.generate))
            print(f"\n{os.path.basename(model)}, {threads} thread(s)")
            rows = [
                ("prefill", f"prefill {args.prompt}, tok/s", 1),
                ("decode", f"decode {args.generate}, tok/s", 1),
                ("first", "load + first token, s", -1),
                ("peak_mb", "peak memory, MB", -1),
            ]
            for key, name, _ in rows:
                x, y = sorted(r[key] for r in a), sorted(r[key] for r in b)
                mx, my = statistics.median(x), statistics.median(y)
                print(
                    f"  {name:24} kinfer {mx:9.2f} [{x[0]:.2f}..{x[-1]:.2f}]   "
                    f"llama.cpp {my:9.2f} [{y[0]:.2f}..{y[-1]:.2f}]   ratio {mx / my:5.2f}"
                )


main()
