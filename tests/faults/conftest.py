"""A folder of sounds, and options of a tiny student of a random teacher."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import make_sounds
from helpers import tiny_teacher

import wavflow

pytest.register_assert_rewrite("runs")
import runs  # noqa: E402


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return make_sounds(tmp_path / "sounds")


@pytest.fixture
def student_options(sounds: Path, tmp_path: Path) -> list[str]:
    """Options that distil a student, which draws noise in each step."""
    wavflow.save_model(tiny_teacher(0.1, n_components=1).float(), tmp_path / "teacher.safetensors")
    stage = ["stage=student", "net.flows=1", f"teacher={tmp_path / 'teacher.safetensors'}"]
    return [*runs.options_of(sounds), *stage]


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """A shell starts what it puts into the background with SIGINT ignored, and a run keeps to that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
