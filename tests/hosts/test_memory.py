"""Out of memory: which program, how many bytes, and keys of the config that make it need less."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import cli
from icegrt_jax.config import default_config
from icegrt_jax.config.file import flatten
from icegrt_jax.hosts import memory
from icegrt_jax.training.progress import Progress


@pytest.mark.parametrize(
    "text, size",
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 4398046511104 bytes.", 2**42),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.50GiB.", 3 * 2**29),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 28.50G of 15.75G hbm.", 57 * 2**29),
        ("RESOURCE_EXHAUSTED: Attempting to allocate 3.25G. That was not possible.", 13 * 2**28),
        ("Unable to allocate 128. TiB for an array with shape (4194304, 4194304)", 2**47),
        ("RESOURCE_EXHAUSTED: no number", 0),
    ],
)
def test_the_bytes_that_were_asked_for_are_read_from_the_message(text, size):
    assert memory.asked_for(text) == size


def test_a_phase_names_the_program_the_bytes_and_the_keys():
    progress = Progress(9, "sft", start=4, stream=io.StringIO())
    with pytest.raises(memory.OutOfMemory) as error, progress.phase("update"):
        jnp.zeros((2**20, 2**20)).block_until_ready()
    text = str(error.value)
    assert text.startswith(
        "sft, update of step 5: out of memory: 4096.00 GiB asked for, which the device has not (RESOURCE"
    )
    assert "look at sft.microbatch, model.remat='full', sft.length, mesh.fsdp; `icegrt plan` says" in text


def test_the_host_can_run_out_as_well_and_other_errors_stay_what_they_are():
    with pytest.raises(memory.OutOfMemory, match="ppo, data of step 1: .*which the host has not"):
        with memory.explained("ppo, data of step 1", "ppo", "data"):
            np.zeros((2**22, 2**22))
    with pytest.raises(RuntimeError, match="^another$"), memory.explained("", "", ""):
        raise RuntimeError("another")


def test_every_key_that_is_proposed_exists():
    known = flatten(default_config())
    for phase, keys in memory.KEYS.items():
        for key in keys[1 if not phase else 0 :]:
            for stage in ("pretrain", "sft", "reward"):
                assert key.format(stage=stage).partition("=")[0] in known


def test_a_command_that_runs_out_anywhere_ends_with_a_sentence(monkeypatch, capsys):
    def out(argv):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1073741824 bytes.")

    monkeypatch.setattr(cli, "_run", out)
    assert cli.main(["run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out of memory: 1.00 GiB asked for") and error.count("\n") == 1
