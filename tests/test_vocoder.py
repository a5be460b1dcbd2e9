"""Drawing in segments, and by fast steps."""

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PARALLEL_FLOWS, random_log_mel, refused, tiny_flow, tiny_student, tiny_teacher
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchaudio.pipelines import TACOTRON2_GRIFFINLIM_CHAR_LJSPEECH, Tacotron2TTSBundle

from wavflow import Vocoder
from wavflow.flows.base import Chain, Inverse
from wavflow.synthesis.parallel import ParallelEngine
from wavflow.synthesis.steps import StepEngine


@pytest.mark.parametrize("upsampling", ["linear", "smoothing"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    "net",
    [
        {"layers": 1, "kernel_size": 2, "flows": 1},
        {"layers": 6, "kernel_size": 2, "flows": 1, "dilation_cycle": 3},
        {"layers": 4, "kernel_size": 2, "flows": 3, "dilation_cycle": 4},
        {"layers": 6, "kernel_size": 3, "flows": 2, "dilation_cycle": 5},
        {"layers": 3, "kernel_size": 2, "flows": 2, "group": 8},
    ],
    ids=["2 samples", "just a hop", "46 samples", "131 samples", "group"],
)
def test_student_in_segments_is_the_student_in_one_pass(net: dict, center: bool, upsampling: str) -> None:
    mel = tiny_student().mel.spec | {"center": center}
    student = tiny_student(std=0.2, upsampling=upsampling, mel=mel, **net)
    log_mel = random_log_mel(23, batch=2)
    noise = student.noise(log_mel)
    audio = student.sample_and_log_prob(log_mel, noise, temperature=0.8)[0]
    for segment_frames in (1, 4, 10, 22):
        pieces = student.sample(log_mel, noise, 0.8, passes=0, segment_frames=segment_frames)
        torch.testing.assert_close(pieces, audio, rtol=0, atol=1e-10)


def test_engines_are_for_float32_alone_and_made_once() -> None:
    assert tiny_teacher().engine() is tiny_student().engine() is None
    teacher, student = tiny_teacher().float(), tiny_student().float()
    assert isinstance(teacher.engine(), StepEngine)
    assert isinstance(student.engine(), ParallelEngine)
    assert student.engine() is student.engine()
    assert not copy.deepcopy(student)._engines._made, "a copy is no heavier than the model"
    assert tiny_flow("waveglow").float().engine() is None


def _copy_into_data(model: Vocoder, other: Vocoder) -> None:
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        ours.data.copy_(theirs)


def _through_numpy(model: Vocoder, other: Vocoder) -> None:
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        ours.detach().numpy()[...] = theirs.detach().numpy()


def _average(model: Vocoder, other: Vocoder) -> None:
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    averaged.update_parameters(model)
    averaged.update_parameters(other)
    _copy_into_data(model, averaged.module)


def _optimize(model: Vocoder, other: Vocoder) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def _move(model: Vocoder, other: Vocoder) -> None:
    for parameter in model.parameters():
        parameter.data = 0.5 * parameter.data  # in new memory, as `.to` does


def _in_inference_mode(model: Vocoder, other: Vocoder) -> None:
    with torch.inference_mode():
        model.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    "change",
    [
        _copy_into_data,
        _through_numpy,
        _average,
        _optimize,
        _move,
        _in_inference_mode,
        lambda model, other: model.load_state_dict(other.state_dict()),
        lambda model, other: model.load_state_dict(copy.deepcopy(other).state_dict(), assign=True),
        lambda model, other: model.upsampler.mean.add_(20.0),
        lambda model, other: setattr(model, "whitening", None),
    ],
)
@pytest.mark.parametrize("make", [tiny_teacher, tiny_student])
def test_draws_are_made_with_what_the_module_holds_now(make: Callable[..., Vocoder], change: Callable[..., Any]) -> None:
    model, other, mel = make(std=0.2).float(), make(std=0.2).float(), random_log_mel(3).float()
    noise = model.noise(mel)
    before = model.sample(mel, noise, passes=0)
    change(model, other)
    after = model.sample(mel, noise, passes=0)
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(after, model.sample(mel, noise, passes=0, fast=False), rtol=1e-4, atol=1e-5)
    if model.draws_in_parallel:
        assert torch.equal(torch.cat(list(model.stream(mel, noise, passes=0)), dim=-1), after)


# --- arguments


def test_arrays_of_any_float_type_are_taken_as_tensors_are() -> None:
    model, mel = tiny_student().float(), random_log_mel(3, batch=2).float()
    noise = model.noise(mel, torch.Generator().manual_seed(0))
    audio = model.sample(mel, noise)
    for kind in (np.float32, np.float64):
        arrays = mel.numpy().astype(kind), noise.numpy().astype(kind)
        assert torch.equal(model.sample(*arrays), audio)
        assert torch.equal(torch.cat(list(model.stream(*arrays)), dim=-1), audio)
        assert torch.equal(torch.cat(list(model.stream(iter(np.split(arrays[0], 3, axis=-1)), arrays[1])), dim=-1), audio)
        assert torch.equal(model.sample_and_log_prob(*arrays)[1], model.sample_and_log_prob(mel, noise)[1])
        drawn = [model.noise(each, torch.Generator().manual_seed(0)) for each in (arrays[0], torch.from_numpy(arrays[0]))]
        assert torch.equal(*drawn)
    assert torch.equal(model.sample(mel.double(), noise.double()), audio)
    teacher = tiny_teacher().float()
    assert torch.equal(teacher.log_prob(audio.double().numpy(), mel.numpy()[..., ::-1]), teacher.log_prob(audio, mel.flip(-1)))
    assert torch.equal(teacher.mel(audio.numpy()), teacher.mel(audio))
    for wrong in (mel.tolist(), None):
        refused(partial(model.sample, wrong), "`mel` must be a tensor or a NumPy array, got")
    refused(lambda: model.sample(mel.numpy().astype(np.int16)), "`mel` must be float")


@pytest.mark.parametrize("make", [tiny_teacher, tiny_student])
def test_arguments_that_do_not_fit_are_refused_by_name(make: Callable[..., Vocoder]) -> None:
    model, mel = make().float(), random_log_mel(3).float()
    noise = model.noise(mel)
    wrong: list[tuple[str, Any]] = [("noise", noise[0]), ("noise", noise.repeat(2, 1)), ("noise", noise[None])]
    wrong += [("noise", noise.long()), ("noise", [0.0]), ("noise", 0), ("generator", 1)]
    wrong += [("generator", np.random.default_rng(0))]
    wrong += [("temperature", value) for value in (-1, "0.8", None, math.nan, torch.ones(2))]
    for name, value in wrong:
        refused(lambda name=name, value=value: model.sample_and_log_prob(mel, **{name: value}), f"^`{name}`")
        refused(lambda name=name, value=value: model.sample(mel, **{name: value}), f"^`{name}`")
        if model.draws_in_parallel:
            refused(lambda name=name, value=value: list(model.stream(mel, **{name: value})), f"^`{name}`")
    for passes in (1.5, "2", None):
        refused(partial(model.sample, mel, passes=passes), "^`passes` must be a whole number, got")
    for audio in (noise[0], noise.repeat(2, 1), noise.short()):
        refused(partial(model.log_prob, audio, mel), "^`audio` must be float")
    refused(partial(model.log_prob, noise, mel.repeat(2, 1, 1)), r"^`audio` must be float \(2, T\)")
    assert torch.equal(model.sample(mel, noise, torch.tensor(0.5)), model.sample(mel, noise, 0.5))


def test_a_stream_without_frames_has_no_end() -> None:
    refused(tiny_student().open_stream().end, "`mel`: no frames have come")


def test_lengths_of_a_call_come_back_in_samples() -> None:
    assert tiny_student()(random_log_mel(3, batch=2), [1, 3])[1].tolist() == [16, 48]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [tiny_teacher, tiny_student, *(partial(tiny_flow, name) for name in PARALLEL_FLOWS)])
def test_a_model_in_half_precision_draws_and_scores_in_float32(make: Callable[..., Vocoder], dtype: torch.dtype) -> None:
    model, mel = make(std=0.1).float(), random_log_mel(3, batch=2).float()
    noise = model.noise(mel)
    audio, log_prob = model.sample_and_log_prob(mel, noise)
    half = copy.deepcopy(model).to(dtype)
    for given in (mel, mel.to(dtype)):
        drawn, density = half.sample_and_log_prob(given, noise)
        assert drawn.dtype == density.dtype == torch.float32
        assert ((drawn - audio).square().mean().sqrt() / audio.std()) < 0.05
        assert (density - log_prob).abs().mean() < 0.05
    torch.testing.assert_close(half.sample(mel, noise, passes=0), half.sample_and_log_prob(mel, noise)[0], rtol=0, atol=1e-2)
    assert half.log_prob(audio.to(dtype), mel).dtype == torch.float32
    if type(model.flow.transform) is Chain and all(type(step) is Inverse for step in model.flow.transform.transforms):
        pieces = torch.cat(list(half.stream(mel, noise)), dim=-1)
        torch.testing.assert_close(pieces, half.sample(mel, noise), rtol=0, atol=1e-2)


def test_a_dtype_that_nothing_honours_is_refused() -> None:
    student, mel = tiny_student().float(), random_log_mel(2).float()
    for model, options in [(student, {"fast": False}), (tiny_student(), {}), (tiny_flow("waveglow").float(), {})]:
        assert model.sample(mel, **options).isfinite().all()
        for dtype in (torch.int8, torch.bfloat16, torch.float64):
            refused(partial(model.sample, mel, dtype=dtype, **options), "`dtype` is that of an engine's matrices")
    refused(lambda: next(tiny_student().stream(mel, dtype=torch.bfloat16)), "`dtype` is that of an engine's matrices")
    refused(lambda: student.sample(mel, dtype=torch.int8), "`dtype` must be one that this processor multiplies")


@pytest.mark.slow  # another interpreter
def test_without_numbas_compiler_all_but_the_engines_works() -> None:
    script = """
import torch
from helpers import random_log_mel, tiny_student, tiny_teacher
from wavflow.synthesis.steps import StepEngine

torch.manual_seed(0)
mel = random_log_mel(3)
for model in (tiny_student(), tiny_teacher()):
    noise = model.noise(mel)
    for options in ({}, {"fast": False}):
        assert model.engine() is None and model.sample(mel, noise, **options).isfinite().all()
assert torch.cat(list(tiny_student().stream(mel, noise)), dim=-1).isfinite().all()
audio, log_prob = tiny_teacher().sample_and_log_prob(mel, noise)
(audio.sum() - log_prob.sum()).backward()
try:
    StepEngine(tiny_teacher().flow)
except RuntimeError as error:
    print(error)
"""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(Path(__file__).parent)}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert "NUMBA_DISABLE_JIT is set: unset it" in ran.stdout, ran.stderr


# --- batches of unequal lengths


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [tiny_teacher, partial(tiny_student, n_speakers=3), partial(tiny_flow, "waveglow")])
def test_items_of_unequal_lengths_are_as_they_are_alone(make: Callable[..., Vocoder], dtype: torch.dtype) -> None:
    model, mel, lengths = make().to(dtype), random_log_mel(7, batch=3).to(dtype), [4, 7, 1]
    noise = model.noise(mel)
    speaker = None if model.speakers is None else torch.tensor([2, 0, 1])
    padded = mel.clone()
    for item, n in enumerate(lengths):
        padded[item, :, n:] = torch.nan
    audio = model.sample(padded, noise, 0.8, speaker=speaker, lengths=torch.tensor(lengths))
    assert audio.shape == noise.shape
    for i, n in enumerate(lengths):
        who = None if speaker is None else speaker[i : i + 1]
        alone = model.sample(mel[i : i + 1, :, :n], noise[i : i + 1, : n * 16], 0.8, speaker=who)[0]
        assert torch.equal(audio[i, : n * 16], alone)
        assert (audio[i, n * 16 :] == 0).all()
    draws = [model.sample(padded, None, 0.8, torch.Generator().manual_seed(1), speaker, lengths=lengths) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("lengths", [[1, 2], [1, 2, 0], [1, 2, 5], [1, 2, 2.5], [1.0, 2.0, 4.5], 4, [[1, 2, 3]]])
def test_lengths_that_can_not_be_are_refused(lengths: object) -> None:
    words = r"`lengths` must be 3 whole numbers of frames in 1 \.\.\. 4, got"
    refused(lambda: tiny_student().sample(random_log_mel(4, batch=3), lengths=lengths), words)


class Acoustic:
    """Takes the place of torchaudio's Tacotron 2: two random frames a token."""

    def infer(self, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return random_log_mel(2 * tokens.shape[1], batch=len(tokens)), 2 * lengths, None


class Bundle(Tacotron2TTSBundle):
    """A bundle of torchaudio, whose text processor is its own and whose vocoder is a model of ours."""

    def get_text_processor(self, *, dl_kwargs: dict | None = None) -> Tacotron2TTSBundle.TextProcessor:
        return TACOTRON2_GRIFFINLIM_CHAR_LJSPEECH.get_text_processor()

    def get_tacotron2(self, *, dl_kwargs: dict | None = None) -> Acoustic:
        return Acoustic()

    def get_vocoder(self, *, dl_kwargs: dict | None = None) -> Vocoder:
        return tiny_student()


def test_it_takes_the_place_of_the_vocoder_in_a_tacotron_2_bundle_of_torchaudio() -> None:
    bundle = Bundle()
    processor, tacotron2, vocoder = bundle.get_text_processor(), bundle.get_tacotron2(), bundle.get_vocoder()
    mels, frames, _ = tacotron2.infer(*processor(["A text.", "Hi."]))
    torch.manual_seed(1)
    waveforms, samples = vocoder(mels, frames)
    assert vocoder.sample_rate == 8000
    assert waveforms.shape == (2, 14 * 16)
    assert samples.tolist() == [14 * 16, 6 * 16]
    assert not waveforms[1, 6 * 16 :].any()
    torch.manual_seed(1)
    torch.testing.assert_close(waveforms, vocoder.sample(mels, lengths=frames), rtol=0, atol=0)
    assert vocoder(mels)[1] is None
