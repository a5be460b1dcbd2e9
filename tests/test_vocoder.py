"""Drawing in segments, and by fast steps."""

import copy

import pytest
import torch
from helpers import random_log_mel, randomised, tiny_flow, tiny_student, tiny_teacher

from wavflow.synthesis.parallel import ParallelEngine
from wavflow.synthesis.steps import StepEngine


@pytest.mark.parametrize("upsampling", ["linear", "smoothing"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    "net",
    [
        {"layers": 1, "kernel_size": 2, "flows": 1},
        {"layers": 4, "kernel_size": 2, "flows": 3, "dilation_cycle": 4},
        {"layers": 6, "kernel_size": 3, "flows": 2, "dilation_cycle": 5},
    ],
    ids=["2 samples", "46 samples", "131 samples"],
)
def test_student_in_segments_is_the_student_in_one_pass(net: dict, center: bool, upsampling: str) -> None:
    mel = tiny_student().mel.spec | {"center": center}
    student = tiny_student(std=0.2, upsampling=upsampling, mel=mel, **net)
    log_mel = random_log_mel(23, batch=2)
    noise = student.noise(log_mel)

    audio = student.sample_and_log_prob(log_mel, noise, temperature=0.8)[0]

    for segment_frames in (1, 4, 10, 22):
        pieces = student.sample(log_mel, noise, 0.8, segment_frames=segment_frames)
        torch.testing.assert_close(pieces, audio, rtol=0, atol=1e-10)


def test_fast_steps_draw_what_the_slow_ones_draw_with_the_weights_of_the_moment() -> None:
    teacher, mel = tiny_teacher().float(), random_log_mel(4, batch=2).float()
    noise = teacher.noise(mel)
    fast = teacher.sample(mel, noise, 0.8)

    torch.testing.assert_close(fast, teacher.sample(mel, noise, 0.8, fast=False), rtol=0, atol=1e-5)
    randomised(teacher, 0.2)
    changed = teacher.sample(mel, noise, 0.8)

    torch.testing.assert_close(changed, teacher.sample(mel, noise, 0.8, fast=False), rtol=0, atol=1e-5)
    assert (changed - fast).abs().max() > 1e-3


def test_engines_are_for_float32_alone_and_made_once() -> None:
    assert tiny_teacher().engine() is tiny_student().engine() is None
    teacher, student = tiny_teacher().float(), tiny_student().float()
    assert isinstance(teacher.engine(), StepEngine)
    assert isinstance(student.engine(), ParallelEngine)
    assert student.engine() is student.engine()
    assert not copy.deepcopy(student)._engines, "a copy is no heavier than the model"
    assert tiny_flow("waveglow").float().engine() is None
