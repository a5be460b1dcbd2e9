"""`trainer=slurm` in a real SLURM, of two nodes on this machine."""

import sys
from pathlib import Path

import pytest
import slurm
from commands import TRAIN, make_sounds, succeeds
from helpers import tiny_teacher
from test_devices_many import assert_same

import wavflow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.MISSING), reason=f"needs {', '.join(slurm.MISSING)}: apt-get install slurm-wlm munge"),
]

# As in docs/train.md.
JOB = """#!/bin/bash
#SBATCH --requeue --open-mode=append --output={folder}/job.log
export OMP_NUM_THREADS=1
srun {python} -m wavflow.train {options} trainer=slurm output={folder}/run resume=auto
[ $? -eq 138 ] && scontrol requeue "$SLURM_JOB_ID"
"""


@pytest.mark.parametrize(
    ("stage", "tasks", "warning", "signal"),
    [
        ("teacher", ["--nodes=2", "--ntasks-per-node=1"], ["scancel", "--signal=USR1"], "SIGUSR1"),
        ("student", ["--nodes=1", "--ntasks-per-node=2"], ["scontrol", "requeue"], "SIGTERM"),
    ],
)
def test_two_tasks_that_are_requeued_train_as_one_process(
    stage: str, tasks: list[str], warning: list[str], signal: str, tmp_path: Path
) -> None:
    """SIGUSR1 comes from sbatch's --signal, whereupon the script requeues; to requeue a job SLURM itself sends SIGTERM."""
    sounds = make_sounds(tmp_path / "sounds", (0.3, 0.2, 0.25, 0.35, 0.3, 0.4, 0.22, 0.31))
    wavflow.save_model(tiny_teacher(0.1, n_components=1).float(), tmp_path / "teacher.safetensors")
    options = [*TRAIN, f"data.path={sounds}", "data.validation=0.4", f"stage={stage}", "trainer.val_check_interval=100"]
    options += ["~callbacks.listen", "trainer.max_steps=60"]
    if stage == "student":
        options += ["net.flows=1", f"teacher={tmp_path / 'teacher.safetensors'}"]
        options += ["spectral=magnitude", "+spectral.n_fft=64", "+spectral.hop_length=16", "+spectral.win_length=64"]  # a mean
    script, log, metrics = tmp_path / "job.sh", tmp_path / "job.log", tmp_path / "run" / "logs" / "metrics.csv"
    script.write_text(JOB.format(folder=tmp_path, python=sys.executable, options=" ".join(options)))
    with slurm.cluster() as environ:
        job = slurm.ask(environ, "sbatch", "--parsable", *tasks, str(script))
        slurm.wait_for(lambda: metrics.is_file() and len(metrics.read_text().splitlines()) > 5, 120, log)
        slurm.ask(environ, *warning, job)
        slurm.wait_for(lambda: not slurm.ask(environ, "squeue", "--noheader"), 240, log)
    assert f"wavflow: stopped by {signal} and saved after" in log.read_text()
    assert f"Going on with {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}, after" in log.read_text()
    succeeds("train", *options, "data.batch_size=4", f"output={tmp_path / 'whole'}")
    assert_same(tmp_path / "run", tmp_path / "whole", 1e-4)
