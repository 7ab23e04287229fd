"""kinfer and llama.cpp in alternation: medians, spread and ratios as a Markdown table. Called by run.sh.

Engine times on both sides (no tokenizer, no sampling), a process for each measurement. The ratio is to the best of llama.cpp's
builds, and above 1 where kinfer is ahead, for times and memory too. Decoding at a depth is measured with and without
flash attention in llama.cpp, whichever is faster counts; all else with it. `load + first token` is with the file in the
page cache; `peak memory` is what the process's peak grows by while it loads the model and computes a token.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def case(kind, tokens, depth=0, parallel=1):
    return {"kind": kind, "tokens": tokens, "depth": depth, "parallel": parallel}


CASES = {
    "prefill 512": case("prefill", 512),
    "decode": case("decode", 64),
    "decode at 4096": case("decode", 64, depth=4096),
    "decode 8 together": case("decode", 64, parallel=8),
    "decode 32 together": case("decode", 64, parallel=32),
}
# Measured from the outside: smaller is better.
FIRST, PEAK = "load + first token, s", "peak memory, MB"


# The caller's settings of kinfer must not reach what is measured.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("KINFER_") or k == "KINFER_CACHE"}


def run(command, **env):
    done = subprocess.run(command, capture_output=True, text=True, env={**ENVIRONMENT, **env})
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with code {done.returncode}\n{done.stderr}")
    return done.stdout


def busy():
    """The share of this machine's processors that is in use, over half a second."""

    def sample():
        with open("/proc/stat") as f:
            numbers = [int(n) for n in f.readline().split()[1:9]]
        return numbers[3] + numbers[4], sum(numbers)

    idle, total = sample()
    time.sleep(0.5)
    idle, total = sample()[0] - idle, sample()[1] - total
    return 1 - idle / max(total, 1)


def check_idle(warnings):
    share = busy()
    if share > 0.05:
        warning = f"{share:.0%} of the processors were busy before a measurement (load {os.getloadavg()[0]:.1f})"
        print(f"warning: {warning}: another process can cut a decode to a tenth", file=sys.stderr)
        warnings.append(warning)


class Kinfer:
    """One ISA of kinfer. `None`: the best one."""

    def __init__(self, binary, isa):
        self.binary, self.isa = binary, isa
        self.env = {"KINFER_ISA": isa} if isa else {}

    def bench(self, model, threads, kind, test):
        sizes = {"prefill": ["-p", str(test["tokens"]), "-n", "0"], "decode": ["-p", "0", "-n", str(test["tokens"])]}[kind]
        where = ["-d", str(test["depth"]), "-np", str(test["parallel"]), "-t", str(threads)]
        form = ["-r", "1", "--no-bounds", "--output", "json"]
        report = json.loads(run([self.binary, "bench", model, *sizes, *where, *form], **self.env))
        return report["results"][0]["tokens_per_s"]["median"]

    def measure(self, model, threads, cases):
        got = {name: self.bench(model, threads, CASES[name]["kind"], CASES[name]) for name in cases}
        command = [self.binary, "run", model, "-p", "a", "-n", "1", "--raw", "-t", str(threads), "-c", "640"]
        start = time.perf_counter()
        null = subprocess.DEVNULL
        child = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, env={**ENVIRONMENT, **self.env})
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"{' '.join(command)} ended with status {status}")
        return {**got, FIRST: time.perf_counter() - start, PEAK: usage.ru_maxrss / 1024}


class LlamaCpp:
    """One build of llama.cpp."""

    def __init__(self, folder, states):
        self.name, self.states = os.path.basename(folder), states
        self.python = os.path.join(folder, "bin/python")
        self.about = self.ask({"about": True})

    def ask(self, request):
        return json.loads(run([self.python, os.path.join(HERE, "llama_cpp_side.py"), json.dumps(request)]))

    def measure(self, model, threads, cases):
        # What is measured twice has a list of two.
        tests = [(name, {**CASES[name], "flash": flash}) for name in cases for flash in (True, False)
                 if flash or CASES[name]["depth"]]
        common = {"model": model, "threads": threads}
        rates = self.ask({**common, "states": self.states, "tests": [test for _, test in tests]})
        got = {}
        for (name, _), rate in zip(tests, rates):
            got.setdefault(name, []).append(rate)
        first = self.ask({**common, "first": True})
        return {**got, FIRST: [first["first"]], PEAK: [first["peak_mb"]]}


def best(name, builds):
    """The values of the build, and of the setting, with the best median."""
    rows = [
        (build, [repetition[name][setting] for repetition in repetitions])
        for build, repetitions in builds.items()
        for setting in range(len(repetitions[0][name]))
    ]
    key = lambda row: statistics.median(row[1])
    return (min if name in (FIRST, PEAK) else max)(rows, key=key)


def shown(values):
    digits = lambda v: f"{v:.2f}" if v < 10 else f"{v:.1f}" if v < 100 else f"{v:.0f}"
    return f"{digits(statistics.median(values))} [{digits(min(values))}..{digits(max(values))}]"


def machine(kinfer):
    cpu, flags = platform.machine(), []
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.split(":")[1].strip()
            if line.startswith("flags"):
                flags = line.split(":")[1].split()
                break
    wanted = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    doctor = json.loads(run([kinfer, "doctor", "--json"]))
    bandwidth = ", ".join(f"{b['gb_per_s']:.1f} GB/s by {b['threads']}" for b in doctor["bandwidth"] or [])
    cores = len(os.sched_getaffinity(0))
    have = " ".join(flag for flag in wanted if flag in flags)
    return f"{cpu} ({have}), {cores} CPUs, {memory:.0f} GB, read at {bandwidth} threads, kernel {platform.release()}"


def synthetic(kinfer, name):
    """The file that kinfer makes for a shape and quantisation."""
    report = run([kinfer, "bench", "--synthetic", name, "-p", "1", "-n", "0", "-r", "1", "--no-bounds", "--output", "json"])
    return json.loads(report)["results"][0]["path"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinfer", required=True)
    parser.add_argument("--peers", required=True, help="folder with llama.cpp's builds")
    parser.add_argument("--threads", default=",".join(map(str, sorted({1, len(os.sched_getaffinity(0))}))))
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--isa", default="best,avx2", help="best: against all builds; avx2: against the avx2 build")
    parser.add_argument("--cases", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--synthetic", default="", help="SHAPE:QUANT,... of `kinfer bench --synthetic`")
    parser.add_argument("--record", help="write the table to this file, too")
    parser.add_argument("models", nargs="*")
    args = parser.parse_args()
    cases = args.cases.split(",")
    if unknown := [name for name in cases if name not in CASES]:
        sys.exit(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}")
    if unknown := [name for name in args.isa.split(",") if name not in ("best", "avx2")]:
        sys.exit(f"unknown ISA {unknown[0]!r}; known: best, avx2")
    models = [(os.path.basename(path), path) for path in args.models]
    models += [(name, synthetic(args.kinfer, name)) for name in filter(None, args.synthetic.split(","))]
    warnings, lines = [], []

    def line(text=""):
        print(text, flush=True)
        lines.append(text)

    with tempfile.TemporaryDirectory(prefix="kinfer-peers-") as states:
        folders = sorted(entry.path for entry in os.scandir(args.peers) if os.path.exists(entry.path + "/ready"))
        builds = [LlamaCpp(folder, states) for folder in folders]
        if not builds:
            sys.exit(f"no build of llama.cpp in {args.peers}; run.sh makes them")
        version = run([args.kinfer, "--version"]).strip()
        line(f"# {version} and llama.cpp (llama-cpp-python {builds[0].about['version']}), {datetime.date.today()}")
        line()
        line(f"Machine: {machine(args.kinfer)}.")
        for build in builds:
            system = " ".join(build.about["system"].split())
            line(f"llama.cpp build `{build.name}`: {system}")
        line(f"Tokens per second unless noted: medians of {args.reps} alternating runs [smallest..largest].")
        line("The ratio is to the best of llama.cpp's builds; above 1 kinfer is ahead.")
        line()
        line("| model | ISA | threads | test | kinfer | llama.cpp | build | ratio |")
        line("|---|---|---|---|---|---|---|---|")
        everything = itertools.product(models, args.isa.split(","), map(int, args.threads.split(",")))
        for (name, path), isa, threads in everything:
            ours = Kinfer(args.kinfer, None if isa == "best" else isa)
            theirs = [build for build in builds if isa == "best" or build.name == isa]
            if not theirs:
                sys.exit(f"llama.cpp's build for {isa} is not in {args.peers}; run.sh makes it")
            a, b = [], {build.name: [] for build in theirs}
            for _ in range(args.reps):
                check_idle(warnings)
                a.append(ours.measure(path, threads, cases))
                for build in theirs:
                    b[build.name].append(build.measure(path, threads, cases))
            for test in [*cases, FIRST, PEAK]:
                mine, (build, other) = [repetition[test] for repetition in a], best(test, b)
                ratio = statistics.median(mine) / statistics.median(other)
                ratio = 1 / ratio if test in (FIRST, PEAK) else ratio
                cells = [name, isa, str(threads), test, shown(mine), shown(other), build, f"{ratio:.2f}"]
                line(f"| {' | '.join(cells)} |")
    if warnings:
        line()
        line(f"The machine was not idle {len(warnings)} times; the first: {warnings[0]}.")
    if args.record:
        os.makedirs(os.path.dirname(os.path.abspath(args.record)), exist_ok=True)
        with open(args.record, "w") as f:
            f.write("\n".join(lines) + "\n")


main()
