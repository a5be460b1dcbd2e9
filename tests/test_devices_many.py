"""Several processes train, synthesize and evaluate as one does; sweeps."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from commands import TRAIN, call, contents, curves, is_refused, make_sounds, succeeds
from helpers import tiny_student, tiny_teacher
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

import wavflow
from wavflow.data.batches import Order
from wavflow.devices import nth_device
from wavflow.shares import end_share
from wavflow.training import DistillationTask


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


# Children of a process that has computed no gradient: torch refuses to compute any in a fork of one that has.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["wavflow.commands.train", "wavflow.commands.synthesize"])


def live(work: bytes, rank: int, place: dict[str, str]) -> None:
    """Is a process that torchrun has started."""
    os.environ.update(place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    rank_zero_only.rank = rank  # which Lightning noted as it was imported
    torch.set_default_dtype(torch.float64)  # as conftest.py does
    cloudpickle.loads(work)(rank)


def as_processes(count: int, work: Callable[[int], Any]) -> None:
    """Does work(rank) in processes that find themselves as torchrun would have started them."""
    place = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = [FRESH.Process(target=live, args=(cloudpickle.dumps(work), rank, place)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Of a student's training on long sounds, so that no crop is padded."""
    sounds = make_sounds(tmp_path / "sounds", (0.3, 0.2, 0.25, 0.35, 0.3, 0.4, 0.22, 0.31))
    wavflow.save_model(tiny_teacher(0.1, n_components=1).float(), tmp_path / "teacher.safetensors")
    stage = ["stage=student", "net.flows=1", f"teacher={tmp_path / 'teacher.safetensors'}"]
    spectral = ["spectral=magnitude", "+spectral.n_fft=64", "+spectral.hop_length=16", "+spectral.win_length=64"]
    return [*TRAIN, *stage, *spectral, "~callbacks.listen", f"data.path={sounds}", "data.validation=0.4"]


def assert_same(run: Path, other: Path, tolerance: float) -> None:
    """Holds two runs' curves and models against each other; the largest of a batch is no mean, nor is a ratio of means."""
    for row, expected in zip(curves(run), curves(other), strict=True):
        for name in ("train/largest_log_scale", "train/rms_ratio"):
            row.pop(name, None)
            expected.pop(name, None)
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)
    one, two = (wavflow.load_model(each / "model.safetensors").state_dict() for each in (run, other))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=tolerance, atol=tolerance)


def holds_the_student_alone(task: DistillationTask) -> None:
    """Checks what is averaged over the processes."""
    wrapped = task.trainer.strategy.model
    assert isinstance(wrapped, nn.parallel.DistributedDataParallel)
    averaged = {id(parameter) for parameter in wrapped.parameters()}
    assert averaged == {id(parameter) for parameter in task.net.parameters()}
    assert averaged.isdisjoint(id(parameter) for parameter in task.teacher.parameters())
    assert not wrapped.broadcast_buffers


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "steps", "tolerance"), [("32-true", 6, 1e-5), ("bf16-mixed", 4, 3e-2)])
def test_two_processes_distil_as_one_with_the_same_batch(
    precision: str, steps: int, tolerance: float, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clips are held out: one process has two of them."""
    options += [f"trainer.max_steps={steps}", "trainer.val_check_interval=3", f"trainer.precision={precision}"]

    def work(rank: int) -> None:
        start, checked = DistillationTask.on_train_start, []
        monkeypatch.setattr(
            DistillationTask, "on_train_start", lambda task: (start(task), checked.append(holds_the_student_alone(task)))
        )
        outcome = succeeds("train", *options, "trainer=ddp", "trainer.devices=2", f"output={tmp_path / 'two'}")
        assert checked
        assert bool(outcome.out) == (rank == 0)

    as_processes(2, work)
    succeeds("train", *options, "data.batch_size=4", f"output={tmp_path / 'one'}")
    assert_same(tmp_path / "two", tmp_path / "one", tolerance)


@pytest.mark.slow
def test_maps_that_start_from_data_start_alike_in_all_processes(options: list[str], tmp_path: Path) -> None:
    options = [*options[: options.index("stage=student")], "stage=flow", "net=flowavenet_small", "net.flows=1", *options[-2:]]
    options += ["~callbacks.listen", "trainer.max_steps=3"]
    as_processes(2, lambda _: succeeds("train", *options, "trainer=ddp", "trainer.devices=2", f"output={tmp_path / 'two'}"))
    succeeds("train", *options, "data.batch_size=4", f"output={tmp_path / 'one'}")
    assert_same(tmp_path / "two", tmp_path / "one", 1e-4)


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_two_small_batches_are_one_large_one(stage: str, options: list[str], tmp_path: Path) -> None:
    if stage == "teacher":
        options = [*options[: options.index("stage=student")], *options[-3:]]
    options += ["trainer.max_steps=4", "trainer.val_check_interval=100"]
    succeeds("train", *options, "trainer.accumulate_grad_batches=2", f"output={tmp_path / 'two'}")
    succeeds("train", *options, "data.batch_size=4", f"output={tmp_path / 'one'}")
    one, two = (wavflow.load_model(tmp_path / name / "model.safetensors").state_dict() for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5)


def test_a_run_resumed_on_two_processes_reads_what_comes_next() -> None:
    """Any number of processes reads the same crops in the same order, and each held-out clip once."""
    for first, count in ((0, 1), (3, 2), (2, 3)):
        shares = [list(islice(Order(count, rank, first * count), 5)) for rank in range(count)]
        assert sorted(chain.from_iterable(shares)) == list(range(first * count, (first + 5) * count))
        clips = [list(Order(count, rank, length=7)) for rank in range(count)]
        assert sorted(chain.from_iterable(clips)) == list(range(7))
        assert [len(Order(count, rank, length=7)) for rank in range(count)] == [len(each) for each in clips]
    assert all(len(list(Order(5, rank, length=2))) == 1 for rank in range(5)), "none goes without"


@pytest.fixture
def voice(tmp_path: Path) -> list[str]:
    """Options that synthesize a folder in which one file can't be used."""
    wavflow.save_model(tiny_student(0.1).float(), tmp_path / "model.safetensors")
    (make_sounds(tmp_path / "sounds", (0.2,) * 5) / "9.wav").write_text("no sound")
    return [f"model={tmp_path / 'model.safetensors'}", f"input={tmp_path / 'sounds'}", "device=cpu"]


@pytest.mark.slow
def test_synthesis_is_shared_by_devices_and_by_processes(voice: list[str], tmp_path: Path) -> None:
    outcome = call("synthesize", *voice, f"output={tmp_path / 'one'}")
    assert "1 of 6 files failed" in outcome.err
    outcome = call("synthesize", *voice, "devices=2", f"output={tmp_path / 'two'}")
    assert outcome.out.startswith("5 files, 1.0 s of audio in ")
    assert "1 of 6 files failed and were left out: " in outcome.err

    def work(rank: int) -> None:
        outcome = call("synthesize", *voice, f"output={tmp_path / 'run'}")
        assert outcome.out.startswith(f"{3 - rank} files, ")
        assert ("1 of 3 files" in outcome.err) == (rank == 1)

    as_processes(2, work)
    names = {f"{i}.wav" for i in range(5)}
    for folder in ("two", "run"):
        assert contents(tmp_path / folder) == names | {f"synthesized-{i}-of-2.jsonl" for i in range(2)}
        for name in names:
            assert (tmp_path / folder / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_process_that_failed_waits_for_the_others(tmp_path: Path) -> None:
    """torchrun ends all processes as soon as one fails."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port  # the store itself must not be pickled, and must live

    def work(rank: int) -> None:
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(port)}
        if rank == 1:
            time.sleep(1.0)
            (tmp_path / "done").touch()
        skipped = {"a.wav": ValueError("bad")} if rank == 0 else {}
        try:
            end_share(skipped, 2)
        except ValueError:
            assert rank == 0
            (tmp_path / "done").rename(tmp_path / "seen")

    as_processes(2, work)
    assert contents(tmp_path) == {"seen"}


def test_a_report_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sounds(tmp_path / "a", (0.5, 0.6))
    options = [f"reference={tmp_path / 'a'}", f"generated={tmp_path / 'a'}", "voicing=false", "listen=false", "jobs=1"]
    monkeypatch.setenv("RANK", "1")
    assert not call("evaluate", *options, f"output={tmp_path / 'none'}").out
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("RANK", "0")
    succeeds("evaluate", *options, f"output={tmp_path / 'report'}")
    assert (tmp_path / "report" / "report.html").is_file()


def test_devices_are_counted(voice: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_refused(tmp_path, "synthesize", *voice, "devices=0", words="`devices` must be a whole number of at least 1, got 0")
    asked: list[str] = []
    monkeypatch.setattr("wavflow.devices.pick_device", lambda name: asked.append(name) or torch.device(name))
    found = [nth_device(name, number) for name, number in (("cuda", 0), ("cuda", 2), ("cuda:1", 3), ("cpu", 4))]
    assert [str(device) for device in found] == ["cuda", "cuda:2", "cuda:1", "cpu"]


def test_the_runs_of_a_sweep_have_folders_of_their_own(options: list[str], tmp_path: Path) -> None:
    sweep = ["--multirun", "stage.optimizer.lr=0.001,0.01", "trainer.max_steps=1", f"hydra.sweep.dir={tmp_path / 'sweeps'}"]
    sweep += [*options, f"output={tmp_path / 'run'}"]
    succeeds("train", *sweep)
    rates = [(tmp_path / f"run-{i}" / "config.yaml").read_text().count(f"lr: {rate}") for i, rate in enumerate((0.001, 0.01))]
    assert rates == [1, 1]
    assert all((tmp_path / f"run-{i}" / "model.safetensors").is_file() for i in range(2))
    assert "holds a run already" in call("train", *sweep).err
    succeeds("train", *sweep, "resume=auto")
