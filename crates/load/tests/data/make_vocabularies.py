"""Makes small_vocabularies.json: small Unigram, tekken and tiktoken vocabularies, and the ids that the packages they belong to
give. Usage: make_vocabularies.py (needs sentencepiece, tokenizers, tiktoken, mistral_common)."""

import base64
import io
import json
import os
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram

CORPUS = """대한민국의 수도는 서울이다. 서울은 한강을 끼고 있는 도시이다. 나는 오늘 서울에 간다. 나는 어제 서울에서 왔다.
한국어는 한국에서 쓰는 말이다. 한글은 한국어를 적는 글자이다. 도시에는 사람이 많다. 사람은 말을 한다. 말은 글자로 적는다.
The capital of Korea is Seoul. Seoul is a city on the Han river. Today I go to Seoul. Yesterday I came from Seoul.
Korean is the language of Korea. Hangul is the script of Korean. The city has many people. People speak the language."""

TEXTS = [
    "대한민국의 수도는 서울이다.",
    "나는 오늘 한국어로 말을 한다.",
    "한글은 글자이다! 뷁 쀍",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",  # 한글, decomposed
    "서울  서울   도시",
    "  서울에서 왔다  ",
    "서울\n도시\t사람",
    "ｓｅｏｕｌ　１２３",  # full width
    "The capital of Korea is Seoul.",
    "the Korean language, 한국어 (Hangul)",
    "a\u200bb \ufeffc",  # removed by the table
    "😀😀 서울😀",
    "▁서울 ▁▁도시",
    "",
    "   ",
    "é ö 北京 مرحبا",
]

# What the table of the normaliser replaces: full width forms, decomposed syllables, white space, and what is left out.
RULES = [("\t", " "), ("\n", " "), ("\u3000", " "), ("\u200b", ""), ("\ufeff", "")]
RULES += [(chr(0xFEE0 + c), chr(c)) for c in [*range(0x30, 0x3A), *range(0x61, 0x7B)]]
for syllable in "한글서울도시말":
    code = ord(syllable) - 0xAC00
    parts = [0x1100 + code // 588, 0x1161 + code % 588 // 28] + ([0x11A7 + code % 28] if code % 28 else [])
    RULES.append(("".join(map(chr, parts)), syllable))
    if len(parts) == 3:
        RULES.append(("".join(map(chr, parts[:2])), chr(ord(syllable) - code % 28)))


tables = set()


def unigram(name, **options):
    with tempfile.TemporaryDirectory() as folder:
        rules = os.path.join(folder, "rules.tsv")
        with open(rules, "w") as file:
            for source, target in RULES:
                columns = [" ".join(f"{ord(c):X}" for c in text) for text in (source, target)]
                file.write("\t".join(columns) + "\n")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS.split("\n")), model_writer=model, model_type="unigram",
            normalization_rule_tsv=rules, num_threads=1, minloglevel=2, **options)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    parsed = proto.ModelProto.FromString(model.getvalue())
    spec = parsed.normalizer_spec
    charsmap = spec.precompiled_charsmap
    pieces = [(p.piece, p.score) for p in parsed.pieces]
    fallback = options.get("byte_fallback", False)
    # As transformers converts such models.
    hf = Tokenizer(Unigram(pieces, parsed.trainer_spec.unk_id, fallback))
    hf.add_special_tokens(["<unk>", "<s>", "</s>"])
    hf.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    hf.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    ids = [processor.encode(text) for text in TEXTS]
    other = [text for text, want in zip(TEXTS, ids) if hf.encode(text, add_special_tokens=False).ids != want]
    tokenizer = json.loads(hf.to_str())
    # The same table in all.
    tables.add(base64.b64encode(charsmap).decode())
    tokenizer["normalizer"]["normalizers"][0]["precompiled_charsmap"] = None
    return {
        "name": name, "tokenizer": tokenizer, "types": [p.type for p in parsed.pieces],
        "remove_extra_whitespaces": spec.remove_extra_whitespaces, "add_dummy_prefix": spec.add_dummy_prefix,
        "ids": ids,
        # Where the tokenizers package, which does not look for the longest text of the table, gives others.
        "other_in_tokenizers": other,
    }


def ranks(count):
    """Merges of bytes that are most frequent in the corpus."""
    words = [list(bytes([b]) for b in word.encode()) for line in CORPUS.split("\n") for word in (" " + line).split(" ")[1:]]
    words = [[b" "] + word for word in words]
    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < count:
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        left, right = max(sorted(pairs), key=lambda p: pairs[p])
        tokens.append(left + right)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == (left, right):
                    word[i : i + 2] = [left + right]
                i += 1
    return tokens


TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def byte_level():
    import tiktoken
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    tokens = ranks(360)
    encoded = [base64.b64encode(token).decode() for token in tokens]
    special = [{"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(["<unk>", "<s>", "</s>", "[INST]"])]
    tekken = {
        "config": {"pattern": TEKKEN, "num_vocab_tokens": len(tokens), "default_vocab_size": len(tokens) - 10 + 6,
                   "default_num_special_tokens": 6, "version": "v3"},
        "vocab": [{"rank": i, "token_bytes": t, "token_str": None} for i, t in enumerate(encoded)],
        "special_tokens": special,
    }
    with tempfile.NamedTemporaryFile("w", suffix="tekken.json") as file:
        json.dump(tekken, file)
        file.flush()
        mistral = Tekkenizer.from_file(file.name)
        tekken_ids = [mistral.encode(text, bos=True, eos=False) for text in TEXTS]
    lines = tiktoken.Encoding("small", pat_str=KIMI, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={"[BOS]": 360})
    # The tokens are numbered as in tekken's list.
    return {"tokens": encoded, "tekken": {k: v for k, v in tekken.items() if k != "vocab"}, "tekken_ids": tekken_ids,
            "tiktoken_ids": [lines.encode(text) for text in TEXTS]}


made = {
    "origin": "make_vocabularies.py",
    "texts": TEXTS,
    "unigram": [
        unigram("unknown", vocab_size=88, user_defined_symbols=["<sep>"]),
        unigram("bytes", vocab_size=340, byte_fallback=True),
        unigram("as typed", vocab_size=84, remove_extra_whitespaces=False),
        unigram("no prefix", vocab_size=84, add_dummy_prefix=False),
    ],
    "byte_level": byte_level(),
}
[made["charsmap"]] = tables
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "small_vocabularies.json")
with open(path, "w") as file:
    json.dump(made, file, ensure_ascii=False, separators=(",", ":"))
    file.write("\n")
for model in made["unigram"]:
    print(model["name"], "differs in tokenizers:", model["other_in_tokenizers"])
print(os.path.getsize(path), "bytes")
