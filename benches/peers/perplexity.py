"""Quantises a model with kinfer and with llama.cpp, and prints the perplexity of both files, computed by kinfer, side by side.

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

    def perplexity(path):
        command = [args.kinfer, "perplexity", path, args.text, "--windows", args.windows, "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["perplexity"]

    print(f"perplexity of {os.path.basename(args.model)}: {perplexity(args.model):.4f}", flush=True)
    print("| type | by kinfer | by llama.cpp | ratio | bytes, kinfer / llama.cpp | kinfer's file in llama.cpp |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.types:
            ours, theirs = (os.path.join(folder, f"{who}-{kind}.gguf") for who in ("kinfer", "llama"))
            subprocess.run([args.kinfer, "quantize", args.model, kind, "-o", ours], check=True, capture_output=True)
            by_llama_cpp(args.model, kind, theirs)
            a, b = perplexity(ours), perplexity(theirs)
            llama = llama_cpp.Llama(ours, n_ctx=64, verbose=False)
            loads = len(llama.create_completion("The capital of France is", max_tokens=4)["choices"][0]["text"]) > 0
            sizes = " / ".join(str(os.path.getsize(path)) for path in (ours, theirs))
            print(f"| {kind} | {a:.4f} | {b:.4f} | {a / b:.4f} | {sizes} | {'loads' if loads else 'says nothing'} |", flush=True)
            os.remove(ours), os.remove(theirs)


main()
