"""A student some frames at a time, its state outside: what streams and the graph of one are made of."""

from functools import partial

import pytest
import torch
from helpers import MEL, VOICE, random_log_mel, refused, tiny_flow, tiny_student, tiny_teacher, voiced_log_mel
from torch import Tensor
from torch.nn import functional

from wavflow import Vocoder
from wavflow.flows.recursion import recursion
from wavflow.synthesis.export_unwhitening import impulse_response
from wavflow.synthesis.student import StudentStep


def in_steps(
    student: Vocoder, mel: Tensor, noise: Tensor, speaker: Tensor | None = None, size: int = 1
) -> tuple[Tensor, Tensor]:
    """Draws some frames at a time; returns the audio and its log-density."""
    step, hop_length, drawn = StudentStep(student), student.hop_length, []
    state, padded = step.initial(len(mel)), functional.pad(mel, (2, 2), value=float("nan"))
    for f in range(0, mel.shape[-1], size):
        *made, state = step(padded[..., f : f + size + 4], noise[:, f * hop_length :][:, : size * hop_length], state, speaker)
        drawn.append(made)
    audio, log_prob = (torch.cat(parts, dim=-1) for parts in zip(*drawn, strict=True))
    return audio, log_prob


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mel": VOICE, "whitening": 12},
        {"mel": VOICE, "whitening": 12, "pulses": 0.9},
        {"mel": VOICE, "whitening": 40},  # longer than a block of 16
        {"mel": MEL | {"center": True}, "whitening": 0},
        {"flows": 3, "kernel_size": 3, "layers": 6, "dilation_cycle": 5, "upsampling": "smoothing"},
        {"group": 4, "base": "logistic"},
        {"n_speakers": 3},
    ],
    ids=["plain", "pitch", "pulses", "high order", "bare", "far-reaching", "group", "speakers"],
)
@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_frames_are_those_of_one_pass(options: dict, frames: int) -> None:
    student = tiny_student(std=0.2, **options)
    mel = random_log_mel(frames, batch=2, n_mels=student.mel.n_mels)
    mel[1] = mel[1] - 3.0
    if student.source is not None:
        mel = voiced_log_mel(student.mel, frames, 2)
    noise = student.noise(mel)
    speaker = torch.tensor([0, 2]) if "n_speakers" in options else None
    expected = student.sample(mel, noise, speaker=speaker, passes=0)
    for size in (1, 3, 8):
        audio, log_prob = in_steps(student, mel, noise, speaker, size)
        torch.testing.assert_close(audio, expected, rtol=0, atol=1e-9)
        density = student.sample_and_log_prob(mel, noise, speaker=speaker)[1]
        torch.testing.assert_close(log_prob, density, rtol=0, atol=1e-9)


def test_in_float32_they_are_the_same_to_rounding() -> None:
    student = tiny_student(std=0.2, mel=VOICE).float()
    mel = random_log_mel(6, batch=2, n_mels=64).float()
    noise = student.noise(mel)
    torch.testing.assert_close(
        in_steps(student, mel, noise)[0], student.sample(mel, noise, passes=0, fast=False), rtol=0, atol=1e-5
    )


def test_items_of_a_batch_may_end_apart() -> None:
    student = tiny_student(std=0.2)
    mel = random_log_mel(5, batch=2)
    noise, short = student.noise(mel), mel.clone()
    short[1, :, 3:] = float("nan")
    audio, _ = in_steps(student, short, noise)
    torch.testing.assert_close(audio[:1], student.sample(mel[:1], noise[:1], passes=0), rtol=0, atol=1e-9)
    expected = student.sample(mel[1:, :, :3], noise[1:, : 3 * 16], passes=0)
    torch.testing.assert_close(audio[1:, : 3 * 16], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("order", "length"), [(3, 1), (3, 16), (7, 12), (24, 9)])
def test_response_of_a_filter_is_what_it_makes_of_an_impulse(order: int, length: int) -> None:
    coefficients = 0.2 * torch.randn(2, 3, order)
    impulse = torch.zeros(6, length)
    impulse[:, 0] = 1.0
    expected = recursion(impulse, coefficients.reshape(6, 1, order))
    torch.testing.assert_close(impulse_response(coefficients, length), expected.reshape(2, 3, length))


@pytest.mark.parametrize("model", [tiny_teacher, lambda: tiny_flow("waveglow"), lambda: tiny_flow("waveflow")])
def test_other_models_are_refused(model: object) -> None:
    refused(lambda: StudentStep(model()), "`vocoder` must be a student")


def test_other_windows_are_refused() -> None:
    step = StudentStep(tiny_student())
    for mel, noise in (((1, 8, 3), (1, 16)), ((1, 8, 5), (1, 32)), ((1, 7, 5), (1, 16))):
        refused(partial(step, torch.zeros(mel), torch.zeros(noise), step.initial()), "`mel` and `noise` must be")
