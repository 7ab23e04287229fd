"""Quantises a model with kinfer and with llama.cpp, and prints perplexity of both files and their divergence from the model (mean KL,
which chance moves much less), computed by kinfer in f32, side by side.

usage: perplexity.py --kinfer KINFER --text FILE [--windows N] MODEL-f16.gguf TYPE ...

Run by the Python of a build that run.sh makes. Each of kinfer's files is loaded by llama.cpp, too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import llama_cpp

# Types whose names llama.cpp's enumeration spells otherwise.
OTHERWISE = {"mxfp4": "MXFP4_MOE"}


def by_llama_cpp(model, kind, to):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + OTHERWISE.get(kind, kind.upper()))
    if llama_cpp.llama_model_quantize(model.encode(), to.encode(), params):
        sys.exit(f"llama.cpp does not quantise to {kind}")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--kinfer", required=True)
    args.add_argument("--text", required=True)
    args.add_argument("--windows", default="16")
    args.add_argument("model")
    args.add_argument("types", nargs="+")
    args = args.parse_args()

    def measure(path, *options):
        command = [args.kinfer, "perplexity", path, args.text, "--windows", args.windows, "--numerics", "f32", "--json", *options]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    with tempfile.TemporaryDirectory() as folder:
        base = os.path.join(folder, "base")
        before = measure(args.model, "--save-kl-base", base)
        print(f"perplexity of {os.path.basename(args.model)}: {before['perplexity']:.4f}", flush=True)
        print("| type | perplexity, by kinfer | by llama.cpp | ratio | KL, by kinfer | by llama.cpp | ratio | bytes, kinfer / llama.cpp |"
              " kinfer's file in llama.cpp |\n|---|---|---|---|---|---|---|---|---|")
        for kind in args.types:
            ours, theirs = (os.path.join(folder, f"{who}-{kind}.gguf") for who in ("kinfer", "llama"))
            subprocess.run([args.kinfer, "quantize", args.model, kind, "-o", ours], check=True, capture_output=True)
            by_llama_cpp(args.model, kind, theirs)
            a, b = (measure(path, "--kl-base", base) for path in (ours, theirs))
            cells = [f"{a[key]:.4f} | {b[key]:.4f} | {a[key] / b[key]:.3f}" for key in ("perplexity", "mean_kl")]
            llama = llama_cpp.Llama(ours, n_ctx=64, verbose=False)
            loads = len(llama.create_completion("The capital of France is", max_tokens=4)["choices"][0]["text"]) > 0
            sizes = " / ".join(str(os.path.getsize(path)) for path in (ours, theirs))
            print(f"| {kind} | {' | '.join(cells)} | {sizes} | {'loads' if loads else 'says nothing'} |", flush=True)
            os.remove(ours), os.remove(theirs)


main()
