"""One shape, one sampler and one check of batches, made from the sections of the options."""

import types

import pytest

from icegrt_jax.config.options import DrawOptions, LengthOptions, MeshOptions, PPOOptions, SFTOptions, ShapeOptions
from icegrt_jax.errors import UserError
from icegrt_jax.runs import generation, reward_model, rundir, stage_models
from icegrt_jax.runs.batch_check import check_batches, check_rows
from icegrt_jax.runs.sections import sampler_config, sampler_for
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sharding.mesh import make_mesh

TOKENIZER = types.SimpleNamespace(eos_ids=(2, 5), pad_id=1)


def test_a_sampler_is_drawn_from_in_all_that_the_section_says():
    ppo = PPOOptions(temperature=0.7, top_k=3, top_p=0.9, min_p=0.1, cache_dtype="int8")
    expected = SamplerConfig(
        max_new_tokens=9, temperature=0.7, top_k=3, top_p=0.9, min_p=0.1, cache_dtype="int8", eos_ids=(2, 5), pad_id=1
    )
    assert sampler_for(TOKENIZER, ppo, 9) == sampler_config(ppo, 9, eos_ids=(2, 5), pad_id=1) == expected
    assert sampler_for(TOKENIZER, DrawOptions(temperature=0.0), 9).cache_dtype == "compute"


@pytest.mark.parametrize("cache_dtype", ["compute", "int8"])
def test_the_scores_are_normalised_on_answers_of_the_sampler_that_ppo_uses(monkeypatch, tmp_path, cache_dtype):
    asked_with = []
    monkeypatch.setattr(stage_models, "stage_params", lambda *_: (None, None))
    monkeypatch.setattr(generation, "generate", lambda *args, **keys: asked_with.append((args[-1], keys["batch_size"])))
    run = rundir.Run(
        workdir=tmp_path, mesh=make_mesh(), tokenizer=TOKENIZER, seed=0, data_dir="",
        lengths=LengthOptions(max_response_length=7), rollout_tensor=0,
    )  # fmt: skip
    ppo = PPOOptions(temperature=0.5, cache_dtype=cache_dtype)
    reward_model.sample_instruct(run, "reward", reward_model.Asked([], ppo, 3), run.key("normalize"), num_samples=1)
    assert asked_with == [(sampler_for(TOKENIZER, ppo, 7), 3)] and asked_with[0][0].cache_dtype == cache_dtype


def test_a_shape_has_every_field_of_its_section():
    section = ShapeOptions(d_model=64, remat="full", dtype="bfloat16", attention="plain", scan_layers=True)
    model = stage_models.scratch_config(section, 96, 32)
    assert (model.vocab_size, model.max_length) == (96, 32)
    assert {name: getattr(model, name) for name in vars(section)} == vars(section)


def test_a_batch_that_a_run_refuses_a_plan_refuses_in_the_same_words(tmp_path):
    sections = {"sft": SFTOptions(batch_size=12)}
    with pytest.raises(UserError) as of_run:
        check_batches(MeshOptions(), sections, tmp_path)
    with pytest.raises(UserError) as of_plan:
        check_rows(sections, make_mesh())
    assert str(of_run.value) == str(of_plan.value) and str(of_run.value).startswith("sft.batch_size=12 does not")
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "done.json").write_text("{}")
    check_batches(MeshOptions(), sections, tmp_path)  # it has been run
    ppo = PPOOptions(batch_size=8, num_minibatches=2)
    with pytest.raises(UserError, match="num_minibatches=4 does not divide over 8 devices"):
        check_rows({"ppo": ppo}, make_mesh())
