"""Mels of other conventions: converted exactly where said, noticed where not; a right mel of whatever audio passes unheard."""

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import is_refused, succeeds
from helpers import refused, tiny_mel, tiny_student
from safetensors.torch import save_file
from sounds import speech
from torch import Tensor

from wavflow import MelScale, MelSpectrogram, read_audio, save_model
from wavflow.mel_files import load_mel, mel_chunks, read_scale
from wavflow.mel_scale import check_scale, least_power, warn_of_log10

LN10 = math.log(10.0)
SAID: dict[str, Callable[[Tensor], Tensor]] = {
    "ln": lambda mel: mel,
    "log10": lambda mel: mel / LN10,
    "db": lambda mel: 20 * mel / LN10,
    "linear": lambda mel: mel.exp(),
}


@pytest.fixture(scope="module")
def spectrogram() -> MelSpectrogram:
    return MelSpectrogram()


@pytest.fixture(scope="module")
def log_mel(spectrogram: MelSpectrogram) -> Tensor:
    """The mel (1, 80, F) of three seconds of speech."""
    return spectrogram(speech()[None])


@pytest.mark.parametrize("scale", SAID)
def test_a_scale_is_converted_exactly(scale: str, log_mel: Tensor) -> None:
    mel = SAID[scale](log_mel)
    torch.testing.assert_close(MelScale(scale)(mel), log_mel, rtol=0, atol=1e-12)
    mean, std = mel.mean(dim=-1)[0], mel.std(dim=-1)[0]
    normalized = (mel - mean[:, None]) / std[:, None]
    torch.testing.assert_close(MelScale(scale, mean, std)(normalized), log_mel, rtol=0, atol=1e-9)
    torch.testing.assert_close(MelScale(scale, 3.0, 0.5)((mel - 3.0) / 0.5), log_mel, rtol=0, atol=1e-9)
    assert MelScale(scale)(mel.float()).dtype == torch.float32


def test_what_lies_below_the_floor_comes_out_at_it() -> None:
    floor = math.log(1e-5)
    for scale, least in (("ln", -23.0), ("log10", -10.0), ("db", -200.0), ("linear", 0.0)):
        assert MelScale(scale)(torch.full((1, 8, 2), least)).unique().tolist() == [floor]


def test_a_scale_that_is_none_is_refused(tmp_path: Path) -> None:
    for arguments, words in (
        (("log2",), "`mel_scale` must be one of ln, log10, db, linear, got 'log2'"),
        (("db", 0.0, 0.0), "`mel_std` must be .* above 0, got 0.0"),
        (("db", math.nan), "`mel_mean` must be .* finite, got nan"),
        (("db", torch.zeros(2, 3)), "`mel_mean` must be one number, or one for each band"),
    ):
        refused(partial(MelScale, *arguments), words)
    with pytest.raises(ValueError, match=r"`mel_mean` must be .* one for each of 8 bands, got 5"):
        MelScale("ln", torch.zeros(5))(torch.zeros(1, 8, 3))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    for file, fault in (("text.npy", "holds no plain tensor"), ("none.npy", "can't be read as numbers")):
        refused(partial(read_scale, "ln", 0.0, str(tmp_path / file)), rf"`mel_std`: .*{file} {fault}")


def test_mean_and_deviation_come_from_files(tmp_path: Path, spectrogram: MelSpectrogram, log_mel: Tensor) -> None:
    mean, std = log_mel.mean(dim=-1)[0], log_mel.std(dim=-1)[0]
    np.save(tmp_path / "mean.npy", mean.numpy()[:, None])
    save_file({"mel": std}, tmp_path / "std.safetensors")
    np.save(tmp_path / "mel.npy", ((log_mel[0] - mean[:, None]) / std[:, None]).numpy())
    scale = read_scale(None, str(tmp_path / "mean.npy"), str(tmp_path / "std.safetensors"))
    torch.testing.assert_close(load_mel(tmp_path / "mel.npy", spectrogram, scale), log_mel.float(), rtol=0, atol=1e-5)
    assert read_scale(None) is None


def sounds(rate: int) -> Iterator[tuple[str, Tensor]]:
    """Two seconds of loud, quiet, clipped and synthetic sounds."""
    t = torch.arange(2 * rate) / rate
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    pink = torch.fft.irfft(torch.fft.rfft(noise) / torch.arange(1, len(t) // 2 + 2).sqrt(), len(t))
    swell = 0.05 * 20 ** (0.5 + 0.5 * torch.sin(math.pi * t))
    talk = torch.cat([speech(), torch.zeros(len(t))])[: len(t)]
    talk = talk / talk.abs().max()
    for level in (1.0, 0.3, 0.03, 1e-3):
        yield f"noise {level}", level * noise.clamp(-1, 1)
        yield f"binary noise {level}", level * noise.sign()
        yield f"pink noise {level}", level * pink / pink.abs().max()
        for pitch in (50.0, 440.0, 3000.0):
            yield f"sine {pitch} {level}", level * torch.sin(2 * math.pi * pitch * t)
            yield f"square {pitch} {level}", level * torch.sin(2 * math.pi * pitch * t + 0.1).sign()
        yield f"speech {level}", level * talk
        yield f"speech in noise {level}", (talk + level * noise).clamp(-1, 1)
        yield f"clipped speech {level}", (talk / level).clamp(-1, 1)
    yield "swelling noise", (swell * noise).clamp(-1, 1)
    yield "silence", torch.zeros(len(t))
    yield "full scale", torch.ones(len(t))
    yield "clicks", (torch.arange(len(t)) % 1000 == 0).double()
    yield "sparse clicks", (torch.arange(len(t)) % 9000 == 0).double()
    yield "sweep", torch.sin(2 * math.pi * (200 + 1500 * t) * t)


@pytest.mark.parametrize("changes", [{}, {"sample_rate": 16000}, {"sample_rate": 48000, "n_fft": 2048, "f_max": 24000.0}])
def test_a_right_mel_passes_whatever_the_audio(changes: dict) -> None:
    mel = MelSpectrogram(**changes)
    for name, audio in sounds(mel.sample_rate):
        log_mel = mel(audio[None])
        assert float(least_power(log_mel, mel).max()) <= 1.0, f"{name}: the bound is a theorem"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for frames in (1, 40, log_mel.shape[-1]):
                check_scale(log_mel[..., :frames], mel)
                warn_of_log10(log_mel[..., :frames], mel)
        check_scale((log_mel + 0.3 * torch.randn(log_mel.shape)).clamp(min=-11.5), mel)  # a prediction errs


NOTICED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "[-4, 4]": (lambda mel: ((20 * mel / LN10 + 100) / 100 * 8 - 4).clamp(-4, 4), "looks normalized, to -.* mel_mean"),
    "[0, 1]": (lambda mel: ((20 * mel / LN10 + 100) / 100).clamp(0, 1), "no value below 0 .*looks normalized"),
    "standard score": (lambda mel: (mel - mel.mean()) / mel.std(), "times the power of full-scale audio. It looks normalized"),
    "decibels": (SAID["db"], r"its least value is -.*looks like decibels: say so by mel_scale=db.*MelScale\('db'\)"),
    "linear": (SAID["linear"], "no value below 0 .*looks like linear magnitudes: .*mel_scale=linear"),
    "int16": (lambda mel: mel + math.log(32768.0), r"int16 audio: .* mel_scale=ln mel_mean=-10\.3972"),
    "another floor": (lambda mel: torch.where(mel < -9.0, -23.0, mel), "another floor, say so by mel_scale=ln"),
}


@pytest.mark.parametrize("name", NOTICED)
def test_a_mel_that_can_not_be_is_refused_and_what_it_looks_like_is_named(
    name: str, spectrogram: MelSpectrogram, log_mel: Tensor
) -> None:
    convert, words = NOTICED[name]
    refused(lambda: check_scale(convert(log_mel), spectrogram), f"`mel` must be the natural log of magnitudes.*{words}")
    check_scale(log_mel - 1.5 * torch.rand(log_mel.shape), spectrogram)  # nor is all that lies below the floor refused


@pytest.mark.parametrize("smooth", [False, True], ids=["recorded", "predicted"])
def test_a_decadic_log_is_warned_of(smooth: bool, spectrogram: MelSpectrogram, log_mel: Tensor) -> None:
    if smooth:  # as acoustic models predict
        log_mel = torch.nn.functional.avg_pool2d(log_mel, (3, 5), 1, (1, 2))
    check_scale(log_mel / LN10, spectrogram)
    with pytest.warns(UserWarning, match="`mel` looks like a decadic log.*mel_scale=log10.*MelScale.*mel_scale=ln"):
        warn_of_log10(log_mel / LN10, spectrogram)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_log10(log_mel, spectrogram)


def test_a_model_draws_nothing_of_what_can_not_be() -> None:
    model = tiny_student().float()
    mel = model.mel(0.3 * torch.randn(1, 16 * 50).clamp(-1, 1).float())
    refused(lambda: model.sample(mel.exp()), "as if all bands of all frames were at full scale")
    refused(lambda: next(iter(model.stream(20 * mel / LN10))), "looks like decibels")


@pytest.mark.slow
def test_the_command_is_told_or_tells(tmp_path: Path, log_mel: Tensor) -> None:
    save_model(tiny_student(mel=MelSpectrogram().spec, std=0.01), tmp_path / "model.safetensors")
    mel = log_mel[0, :, 60:160].float()
    for name, stored in {"right": mel, "db": 20 * mel / LN10, "log10": mel / LN10}.items():
        np.save(tmp_path / f"{name}.npy", stored.numpy())
    np.save(tmp_path / "mean.npy", np.full(80, 2.0))
    np.save(tmp_path / "norm.npy", (mel / LN10 - 2.0).numpy() / 0.5)

    def draw(name: str, *options: str) -> Tensor:
        model, target = f"model={tmp_path / 'model.safetensors'}", tmp_path / "out.wav"
        outcome = succeeds("synthesize", model, f"input={tmp_path / name}.npy", f"output={target}", "device=cpu", *options)
        assert "looks like" not in outcome.err
        return read_audio(target)[0]

    right = draw("right")
    assert right.abs().max() > 0.01
    for name, *options in (
        ("log10", "mel_scale=log10"),
        ("db", "mel_scale=db", "stream=true"),
        ("norm", "mel_scale=log10", f"mel_mean={tmp_path / 'mean.npy'}", "mel_std=0.5"),
    ):
        torch.testing.assert_close(draw(name, *options), right, rtol=0, atol=3 * 2.0**-15)
    for stream in ("stream=false", "stream=true"):
        with pytest.warns(UserWarning, match="looks like a decadic log") as said:
            succeeds(
                *("synthesize", f"model={tmp_path / 'model.safetensors'}", f"input={tmp_path / 'log10.npy'}"),
                *(f"output={tmp_path / 'log10.wav'}", "device=cpu", stream),
            )
        assert len(said) == 1
    place = [f"model={tmp_path / 'model.safetensors'}", f"input={tmp_path / 'db.npy'}", f"output={tmp_path / 'none.wav'}"]
    is_refused(tmp_path, "synthesize", *place, words="db.npy: `mel` must be the natural log|mel_scale=db")
    is_refused(tmp_path, "synthesize", *place, "mel_scale=bark", words="`mel_scale` must be one of ln, log10, db, linear")
    is_refused(tmp_path, "synthesize", *place, "mel_std=-1", words="`mel_std` must be one number")


def test_chunks_of_a_stored_mel_are_converted_too(tmp_path: Path) -> None:
    mel = tiny_mel()
    log_mel = mel(0.3 * torch.randn(1, 16 * 40).clamp(-1, 1)).float()
    np.save(tmp_path / "mel.npy", (20 * log_mel / LN10).numpy())
    chunks = list(mel_chunks(tmp_path / "mel.npy", mel, 16, MelScale("db")))
    assert len(chunks) == 3
    torch.testing.assert_close(torch.cat(chunks, dim=-1), log_mel, rtol=0, atol=1e-5)
