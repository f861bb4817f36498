"""Tokenizers rebuilt from GGUF headers, against plain implementations of what they are."""

import unicodedata

import pytest
from tokenizers import pre_tokenizers

from icegrt_jax.data.tokenizers import load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.gguf.tokenizer import CUTS, read_tokenizer
from tests.models.examples_gguf import TEMPLATE

SPACE = "▁"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "In 1998, $3.50!  It's   WE'LL\n\n  at 10:45pm",
    "def f(x):\n\treturn x**12345  # why?\r\n",
    "naïve ½ 你好, ٣ 🙂 e\u0301 don't!",
    " leading and trailing \n",
    "hello hello's HELLO",
]
# How llama.cpp writes the patterns (src/llama-vocab.cpp), whose engine has no (?i:...).
CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {
    "gpt-2": GPT2,
    "smollm": GPT2,
    "qwen2": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST,
    "llama-bpe": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST,
}
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 9", "9 8", "1 2", "3 4", "12 34", "Ġ a", "' s", "Ġ Ġ", "Ċ Ċ"]


def fields(*, architecture="llama", **keys):
    header = {
        "general.architecture": architecture,
        f"{architecture}.context_length": 64,
        "tokenizer.chat_template": TEMPLATE,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return header | {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def byte_level(pre, **keys):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["".join(merge.split(" ")) for merge in MERGES]
    tokens = [*CONTROL, *letters, *merged, *keys.pop("more", [])]
    types = [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL))
    return fields(model="gpt2", pre=pre, tokens=tokens, token_type=types, merges=MERGES, **keys)


def plain_bpe(word, ranks):
    """Merges the adjacent pair of the lowest rank until none is left (Sennrich et al. 2016, algorithm 1)."""
    pieces = list(word)
    while pairs := [(ranks[pair], i) for i, pair in enumerate(zip(pieces, pieces[1:])) if pair in ranks]:
        _, i = min(pairs)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def letters_of(text):
    """GPT-2's letter for every byte: itself where printable, else the next one from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return "".join(table[byte] for byte in text.encode())


@pytest.mark.parametrize("pre", CUTS)
def test_ids_equal_a_plain_bpe_after_the_file_s_cuts(tmp_path, pre):
    regex = pytest.importorskip("regex")
    header = byte_level(pre)
    tokenizer = read_tokenizer(tmp_path, header)
    vocab = {token: i for i, token in enumerate(header["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(MERGES)}
    for text in TEXTS:
        given = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
        parts = regex.split(r"(\p{N})", given) if pre == "smollm" else [given]
        words = [letters_of(word) for part in parts for word in regex.findall(PATTERNS[pre], part)]
        assert "".join(words) == letters_of(given)
        assert tokenizer.encode_text(text) == [vocab[piece] for word in words for piece in plain_bpe(word, ranks)]
        assert tokenizer.decode(tokenizer.encode_text(text)) == given


@pytest.mark.parametrize("pre, pieces", [
    ("gpt-2", ["1234", "5"]), ("smollm", [*"12345"]), ("qwen2", [*"12345"]), ("llama-bpe", ["12", "3", "4", "5"]),
])  # fmt: skip
def test_numbers_are_cut_as_in_training(tmp_path, pre, pieces):
    tokenizer = read_tokenizer(tmp_path, byte_level(pre))
    assert tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.encode_text("12345")) == pieces


def test_only_llama_3_takes_a_whole_word_that_no_merge_leads_to(tmp_path):
    for pre in CUTS:
        tokenizer = read_tokenizer(tmp_path, byte_level(pre, more=["Ġworld"]))
        pieces = tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.encode_text("hello world"))
        assert pieces == ["hello", *(["Ġworld"] if pre == "llama-bpe" else ["Ġ", *"world"])]


@pytest.mark.parametrize("pre, says, added", [
    ("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False), ("qwen2", True, True),
])  # fmt: skip
def test_bos_is_added_as_the_file_says_or_its_kind_does(tmp_path, pre, says, added):
    keys = {} if says is None else {"add_bos_token": says}
    tokenizer = read_tokenizer(tmp_path, byte_level(pre, bos_token_id=0, **keys))
    assert tokenizer.tokenizer("hello")["input_ids"] == [0] * added + tokenizer.encode_text("hello")


# SentencePiece

WORDS = "▁the the th he ▁t ▁th er her ther ing in ng ▁▁ re there en ne nee".split()
LETTERS = [SPACE, *"abcdefghijklmnopqrstuvwxyz.\n"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
SPM_TOKENS = ["<unk>", "<s>", "<|im_end|>", "<|im_start|>", *BYTES, *WORDS, *LETTERS, "<unused0>"]
SPM_TYPES = [2, 3, 3, 3, *[6] * 256, *[1] * (len(WORDS) + len(LETTERS)), 5]


def spm(**keys):
    scores = [0.0] * 260 + [-float(i) for i in range(len(WORDS))] + [-1e3 - i for i in range(len(LETTERS))] + [-1e4]
    return fields(model="llama", tokens=SPM_TOKENS, token_type=SPM_TYPES, scores=scores, bos_token_id=1,
                  unknown_token_id=0, **keys)  # fmt: skip


def plain_spm(text, header, prefix):
    """SentencePiece's own way: of all adjacent pairs that make a piece, the one with the best score, leftmost first."""
    tokens, scores = header["tokenizer.ggml.tokens"], header["tokenizer.ggml.scores"]
    score = {token: s for token, s, kind in zip(tokens, scores, SPM_TYPES) if kind == 1}
    pieces = list((SPACE if prefix and text else "") + text.replace(" ", SPACE))
    while pairs := [(-score[a + b], i) for i, (a, b) in enumerate(zip(pieces, pieces[1:])) if a + b in score]:
        _, i = min(pairs)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    ids = {token: i for i, token in enumerate(tokens)}
    return [i for p in pieces for i in ([ids[p]] if p in score else [ids[f"<0x{b:02X}>"] for b in p.encode()])]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_equal_merging_by_score(tmp_path, prefix):
    header = spm(add_space_prefix=prefix)
    tokenizer = read_tokenizer(tmp_path, header)
    for text in ("the other there", "  thinner  here", "being needy.\nthe", "é你 🙂 the", "theatre", "neen ngng there"):
        assert tokenizer.encode_text(text) == plain_spm(text, header, prefix), text
        assert tokenizer.decode(tokenizer.encode_text(text)) == text
    assert tokenizer.tokenizer("the")["input_ids"][0] == 1, "BOS is added unless the file says otherwise"


def test_sentencepiece_chat_has_its_markers_as_single_tokens_and_survives_saving(tmp_path):
    tokenizer = read_tokenizer(tmp_path, spm())
    messages = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "there."}]
    ids, mask = tokenizer.encode_conversation(messages)
    assert ids.count(3) == 2 and ids.count(2) == 2 and ids[-1] == 2
    assert tokenizer.decode([i for i, m in zip(ids, mask) if m]) == "there."
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode_conversation(messages) == (ids, mask)


@pytest.mark.parametrize("header, message", [
    (byte_level("tekken"), "tokenizer 'gpt2' with pre-tokenizer 'tekken' is not supported; expected 'gpt2' with one of"
     " gpt-2, smollm, qwen2, llama-bpe, or 'llama' \\(SentencePiece\\)"),
    (fields(model="t5", tokens=["a"], token_type=[1]), "tokenizer 't5'"),
    (fields(), "tokenizer None"),
    (fields(model="gpt2", pre="qwen2", tokens=["a"], token_type=[1]), "tokenizer.ggml.merges is missing"),
    (fields(model="llama", tokens=["a"], token_type=[1]), "tokenizer.ggml.scores is missing"),
    (spm(remove_extra_whitespaces=True), "removes extra spaces is not supported"),
    ({**byte_level("qwen2"), "tokenizer.ggml.merges": ["q zz"]}, "its tokens and merges make no tokenizer"),
    ({**byte_level("qwen2"), "tokenizer.ggml.merges": ["qz"]}, "its tokens and merges make no tokenizer"),
    ({**spm(), "tokenizer.ggml.scores": [0.0]}, f"scores has 1 entries for {len(SPM_TOKENS)} tokens"),
    (byte_level("qwen2", bos_token_id=9999), "tokenizer.ggml.bos_token_id=9999; there are"),
    (byte_level("qwen2", padding_token_id=-1), "tokenizer.ggml.padding_token_id=-1; there are"),
])  # fmt: skip
def test_another_vocabulary_is_refused_in_one_sentence(tmp_path, header, message):
    with pytest.raises(UserError, match=f"{tmp_path}: .*{message}"):
        read_tokenizer(tmp_path, header)
