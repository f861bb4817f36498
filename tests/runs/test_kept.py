"""What an unfinished stage has sampled is sampled once: it is found by all that it depends on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs import kept
from icegrt_jax.sampling.draw import SamplerConfig

SAMPLER = SamplerConfig(max_new_tokens=3, temperature=0.7, eos_ids=(2,), pad_id=0)
MODEL = ModelConfig(
    vocab_size=8, d_model=4, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=4, d_ff=4, max_length=8
)
POLICY = {"embed": jnp.arange(8, dtype=jnp.float32).reshape(2, 4), "norm": jnp.ones(4, jnp.bfloat16)}
PROMPTS = [[{"role": "user", "content": "7?"}]]
NAMES = ("tokens", "mask", "logprobs")
GIVEN = dict(params=POLICY, model=MODEL, key=0, sampler=SAMPLER, asked=(PROMPTS, 1))


def name_of(given):
    given = GIVEN | given
    key, (policy, model) = jax.random.key(given["key"]), (given["params"], given["model"])
    return kept.identity(policy, model, key, given["sampler"], *given["asked"])


@pytest.fixture
def drawn(tmp_path):
    """Draws from a place, and counts how often that had to be done."""
    count = []
    arrays = dict(zip(NAMES, ([[5, 6, 2]], [[True, True, False]], [[-0.1, -np.pi, -1e-30]])))
    arrays = {name: np.array(x, np.float32 if name == "logprobs" else None) for name, x in arrays.items()}

    def drawn(step=0, every=0, **given):
        draw = lambda: count.append(given) or dict(arrays)
        found = kept.place(tmp_path, every).found(name_of(given), NAMES, draw, step)
        return len(count), found

    return drawn


def there(folder):
    return sorted(int(path.name.partition("-")[0]) for path in (folder / kept.FOLDER).iterdir())


def same(one, other):
    return all(one[x].dtype == other[x].dtype and one[x].tobytes() == other[x].tobytes() for x in NAMES)


def test_what_is_drawn_is_found_to_the_bit(drawn):
    _, first = drawn()
    times, second = drawn()
    assert times == 1 and same(first, second)


NEXT = np.nextafter(np.float32(7), np.float32(8))


@pytest.mark.parametrize("other", [
    {"params": POLICY | {"embed": POLICY["embed"].at[1, 3].set(NEXT)}},  # by one bit
    {"params": POLICY | {"embed": POLICY["embed"][::-1]}},
    {"model": dataclasses.replace(MODEL, rope_theta=7.0)}, {"key": 1}, {"asked": (PROMPTS, 2)},
    {"asked": ([[{"role": "user", "content": "8?"}]], 1)}, {"asked": (np.array([1, 2]), 1)},
    {"sampler": dataclasses.replace(SAMPLER, temperature=0.0)},
])  # fmt: skip
def test_another_policy_or_question_is_another_draw(drawn, other):
    drawn()
    assert drawn(**other)[0] == 2
    assert drawn()[0] == drawn(**other)[0] == 2


def test_arrays_of_a_question_are_told_apart_by_what_they_hold(drawn):
    drawn(asked=(np.array([1, 2]),))
    assert drawn(asked=(np.array([1, 2]),))[0] == 1
    assert drawn(asked=(np.array([2, 1]),))[0] == 2
    assert drawn(asked=(np.array([[1, 2]]),))[0] == 3


@pytest.mark.parametrize("damage", ["cut", "emptied", "garbage", "bit", "deleted"])
def test_what_is_damaged_is_drawn_again(drawn, tmp_path, damage):
    _, first = drawn()
    (path,) = (tmp_path / kept.FOLDER).iterdir()
    content = path.read_bytes()
    at = content.index(first["logprobs"].tobytes())
    changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    new = {"cut": content[: len(content) // 2], "emptied": b"", "garbage": b"PK" + b"x" * 99, "bit": changed}
    path.unlink() if damage == "deleted" else path.write_bytes(new[damage])
    times, second = drawn()
    assert times == 2 and same(first, second)
    assert drawn()[0] == 2, "and kept again"


def test_behind_two_checkpoints_nothing_is_kept(drawn, tmp_path):
    # At step 11 the checkpoint of 10 is being written and that of 5 is complete.
    for step in range(1, 11):
        drawn(step, every=5)
    assert there(tmp_path) == list(range(1, 11))
    drawn(11, every=5)
    assert there(tmp_path) == list(range(6, 12))


def test_a_stage_that_is_finished_keeps_nothing(drawn, tmp_path):
    drawn()
    assert len(kept.place(tmp_path).there) == 1
    kept.forget(tmp_path)
    assert not kept.place(tmp_path).there and not (tmp_path / kept.FOLDER).exists()
