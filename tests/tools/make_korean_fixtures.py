#!/usr/bin/env python3
"""Encodes Korean texts with the `tokenizers` and `sentencepiece` packages and writes crates/load/tests/data/korean_*.json.

usage: make_korean_fixtures.py VOCABS_DIR MODELS_DIR
VOCABS_DIR is what tests/fetch-vocabs fills, MODELS_DIR what tests/fetch-models fills.
Needs: pip install tokenizers==0.23.3 sentencepiece==0.2.3 gguf==0.19.0

The vocabulary comes from the GGUF file; how text is normalised and split is written here as in each model's own
tokenizer.json, independently of kinfer's table. SentencePiece models are rebuilt as sentencepiece protobufs.
"""
import json
import pathlib
import random
import re
import struct
import sys
import unicodedata

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

SENTENCES = r"""대한민국의 수도는 서울이고, 2024년 인구는 약 938만 명입니다.
나는 어제 ChatGPT랑 이야기했는데, "정말?" 하고 물었더니 글쎄요…라고 하더라.
뷁 쀍 햏 똠방각하 펲시콜라 믜즤긔 갉낡닭
ㄱㄴㄷㄹ ㅏㅑㅓㅕ ㅋㅋㅋㅋㅋ ㅠㅠ ㅇㅈ? ㄹㅇㅋㅋ ㆍㆆㅿㅸ
한글 ᄒᆞᆫ글 나랏말ᄊᆞ미 中國에 달아
大韓民國 漢字 樂(락/낙/악/요) 金 李氏 車 六 女 勞 羅 凉 諒
Ｆｕｌｌ　Ｗｉｄｔｈ　１２３　ＡＢＣ！？
㈜한국 ㉠㉡㉢ ㎏ ㎡ ℃ ½ ① ㏊ ㍿ ﷽ ﬁ
👨‍👩‍👧‍👦 가족 👍🏽 🇰🇷 1️⃣ ❤️‍🔥 🫰🏻 한국🇰🇷대한 🏴󠁧󠁢󠁥󠁮󠁧󠁿 영국
def 인사(이름: str) -> str:\n    return f"안녕하세요, {이름}님!"  # 주석\n
{"이름": "홍길동", "나이": 30, "주소": {"시": "서울", "구": "종로구"}}
SELECT 이름, COUNT(*) FROM 사용자 WHERE 나이>=20 GROUP BY 이름;
전화: 02-123-4567, 010 9876 5432; 가격 ₩1,234,567원 (₩3,300/개) 3.14% 10:30
https://ko.wikipedia.org/wiki/%EC%84%9C%EC%9A%B8?q=한글&x=1
  들여쓰기   여러   공백\t탭\t\t탭둘 \u00a0nbsp\u3000전각공백\u200b폭없음
줄\n바꿈\n\n두줄\n\n\n세줄\r\n윈도우\r\n\r\n끝   \n   
안녕하세요안녕하세요안녕하세요안녕하세요안녕하세요안녕하세요안녕하세요
It's 한국어와 English를 섞은 문장, we'Ve I'LL 그's 테스트's
조선민주주의인민공화국, 외래어: 쁘띠-프랑스, 컴퓨터과학, 인공지능, 트랜스포머
'작은따옴표' "큰따옴표" 「낫표」 『겹낫표』 《겹화살》 〈홑화살〉 · … — ～
İstanbul ß ſ K Å ñ é Ω naïve 한글
각각 각각 값 값 뷁 힣 힣
"""


def texts():
    escape = re.compile(r"\\(u[0-9a-f]{4}|[nrt])")
    named = {"n": "\n", "r": "\r", "t": "\t"}
    unescape = lambda m: named.get(m[1]) or chr(int(m[1][1:], 16))
    lines = [escape.sub(unescape, line) for line in SENTENCES.splitlines()]
    out = []
    for line in lines:
        out.append(line)
        decomposed = unicodedata.normalize("NFD", line)
        if decomposed != line:
            out.append(decomposed)
    out += ["", " ", "가", "가" * 300, "ㅋ" * 100, unicodedata.normalize("NFD", "각") * 50, " " * 33 + "끝"]
    rng = random.Random(11172)
    pools = [
        lambda: chr(rng.randrange(0xAC00, 0xD7A4)),
        lambda: chr(rng.randrange(0x1100, 0x1200)),
        lambda: chr(rng.randrange(0x3131, 0x318F)),
        lambda: chr(rng.randrange(0x4E00, 0x9FA6)),
        lambda: chr(rng.randrange(0xF900, 0xFA00)),
        lambda: chr(rng.randrange(0xFF01, 0xFFE7)),
        lambda: chr(rng.randrange(0x1F300, 0x1F650)) + rng.choice(["", "\u200d", "\ufe0f"]),
        lambda: chr(rng.randrange(0x20, 0x7F)),
        lambda: rng.choice([" ", "  ", "\n", "\t", "은 ", "는 ", "이다. "]),
    ]
    for _ in range(80):
        out.append("".join(rng.choice(pools)() for _ in range(rng.randrange(1, 40))))
    return out


def read(path):
    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else None
    return get("tokens"), get("token_type"), get("scores"), get("merges")


def bpe(path, pre, nfc, ignore_merges):
    tokens, types, _, merges = read(path)
    vocab = {t: i for i, t in enumerate(tokens)}
    pairs = [tuple(m.split(" ")) for m in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre
    added = [AddedToken(t, normalized=False) for t, k in zip(tokens, types) if k == gguf.TokenType.USER_DEFINED]
    tokenizer.add_tokens(added)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def split(regex):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), byte_level])


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def number(number, value):
    return varint(number << 3) + varint(value)


def sentencepiece_bpe(path):
    """sentencepiece_model.proto: ModelProto{pieces=1, trainer_spec=2, normalizer_spec=3}."""
    tokens, types, scores, _ = read(path)
    # SentencePiece wants its own kind for each id; only one unknown piece may exist.
    unk = next(i for i, t in enumerate(types) if t == gguf.TokenType.UNKNOWN or tokens[i] == "<unk>")
    model = b""
    for i, (token, kind, score) in enumerate(zip(tokens, types, scores)):
        if kind == gguf.TokenType.USER_DEFINED:
            # GGUF keeps these as they stand in texts, sentencepiece as its normaliser leaves them.
            token = token.replace(" ", "\u2581")
        kind = 2 if i == unk else 3 if kind == gguf.TokenType.UNKNOWN else kind
        model += field(1, field(1, token.encode()) + b"\x15" + struct.pack("<f", score) + number(3, kind))
    # trainer_spec: model_type=3 is BPE=2, byte_fallback=35; normalizer_spec: identity, nothing added or removed.
    model += field(2, number(3, 2) + number(35, 1))
    model += field(3, field(1, b"identity") + number(3, 0) + number(4, 0) + number(5, 1))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return lambda text: processor.encode(text)


def main():
    vocabs, real = map(pathlib.Path, sys.argv[1:])
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    sets = {
        "smollm2": (real / "SmolLM2-135M-Instruct.Q4_1.gguf", lambda p: bpe(p, digits, False, False)),
        "gemma3": (real / "gemma-3-270m-q4_k_m.gguf", sentencepiece_bpe),
        "llama_bpe": (vocabs / "ggml-vocab-llama-bpe.gguf", lambda p: bpe(p, split(LLAMA3), False, True)),
        "qwen2": (vocabs / "ggml-vocab-qwen2.gguf", lambda p: bpe(p, split(QWEN2), True, False)),
    }
    data = pathlib.Path(__file__).parents[2] / "crates/load/tests/data"
    for name, (path, make) in sets.items():
        encode = make(path)
        out = {
            "origin": "made by tests/tools/make_korean_fixtures.py with tokenizers 0.23.3 and sentencepiece 0.2.3",
            "file": path.name,
            "texts": [{"text": text, "ids": encode(text)} for text in texts()],
        }
        lines = ",\n".join("  " + json.dumps(t, ensure_ascii=False, separators=(",", ":")) for t in out.pop("texts"))
        head = json.dumps(out, ensure_ascii=False, indent=1)[:-2]
        (data / f"korean_{name}.json").write_text(head + ',\n "texts": [\n' + lines + "\n ]\n}\n", encoding="utf-8")
        print(name, len(texts()))


main()
