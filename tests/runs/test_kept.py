"""Answers of an unfinished stage are drawn once: what they depend on is what they are found by."""

import dataclasses

import jax
import numpy as np
import pytest

from icegrt_jax.runs import kept
from icegrt_jax.sampling.draw import SamplerConfig
from icegrt_jax.sampling.generate import Generation

SAMPLER = SamplerConfig(max_new_tokens=3, temperature=0.7, eos_ids=(2,), pad_id=0)
PROMPTS = [[{"role": "user", "content": "7?"}]]
SHAPE = {"num_samples": 1, "batch_size": 4}


def made(sampler=SAMPLER):
    tokens, mask = np.array([[5, 6, 2]], np.int32), np.array([[True, True, True]])
    logprobs = np.array([[-0.1, -np.pi, -1e-30]], np.float32)
    prompts = np.array([[3, 4]], np.int32)
    return Generation(prompts, prompts > 0, tokens, mask, np.array([True]), logprobs, ["5 6 2"], sampler)


@pytest.fixture
def draws(tmp_path):
    """Draws from a place, and counts how often they had to be made."""
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "done.json").write_text("{}")
    count = []

    def drawn(who="ICE-Instruct", prompts=PROMPTS, key=0, sampler=SAMPLER, shape=SHAPE):
        draw = lambda: count.append(who) or made(sampler)
        decode = lambda tokens, mask: [" ".join(map(str, row[keep])) for row, keep in zip(tokens, mask, strict=True)]
        found = kept.place(tmp_path, "evaluate", who).drawn(prompts, jax.random.key(key), sampler, shape, draw, decode)
        return len(count), found

    return drawn


def test_a_draw_is_made_once_and_found_to_the_bit(draws):
    _, first = draws()
    times, second = draws()
    assert times == 1 and second.text == first.text and second.sampler == first.sampler
    for name in kept.ARRAYS:
        one, other = getattr(first, name), getattr(second, name)
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name


@pytest.mark.parametrize("other", [
    {"who": "ICE-GRT"}, {"key": 1}, {"prompts": [[{"role": "user", "content": "8?"}]]},
    {"sampler": dataclasses.replace(SAMPLER, temperature=0.0)}, {"shape": SHAPE | {"num_samples": 2}},
])  # fmt: skip
def test_another_question_is_another_draw(draws, other):
    draws()
    times, _ = draws(**other)
    assert times == 2


def test_a_policy_that_was_trained_again_is_another(draws, tmp_path):
    draws()
    (tmp_path / "sft" / "done.json").write_text('{"step": 7}')
    assert draws()[0] == 2
    (tmp_path / "evaluate" / "done.json").write_text("{}")  # its own is no stage before it
    assert draws()[0] == 2


@pytest.mark.parametrize("damage", ["cut", "emptied", "garbage", "bit", "deleted"])
def test_what_is_damaged_is_drawn_again(draws, tmp_path, damage):
    _, first = draws()
    (path,) = (tmp_path / "evaluate" / kept.FOLDER).iterdir()
    content = path.read_bytes()
    at = content.index(first.logprobs.tobytes())
    changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    new = {"cut": content[: len(content) // 2], "emptied": b"", "garbage": b"PK" + b"x" * 99, "bit": changed}
    path.unlink() if damage == "deleted" else path.write_bytes(new[damage])
    times, second = draws()
    assert times == 2 and second.logprobs.tobytes() == first.logprobs.tobytes()
    assert draws()[0] == 2, "and kept again"


def test_what_is_forgotten_is_gone(draws, tmp_path):
    draws()
    assert kept.count(tmp_path / "evaluate") == 1
    kept.forget(tmp_path / "evaluate")
    assert kept.count(tmp_path / "evaluate") == 0 and not (tmp_path / "evaluate" / kept.FOLDER).exists()
