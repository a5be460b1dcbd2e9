"""What several tests share: tiny models with random weights, and the check of a log-determinant against autograd."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import wavflow.models
from wavflow import MelSpectrogram, Vocoder

MEL = {"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "win_length": 64, "n_mels": 8, "f_max": 4000.0}
NET = {"layers": 3, "channels": 6, "kernel_size": 2, "dilation_cycle": 3, "features": 5, "whitening": 6}

M = TypeVar("M", bound=nn.Module)


def randomized(module: M, std: float = 0.3) -> M:
    """Refills every parameter with normal noise: layers that start at zero would prove nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, std)
    return module


def refused(call: Callable[[], Any], words: str, error: type[Exception] = ValueError) -> None:
    """Holds that a call raises an error whose message matches `words`."""
    with pytest.raises(error, match=words):
        call()


def tiny_mel(**changes: Any) -> MelSpectrogram:
    """8 kHz, 8 bands, 16 samples a frame."""
    return MelSpectrogram(**MEL | changes)


PRESETS = ["16k", "22k", "24k", "44k", "48k", "tacotron2"]


def preset(name: str) -> MelSpectrogram:
    """A mel as `audio=<name>` configures it."""
    folder = files("wavflow.conf") / "audio"
    merged = OmegaConf.merge(*(OmegaConf.create((folder / f"{part}.yaml").read_text()) for part in ("22k", name)))
    return MelSpectrogram(**{key: value for key, value in merged.items() if key != "defaults"})


def tiny_teacher(std: float | None = 0.3, **changes: Any) -> Vocoder:
    """A teacher with random weights, or untrained for a `std` of None."""
    model = wavflow.models.teacher(**{"mel": MEL, "n_components": 3} | NET | changes)
    return model if std is None else randomized(model, std)


def tiny_student(std: float | None = 0.3, **changes: Any) -> Vocoder:
    """A student of two flows with random weights, or untrained for a `std` of None."""
    model = wavflow.models.student(**{"mel": MEL, "flows": 2} | NET | changes)
    return model if std is None else randomized(model, std)


PARALLEL_FLOWS = {
    "waveglow": {"flows": 4, "group": 4, "early_every": 2, "early_channels": 1},
    "flowavenet": {"scales": 3, "flows": 2, "factor_out": 2},
    "waveflow": {"height": 4, "flows": 2},
}


def tiny_flow(name: str, std: float | None = 0.2, **changes: Any) -> Vocoder:
    """A WaveGlow, FloWaveNet or WaveFlow with random weights, or untrained for a `std` of None."""
    options = {"mel": MEL} | NET | {"kernel_size": 3, "dilation_cycle": 2, "layers": 2} | PARALLEL_FLOWS[name]
    model = getattr(wavflow.models, name)(**options | changes)
    return model if std is None else randomized(model, std)


def random_log_mel(frames: int = 3, batch: int = 1, n_mels: int = 8) -> Tensor:
    """A mel (B, n_mels, F) of speech-like level."""
    return -6.0 + torch.randn(batch, n_mels, frames)


VOICE = {"sample_rate": 8000, "n_fft": 512, "hop_length": 64, "win_length": 512, "n_mels": 64, "f_max": 4000.0}  # tells pitch


def voiced_log_mel(mel: MelSpectrogram, frames: int, batch: int = 1) -> Tensor:
    """A mel (B, n_mels, F) of pulses that come slower and slower, another pitch for each item: with periodicity nearly 1."""
    t = torch.arange(frames * mel.hop_length, dtype=torch.float64) / mel.sample_rate
    turns = torch.stack([(140.0 + 30.0 * item - 20.0 * t) * t for item in range(batch)])
    pulses = (turns.floor().diff(dim=-1, prepend=turns[:, :1].floor()) > 0).double()
    return mel(0.5 * pulses + 1e-4 * torch.randn(pulses.shape)).to(torch.get_default_dtype())


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns d function(x) / dx as (T, C, T, C), for x (1, C, T)."""
    return torch.autograd.functional.jacobian(function, x).squeeze(3).squeeze(0).permute(1, 0, 3, 2)


def assert_log_det_is_exact(function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> None:
    """Holds `function(x) -> (value, log_det)` against its Jacobian: triangular in time, and the right slope at each step.

    A map that sees x[t] where it should not keeps a triangular matrix, but its diagonal is not what it states.
    """
    log_det = function(x)[1]
    matrix = jacobian(lambda x: function(x)[0], x)
    future = torch.ones(x.shape[-1], x.shape[-1]).triu(diagonal=1).bool()
    assert (matrix.transpose(1, 2)[future] == 0).all(), "time t must not depend on what comes after it"
    blocks = torch.stack([matrix[t, :, t, :] for t in range(x.shape[-1])])
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(blocks).logabsdet, rtol=0, atol=1e-10)


def first_change(before: Tensor, after: Tensor) -> int:
    """Returns the first index of the last dimension where two tensors differ."""
    differs = ((after - before).abs() > 1e-14).reshape(-1, before.shape[-1]).any(dim=0)
    assert differs.any(), "nothing changed"
    return int(differs.nonzero()[0])


# JavaScript: the elements of a page that a screen reader has no name for.
WITHOUT_NAME = """() => [...document.querySelectorAll("button, input, progress, select, audio, canvas, svg, img, [role]")]
    .filter((e) => !e.closest("template, [aria-hidden=true], [hidden]"))
    .filter((e) => !(e.getAttribute("aria-label") || e.alt || e.textContent.trim() || e.labels?.[0]?.textContent.trim()
        || e.getAttribute("role") === "alert" || document.getElementById(e.getAttribute("aria-labelledby"))))
    .map((e) => e.outerHTML.slice(0, 200))"""
