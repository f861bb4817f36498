"""A model whose weights are no numbers is refused where it is read, and answers of logits that are none as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from icegrt_jax import files
from icegrt_jax.errors import UserError
from icegrt_jax.models.finite import check_weights, is_finite
from icegrt_jax.models.gguf.file import load_gguf
from icegrt_jax.models.hf.folder import load_hf, save_hf
from icegrt_jax.models.hf.peft import load_adapter, save_adapter
from icegrt_jax.models.lora import LoRAConfig, init_adapter
from icegrt_jax.runs.scoring import finite_scores
from icegrt_jax.sampling.generate import check_logprobs
from icegrt_jax.training import checkpoints
from icegrt_jax.training.restore import load_role
from tests.models.examples import CONFIG, make_params
from tests.models.examples_gguf import write_gguf

LORA = LoRAConfig(rank=2, targets=("q",))


@pytest.fixture(scope="module")
def ruined():
    params = make_params(CONFIG)
    return {**params, "final_norm": {"scale": params["final_norm"]["scale"].at[1].set(jnp.nan)}}


def test_a_folder_with_a_weight_that_is_no_number_is_refused(ruined, tmp_path):
    save_hf(tmp_path / "model", CONFIG, ruined, None)
    with pytest.raises(UserError, match=r"model: weights that are not finite: final_norm/scale; the model is damaged"):
        load_hf(tmp_path / "model")


def test_a_gguf_file_with_one_is_refused(ruined, tmp_path):
    write_gguf(tmp_path / "model.gguf", CONFIG, ruined)
    with pytest.raises(UserError, match=r"model\.gguf: weights that are not finite: final_norm/scale"):
        load_gguf(tmp_path / "model.gguf")


def test_an_adapter_with_one_is_refused(tmp_path):
    adapter = init_adapter(jax.random.key(0), make_params(CONFIG), LORA)
    spoiled = jax.tree.map(lambda leaf: leaf.at[..., 0].set(jnp.inf), adapter)
    save_adapter(tmp_path / "adapter", spoiled, CONFIG, LORA, "base")
    with pytest.raises(UserError, match=r"adapter: weights that are not finite: .*lora_a"):
        load_adapter(tmp_path / "adapter", CONFIG)


def test_a_stages_checkpoint_with_one_is_refused(ruined, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "check_finite_tree", lambda *_: None)  # as an earlier version saved it
    with checkpoints.Checkpoints(tmp_path / "sft" / "checkpoints") as kept:
        kept.save(3, {"params": {"policy": ruined}})
    shape = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    files.write_json_atomic(tmp_path / "sft" / "done.json", {"step": 3, "models": {"policy": shape}})
    with pytest.raises(UserError, match="sft, step 3: weights that are not finite: final_norm/scale"):
        load_role(tmp_path / "sft", "policy")


def test_weights_are_looked_at_wherever_they_lie():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    split = jax.device_put(jnp.ones((16, 2)), NamedSharding(mesh, P("fsdp")))
    assert is_finite(split) and not is_finite(split.at[13, 1].set(jnp.inf))
    assert not is_finite(jnp.full(2, jnp.nan, jnp.bfloat16)) and is_finite(np.ones(2, np.int8))
    with pytest.raises(UserError, match="m: weights that are not finite: a, b, c and 1 more arrays"):
        check_weights("m", {name: jnp.full(1, jnp.nan) for name in "abcd"})


def test_scores_and_answers_that_are_no_numbers_are_refused():
    assert finite_scores(np.ones(3)).sum() == 3
    with pytest.raises(UserError, match="the reward model's score of 1 of 3 answers is not finite"):
        finite_scores(np.array([0.0, np.nan, 1.0]))
    check_logprobs(np.zeros((2, 3)))
    with pytest.raises(UserError, match="the log-probs of 1 of 2 answers are not finite"):
        check_logprobs(np.array([[0.0, np.nan], [-1.0, -2.0]]))
