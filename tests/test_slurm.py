"""The sweep on a real SLURM; skipped where none runs."""

import shutil
import subprocess

import pytest

from scaling.schema import read_records
from scaling.submit import slurm_parameters

from .test_commands import TINY, sweep


def slurm_is_up() -> bool:
    if not shutil.which("sinfo"):
        return False
    found = subprocess.run(["sinfo", "-h"], capture_output=True, check=False, timeout=30)
    return found.returncode == 0 and bool(found.stdout.strip())


@pytest.mark.slurm
@pytest.mark.slow
def test_a_sweep_runs_as_slurm_jobs_and_resumes(corpus_folder, tmp_path):
    if not slurm_is_up():
        pytest.skip("no SLURM answers sinfo; start one (../shared/slurm/cluster start, as root)")
    study = [
        *TINY,
        f"data.train=[{corpus_folder}]",
        f"runs={tmp_path}/runs",
        f"machine.cache={tmp_path}/cache",
        "model.d_model=16,24",
        "hydra/launcher=slurm",
        "hydra.launcher.partition=main",
        "hydra.launcher.mem_gb=1",
        "hydra.launcher.timeout_min=10",
    ]
    first = sweep(*study, "budget.n_tokens=1024")
    assert first.returncode == 0, first.stderr
    assert "submitted 2 jobs" in first.stderr
    again = sweep(*study, "budget.n_tokens=1024,2048")
    assert again.returncode == 0, again.stderr
    assert "2 done already, 2 to train" in again.stderr
    records = read_records(tmp_path / "runs/tiny")
    assert [r.status for r in records] == ["done"] * 4


@pytest.mark.slow
def test_no_slurm_is_one_sentence(corpus_folder, tmp_path):
    if shutil.which("sbatch") or shutil.which("srun"):
        pytest.skip("this machine has SLURM")
    done = sweep(
        *TINY,
        f"data.train=[{corpus_folder}]",
        f"runs={tmp_path}/runs",
        f"machine.cache={tmp_path}/cache",
        "model.d_model=16",
        "budget.n_tokens=1024",
        "hydra/launcher=slurm",
    )
    assert done.returncode == 1
    assert "hydra/launcher=local" in done.stderr.splitlines()[-1]


def test_launcher_options_become_those_of_submitit():
    found = slurm_parameters(
        partition="gpu", account="lab", gpus_per_node=2, additional={"constraint": "a100"}
    )
    assert found["slurm_partition"] == "gpu"
    assert found["slurm_additional_parameters"]["constraint"] == "a100"
    assert found["slurm_account"] == "lab"
    assert found["gpus_per_node"] == 2
