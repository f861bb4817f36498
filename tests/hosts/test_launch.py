"""How processes start: what flags and launchers say."""

import pytest

from icegrt_jax import cli
from icegrt_jax.errors import UserError
from icegrt_jax.hosts.launch import Launch, cluster

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(("environ", "found"), [
    ({}, None),
    (SLURM, "slurm"),
    ({**SLURM, "SLURM_NTASKS": "1"}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),  # a batch script, not yet under srun
    ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, "ompi"),
    ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpi4py"),
    ({"PMI_SIZE": "2"}, "mpi4py"),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, "gke"),
    ({"TPU_WORKER_HOSTNAMES": "a"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "gke"),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),  # one host of a pod, used as a plain machine
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a notebook in a pod
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, "kubernetes"),
], ids=str)  # fmt: skip
def test_launchers_are_known_by_what_they_set(environ, found):
    assert cluster(environ) == found


@pytest.mark.parametrize(("flags", "problem"), [
    ({"coordinator": "a:1"}, "--num-processes is missing"),
    ({"coordinator": "a:1", "num_processes": 2}, "--process-id is missing"),
    ({"num_processes": 2, "process_id": 0}, "--coordinator is missing"),
    ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "--coordinator=a; expected HOST:PORT"),
    ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "--process-id=2 with --num-processes=2; expected 0"),
    ({"distributed": "off", "process_id": 0}, "--distributed=off is for one process"),
], ids=str)  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(flags, problem):
    with pytest.raises(UserError, match=problem):
        Launch(**flags)


def test_a_misspelt_flag_of_the_launch_is_answered_before_anything_is_written(tmp_path, capsys):
    command = ["ppo", "--config=configs/quickstart.py:smoke", f"--workdir={tmp_path / 'run'}"]
    assert cli.main([*command, "--num-process=2"]) == 2
    assert "did you mean --num_processes?" in capsys.readouterr().err
    assert cli.main([*command, "--coordinator=10.0.0.2:8476"]) == 2
    assert "--num-processes is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
