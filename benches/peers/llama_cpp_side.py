"""One measurement of llama.cpp through its Python package: reads a JSON object from the arguments, prints one.

usage: llama_cpp_side.py '{"model": PATH, "threads": N, "tests": [TEST, ...], "states": FOLDER}'
       llama_cpp_side.py '{"model": PATH, "threads": N, "first": true}'
       llama_cpp_side.py '{"about": true}'

A TEST is {"kind": "prefill" or "decode", "tokens": N, "depth": N, "parallel": N, "flash": true or false}; the answer to it is
tokens per second, of all sequences together. Only the C calls are timed (llama_decode), as llama-bench does, and a warm-up
that is not counted comes first. The cache of a depth is kept in FOLDER: filling it takes longer than the test.
`first`: seconds from opening the file to the first computed token, and by how many MB the peak of resident memory grows.
"""

import ctypes
import hashlib
import json
import os
import resource
import sys
import time

import llama_cpp as ll


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prompt(count, sequence=0):
    return [300 + (i * 37 + sequence * 101) % 150 for i in range(count)]


class Context:
    """A context with room for one test."""

    def __init__(self, model, threads, context, flash, sequences=1):
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context * sequences, 512, 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        self.ctx = ll.llama_init_from_model(model, params)
        if not self.ctx:
            sys.exit("llama_init_from_model failed")
        self.memory = ll.llama_get_memory(self.ctx)
        self.batch = ll.llama_batch_init(512, 0, 1)

    def decode(self, rows):
        """Computes rows of (token, position, sequence), logits for the last one of each sequence."""
        last = {sequence: i for i, (_, _, sequence) in enumerate(rows)}
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = last[sequence] == i
        start = time.perf_counter()
        if ll.llama_decode(self.ctx, self.batch) != 0:
            sys.exit("llama_decode failed")
        ll.llama_synchronize(self.ctx)
        return time.perf_counter() - start

    def prefill(self, ids, sequence=0):
        rows = [(token, i, sequence) for i, token in enumerate(ids)]
        return sum(self.decode(rows[at : at + 512]) for at in range(0, len(rows), 512))

    def clear(self):
        ll.llama_memory_clear(self.memory, True)

    def close(self):
        ll.llama_batch_free(self.batch)
        ll.llama_free(self.ctx)


def fill(context, depth, folder, key):
    """Makes a cache of `depth` tokens in sequence 0, from a file where there is one."""
    name = hashlib.sha256(json.dumps([key, depth]).encode()).hexdigest()[:16]
    path = os.path.join(folder, name + ".state").encode()
    ids = (ll.llama_token * depth)(*prompt(depth))
    if os.path.exists(path):
        got, count = (ll.llama_token * depth)(), ctypes.c_size_t()
        if ll.llama_state_seq_load_file(context.ctx, path, 0, got, depth, ctypes.byref(count)) and count.value == depth:
            return
        sys.exit(f"{path.decode()} does not load; remove it")
    context.prefill(list(ids))
    ll.llama_state_seq_save_file(context.ctx, path, 0, ids, depth)


def measure(model, request, test):
    tokens, depth, parallel = test["tokens"], test["depth"], test["parallel"]
    context = Context(model, request["threads"], depth + tokens + 64, test["flash"], parallel)
    if test["kind"] == "prefill":
        ids = prompt(tokens)
        context.prefill(ids)
        context.clear()
        seconds = context.prefill(ids)
    else:
        if depth:
            path = request["model"]
            fill(context, depth, request["states"], [path, os.path.getsize(path), test["flash"]])
        warm_up = 4
        step = lambda i: context.decode([(prompt(64, s)[i % 64], depth + i, s) for s in range(parallel)])
        for i in range(warm_up):
            step(i)
        seconds = sum(step(warm_up + i) for i in range(tokens))
    context.close()
    return tokens * parallel / seconds


def main():
    request = json.loads(sys.argv[1])
    quiet = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    ll.llama_backend_init()
    if request.get("about"):
        print(json.dumps({"version": ll.__version__, "system": ll.llama_print_system_info().decode()}))
        return
    before = peak_mb()
    start = time.perf_counter()
    model = ll.llama_model_load_from_file(request["model"].encode(), ll.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot load {request['model']}")
    if request.get("first"):
        Context(model, request["threads"], 640, True).decode([(300, 0, 0)])
        print(json.dumps({"first": time.perf_counter() - start, "peak_mb": peak_mb() - before}))
        return
    print(json.dumps([measure(model, request, test) for test in request["tests"]]))


main()
