#!/usr/bin/env python3
"""Renders chat templates with transformers and writes crates/load/tests/data/templates.json.

usage: make_template_fixtures.py VOCABS_DIR MODELS_DIR
VOCABS_DIR is what tests/fetch-vocabs fills (its templates/ folder), MODELS_DIR what tests/fetch-models fills.
Needs: pip install transformers==5.23.0 jinja2==3.1.6 gguf==0.19.0

Each entry is a prompt, or {"error": ...} where transformers itself refuses. Long prompts are given by their hash.
"""
import datetime
import hashlib
import json
import pathlib
import sys

import gguf
from transformers.utils import chat_template_utils

NOW = datetime.datetime(2024, 7, 26, 12, 0, 0)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Looks up the \"weather\" of a city & its <surroundings>.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "도시 이름"},
                    "days": {"type": "integer", "minimum": 1, "default": 1.5},
                    "metric": {"type": "boolean", "enum": [True, False, None]},
                },
                "required": ["city"],
            },
        },
    }
]
CASES = {
    "user": {"messages": [{"role": "user", "content": "Hello, what's <up> & \"why\"?"}], "add_generation_prompt": True},
    "turns": {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": " 안녕하세요! 대한민국의 수도는? \n"},
            {"role": "assistant", "content": "서울입니다."},
            {"role": "user", "content": "And of France?\n\nThanks."},
        ],
        "add_generation_prompt": True,
    },
    "ended": {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
        "add_generation_prompt": False,
    },
    "tools": {
        "messages": [
            {"role": "user", "content": "Weather in 서울?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "call00001",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": {"city": "서울", "days": 2, "metric": True}},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "{\"temperature\": 21.5}"},
        ],
        "tools": TOOLS,
        "add_generation_prompt": True,
    },
    "thinking_off": {
        "messages": [{"role": "user", "content": "Hi"}],
        "add_generation_prompt": True,
        "extra": {"enable_thinking": False},
    },
}


def render(source, case):
    try:
        prompts, _ = chat_template_utils.render_jinja_template(
            conversations=[case["messages"]],
            tools=case.get("tools"),
            chat_template=source,
            add_generation_prompt=case["add_generation_prompt"],
            bos_token="<s>",
            eos_token="</s>",
            **case.get("extra", {}),
        )
    except Exception as e:  # whatever a template does wrong is an error to be reproduced
        return {"error": type(e).__name__}
    prompt = prompts[0]
    if len(prompt) <= 300:
        return prompt
    return {"sha256": hashlib.sha256(prompt.encode()).hexdigest(), "chars": len(prompt), "start": prompt[:40]}


def main():
    vocabs, models = map(pathlib.Path, sys.argv[1:])
    sources = {p.name: p.read_text(encoding="utf-8") for p in sorted((vocabs / "templates").glob("*.jinja"))}
    for path in sorted(models.glob("*.gguf")):
        field = gguf.GGUFReader(path).fields.get("tokenizer.chat_template")
        if field is not None:
            sources[path.name] = field.contents()
    builtin = pathlib.Path(__file__).parents[2] / "crates/load/src/template/builtin"
    for path in sorted(builtin.glob("*.jinja")):
        sources["builtin/" + path.stem] = path.read_text(encoding="utf-8")
    out = {
        "origin": "made by tests/tools/make_template_fixtures.py with transformers 5.23.0 and Jinja2 3.1.6",
        "now": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "cases": CASES,
        "templates": {name: {case: render(source, CASES[case]) for case in CASES} for name, source in sources.items()},
    }
    path = pathlib.Path(__file__).parents[2] / "crates/load/tests/data/templates.json"
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    prompts = [p for t in out["templates"].values() for p in t.values()]
    errors = sum(isinstance(p, dict) and "error" in p for p in prompts)
    print(f"{len(sources)} templates, {len(prompts)} prompts, of which {errors} are refused")


main()
