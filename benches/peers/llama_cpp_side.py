"""One measurement of llama.cpp through its Python package: prints a JSON object.

usage: llama_cpp_side.py MODEL THREADS PROMPT_TOKENS GENERATED_TOKENS

Times the C calls only (llama_decode), as llama-bench does; a warm-up that is not counted comes first.
"""

import ctypes
import json
import resource
import sys
import time

import llama_cpp as ll


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    path, threads, n_prompt, n_gen = sys.argv[1], *map(int, sys.argv[2:5])
    quiet = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(quiet, ctypes.c_void_p(0))
    ll.llama_backend_init()
    before = peak_mb()
    start = time.perf_counter()
    model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
    params = ll.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = n_prompt + n_gen + 64, 512, 512
    params.n_threads = params.n_threads_batch = threads
    ctx = ll.llama_init_from_model(model, params)
    memory = ll.llama_get_memory(ctx)

    def decode(ids):
        array = (ll.llama_token * len(ids))(*ids)
        assert ll.llama_decode(ctx, ll.llama_batch_get_one(array, len(ids))) == 0
        ll.llama_synchronize(ctx)

    decode([300])
    first = time.perf_counter() - start
    prompt = [300 + i * 37 % 20000 for i in range(n_prompt)]
    decode(prompt[:64])
    ll.llama_memory_clear(memory, True)
    start = time.perf_counter()
    decode(prompt)
    prefill = n_prompt / (time.perf_counter() - start)
    ll.llama_memory_clear(memory, True)
    decode([300])
    start = time.perf_counter()
    for i in range(n_gen):
        decode([prompt[i % n_prompt]])
    generate = n_gen / (time.perf_counter() - start)
    print(json.dumps({"prefill": prefill, "decode": generate, "first": first, "peak_mb": peak_mb() - before}))


main()
