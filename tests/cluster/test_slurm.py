"""`trainer=slurm`, and a set of files under `srun`, in a real SLURM of two nodes on this machine."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import slurm
import soundfile
from commands import TRAIN, make_sounds, succeeds
from helpers import tiny_student, tiny_teacher
from test_devices_many import assert_same

import wavflow
from wavflow.files import read_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # some minutes on a machine that is busy
    pytest.mark.skipif(bool(slurm.MISSING), reason=f"needs {', '.join(slurm.MISSING)}: apt-get install slurm-wlm munge"),
]

# As in docs/train.md; but the first two starts have no end, and the third makes five steps.
JOB = """#!/bin/bash
#SBATCH --requeue --open-mode=append --nodes=2 --ntasks-per-node=1 --output={folder}/job.log
export OMP_NUM_THREADS=1
after=$(grep -o 'saved after [0-9]*' {folder}/job.log | sed -n '2s/.* //p')
STEPS=$((${{after:-100000}} + 5))
srun {python} -m wavflow.train {options} trainer.max_steps=$STEPS trainer=slurm output={folder}/run resume=auto
[ $? -eq 138 ] && scontrol requeue "$SLURM_JOB_ID"
"""


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    with slurm.cluster() as environ:
        yield environ


def test_two_tasks_that_are_requeued_train_as_one_process(environ: dict[str, str], tmp_path: Path) -> None:
    """SIGUSR1 comes from sbatch's --signal, whereupon the script requeues; to requeue a job SLURM itself sends SIGTERM."""
    sounds = make_sounds(tmp_path / "sounds", (0.3, 0.2, 0.25, 0.35, 0.3, 0.4, 0.22, 0.31))
    wavflow.save_model(tiny_teacher(0.1, n_components=1).float(), tmp_path / "teacher.safetensors")
    options = [*TRAIN, f"data.path={sounds}", "data.validation=0.4", "stage=student", "trainer.val_check_interval=100"]
    options += ["net.flows=1", f"teacher={tmp_path / 'teacher.safetensors'}"]
    options += ["spectral=magnitude", "+spectral.n_fft=64", "+spectral.hop_length=16", "+spectral.win_length=64"]  # a mean
    options += ["~callbacks.listen", "stage.final_fraction=1.0"]  # else the rate hangs on max_steps
    script, log, metrics = tmp_path / "job.sh", tmp_path / "job.log", tmp_path / "run" / "logs" / "metrics.csv"
    script.write_text(JOB.format(folder=tmp_path, python=sys.executable, options=" ".join(options)))
    job = slurm.ask(environ, "sbatch", "--parsable", str(script))
    assert job.isdecimal(), job

    def rows() -> int:
        return len(metrics.read_text().splitlines()) if metrics.is_file() else 0

    def warn(name: str, *command: str) -> int:
        """Warns the job once it trains; returns after how many steps it has saved."""
        before, words = rows(), f"stopped by {name} and saved after "
        slurm.wait_for(lambda: rows() > before + 5, 600, log)
        assert slurm.ask(environ, *command, job) == ""
        slurm.wait_for(lambda: words in log.read_text(), 600, log)
        return int(re.search(rf"{words}(\d+) step", log.read_text())[1])

    steps = [warn("SIGUSR1", "scancel", "--signal=USR1"), warn("SIGTERM", "scontrol", "requeue")]
    slurm.wait_for(lambda: slurm.ask(environ, "squeue", "--noheader") == "", 600, log)
    for n in steps:
        assert f"Going on with {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}, after {n} steps" in log.read_text()
    options += ["data.batch_size=4", f"trainer.max_steps={steps[-1] + 5}"]
    succeeds("train", *options, f"output={tmp_path / 'whole'}")
    assert_same(tmp_path / "run", tmp_path / "whole", 1e-4)


def test_a_task_that_is_killed_among_many_files_goes_on(environ: dict[str, str], tmp_path: Path) -> None:
    sounds, output, log = make_sounds(tmp_path / "in", (0.1,) * 8), tmp_path / "out", tmp_path / "log"
    soundfile.write(sounds / "4a.wav", np.zeros(20 * 60 * 8000, np.int16), 8000)  # takes minutes
    wavflow.save_model(tiny_student(0.1).float(), tmp_path / "student.safetensors")
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", "bash", "-c", 'echo $$ > $0/$SLURM_PROCID.pid; exec "$@"', tmp_path]
    command += [sys.executable, "-m", "wavflow.synthesize", f"model={tmp_path / 'student.safetensors'}", f"input={sounds}"]
    command += [f"output={output}", "device=cpu", "stream=true", "skip_done=true"]

    def lines() -> list[dict[str, str]]:
        return [line for path in sorted(output.glob("*.jsonl")) for line in read_lines(path)[1:]]

    with log.open("w") as file, subprocess.Popen(command, env=environ, stdout=file, stderr=file) as first:
        slurm.wait_for(lambda: len(lines()) == 7 and any(output.glob(".4a.wav.*.part")), 600, log)
        os.kill(int((tmp_path / "1.pid").read_text()), signal.SIGKILL)
    assert first.returncode == 128 + signal.SIGKILL
    (left,) = output.glob(".4a.wav.*.part")
    os.utime(left, (0, 0))
    (sounds / "4a.wav").write_text("no sound")
    again = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 1, again.stderr
    assert not left.exists()
    assert "Part 1/2: 4 of 9 files, 2 of them done already." in again.stderr
    assert sorted(Path(line["file"]).name for line in lines()) == sorted(path.name for path in sounds.iterdir()), "each once"
    assert [Path(line["file"]).name for line in lines() if "error" in line] == ["4a.wav"]
