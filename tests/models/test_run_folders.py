"""A run's folder where a Hugging Face folder is expected: one sentence that says how such a folder is written."""

import json

import pytest

from icegrt_jax.data.tokenizer_folder import read_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.files import part_of_run
from icegrt_jax.models.hf.config import read_hf_config
from icegrt_jax.models.hf.folder import load_hf
from icegrt_jax.models.hf.peft import load_adapter

READERS = (read_tokenizer, read_hf_config, load_hf, lambda folder: load_adapter(folder, None))


@pytest.fixture
def run(tmp_path):
    for name in ("tokenizer", "sft/checkpoints/12", "ppo"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps({"seed": 0}))
    (tmp_path / "ppo" / "done.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("read", READERS)
def test_a_stage_and_a_run_are_named_with_the_command_that_exports_them(run, read):
    for stage in ("sft", "ppo"):
        with pytest.raises(
            UserError, match=f"{stage}: the folder of a stage, .* --workdir={run} --stage={stage} --out=DIR"
        ):
            read(run / stage)
    with pytest.raises(
        UserError, match=rf"{run}: the folder of a run, .* --stage=pretrain\|sft\|reward\|ppo --out=DIR"
    ):
        read(run)


def test_folders_of_others_are_no_part_of_a_run(run):
    assert [part_of_run(run / name) for name in ("", "sft", "ppo", "tokenizer")] == ["run", "stage", "stage", ""]
    # A trainer's own folder beside a model's files is none of ours: those files are read.
    (run / "sft" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert read_hf_config(run / "sft") == {"architectures": ["LlamaForCausalLM"]}
