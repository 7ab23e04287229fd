#!/usr/bin/env python3
"""Writes tests/golden/minilm.json: texts, how many tokens they are, and the vectors that all-MiniLM-L6-v2 gives them, computed by transformers in
float32: the mean of the last hidden states, scaled to length 1, as the model's card says.

    make_embedding_fixtures.py FOLDER        as tests/fetch-models makes it; needs torch and transformers
"""

import json
import sys
from pathlib import Path

import torch
import transformers

TEXTS = [
    "The capital of France is Paris.",
    "파리는 프랑스의 수도이다.",
    "Paris est la capitale de la France, n'est-ce pas ?",
    "I like bananas",
    "Ünïcödé, 漢字 and emoji 🙂 in one line; prices rose by 3.5%...",
    "word " * 300,
]


def main():
    model = transformers.AutoModel.from_pretrained(sys.argv[1]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
    out = {"made_by": f"transformers {transformers.__version__}", "texts": TEXTS, "tokens": [], "vectors": []}
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt", truncation=False)
        with torch.no_grad():
            mean = model(**ids).last_hidden_state[0].mean(0)
        out["tokens"].append(ids["input_ids"].shape[1])
        out["vectors"].append([round(v, 8) for v in (mean / mean.norm()).tolist()])
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in out.items()]
    (Path(__file__).parent.parent / "golden" / "minilm.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
