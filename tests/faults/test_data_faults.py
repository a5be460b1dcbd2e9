"""Files that go, break or are odd while a training reads them; very many files, and a very long one."""

import json
import os
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commands import call, succeeds, tone
from helpers import tiny_mel
from runs import teacher_options, trace

from wavflow.data import AudioDataModule, CropDataset
from wavflow.data.split import SPLITS
from wavflow.training import Task

FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "is truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "is truncated"),
    "becomes text": (lambda path: path.write_text("a shopping list"), "is not audio that can be decoded"),
    "becomes shorter": (lambda path: soundfile.write(path, tone(0.1), 8000), "changed its length"),
    "becomes empty": (lambda path: os.truncate(path, 0), "is empty"),
}


def break_after(monkeypatch: pytest.MonkeyPatch, steps: int, do: Callable[[], Any]) -> None:
    """Has something done at the start of a step."""
    start = Task.on_train_batch_start

    def on_train_batch_start(task: Task, *batch: Any) -> None:
        start(task, *batch)
        if task.global_step == steps:
            do()

    monkeypatch.setattr(Task, "on_train_batch_start", on_train_batch_start)


def test_a_file_that_vanishes_in_training_is_named_and_left_out(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*teacher_options(sounds), "data.validation=0.2", "trainer.max_steps=12", "trainer.val_check_interval=20"]
    data = AudioDataModule(tiny_mel(), sounds, segment_length=1024, validation=0.2)
    first = data.files("train")[0]
    break_after(monkeypatch, 2, first.unlink)
    with pytest.warns(UserWarning, match=f"dropped from training: .*there is no .*{first.name}") as caught:
        succeeds("train", *options, f"output={tmp_path / 'run'}")
    assert len([each for each in caught if "dropped" in str(each.message)]) == 1
    assert len([row for row in trace(tmp_path / "run") if "train/loss" in row]) == 12


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_breaks_between_crops_is_named_and_left_out(fault: str, sounds: Path) -> None:
    damage, words = FAULTS[fault]
    victim, *others = sorted(sounds.iterdir())
    crops = CropDataset([victim, *others], tiny_mel(), 1024)
    damage(victim)
    with pytest.warns(UserWarning, match=rf"dropped from training: .*{victim.name}.*{words}") as caught:
        items = [crops[i] for i in range(20)]
    assert len(caught) == 1
    assert {item["name"].split(" from ")[0] for item in items} == {str(path) for path in others}


@pytest.mark.filterwarnings("ignore:An audio file can't be read")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_run_ends_when_all_files_are_gone(
    num_workers: int, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_after(monkeypatch, 2, lambda: [path.unlink(missing_ok=True) for path in sounds.iterdir()])
    options = [*teacher_options(sounds), "trainer.max_steps=50", "trainer.val_check_interval=60"]
    outcome = call("train", *options, f"data.num_workers={num_workers}", f"output={tmp_path / 'run'}")
    assert outcome.status == 1
    assert "wavflow: `files` must stay readable, but none of 2 is left: check the disk" in outcome.err


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_silence_constants_and_square_waves_train(stage: str, sounds: Path, student_options: list[str], tmp_path: Path) -> None:
    """As the only sounds there are; nothing is skipped."""
    square = np.where(np.arange(2400) // 40 % 2, 1.0, -1.0)
    kinds = {"silence": np.zeros(2400), "constant": np.full(2400, 0.7), "full": np.ones(2400), "square": square}
    for path in sounds.iterdir():
        path.unlink()
    for name, audio in kinds.items():
        soundfile.write(sounds / f"{name}.wav", audio, 8000, subtype="PCM_16")
    (tmp_path / "split.json").write_text(json.dumps({part: list(kinds) for part in SPLITS}))
    options = student_options if stage == "student" else teacher_options(sounds)
    options += [f"data.split={tmp_path / 'split.json'}", "data.batch_size=8", f"output={tmp_path / 'run'}"]
    succeeds("train", *options, "trainer.max_steps=6", "trainer.val_check_interval=3")
    rows = trace(tmp_path / "run")
    assert all(np.isfinite(list(row.values())).all() for row in rows if "train/loss" in row)
    assert [row["train/skipped"] for row in rows if "train/skipped" in row] == [0.0] * 6


def peak_growth(work: Callable[[], Any]) -> float:
    """MiB by which this process grows at most while it does something."""

    def kib(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = kib("VmRSS")
    work()
    return (kib("VmHWM") - before) / 1024


linux = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="asks the kernel of Linux for the peak")


@linux
def test_a_file_of_ten_hours_is_read_by_seeking(tmp_path: Path) -> None:
    path, frames = tmp_path / "long.wav", 10 * 3600 * 8000
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, frames, "NONE", ""))
        file.writeframesraw(b"")
    with path.open("r+b") as raw:
        header = raw.read()
        raw.seek(0)
        size = 2 * frames
        raw.write(header[:4] + (size + 36).to_bytes(4, "little") + header[8:40] + size.to_bytes(4, "little"))
    os.truncate(path, size + 44)  # sparse: it takes no room

    def work() -> None:
        data = AudioDataModule(tiny_mel(), tmp_path, segment_length=1024, batch_size=2, max_clip_seconds=1.0)
        next(iter(data.val_dataloader()))
        assert all(CropDataset([path], tiny_mel(), 1024)[i]["audio"].isfinite().all() for i in range(50))

    with pytest.warns(UserWarning, match="one audio file alone"):
        assert peak_growth(work) < 60, "the whole file would take 1100 MiB"


@linux
@pytest.mark.slow
def test_ten_thousand_small_files_start_in_little_memory(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "0.wav", tone(0.05), 8000)
    content = (tmp_path / "0.wav").read_bytes()
    for i in range(1, 10_000):
        (tmp_path / f"{i}.wav").write_bytes(content)

    def work() -> None:
        next(iter(AudioDataModule(tiny_mel(), tmp_path, segment_length=1024, batch_size=8).train_dataloader()))

    assert peak_growth(work) < 60
