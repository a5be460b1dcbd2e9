"""The spectral losses: their value against librosa, their gradient on silence, their precision under autocast."""

import librosa
import numpy as np
import pytest
import torch
from helpers import refused
from torch import Tensor

from wavflow.losses.spectral import MagnitudeLoss, MultiResolutionSTFTLoss, PowerLoss

LOSSES = [MultiResolutionSTFTLoss, MagnitudeLoss, PowerLoss]


def signals(length: int = 3000, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Two unlike signals: a noisy tone, and noise at another level."""
    tone = 0.3 * torch.sin(torch.arange(length) * torch.linspace(0.1, 0.4, batch)[:, None])
    return tone + 0.01 * torch.randn(batch, length), 0.1 * torch.randn(batch, length)


def magnitude(audio: np.ndarray, n_fft: int, hop_length: int, win_length: int) -> np.ndarray:
    spectrum = librosa.stft(audio, n_fft=n_fft, hop_length=hop_length, win_length=win_length, pad_mode="reflect")
    return np.sqrt(np.abs(spectrum) ** 2 + 1e-7)


def test_multi_resolution_terms_agree_with_librosa() -> None:
    estimate, target = signals()
    convergence, distance = [], []
    for sizes in [(1024, 120, 600), (2048, 240, 1200), (512, 50, 240)]:
        found, wanted = magnitude(estimate.numpy(), *sizes), magnitude(target.numpy(), *sizes)
        convergence.append(np.sqrt(((found - wanted) ** 2).sum() / (wanted**2).sum()))
        distance.append(np.abs(np.log(found / wanted)).mean())
    loss = MultiResolutionSTFTLoss()
    terms = loss.terms(estimate, target)
    np.testing.assert_allclose([term.item() for term in terms], [np.mean(convergence), np.mean(distance)], rtol=1e-10)
    torch.testing.assert_close(loss(estimate, target), sum(terms), rtol=1e-14, atol=0)


def test_magnitude_loss_agrees_with_librosa() -> None:
    estimate, target = signals()
    error = (magnitude(estimate.numpy(), 512, 128, 400) - magnitude(target.numpy(), 512, 128, 400)) ** 2
    below = np.arange(257) * 16000 / 512 < 3000
    loss = MagnitudeLoss(n_fft=512, hop_length=128, win_length=400, sample_rate=16000)
    np.testing.assert_allclose(loss(estimate, target).item(), error.mean() + error[:, below].mean(), rtol=1e-10)


def test_gain_moves_the_terms_as_it_must() -> None:
    _, target = signals()
    convergence, distance = MultiResolutionSTFTLoss(eps=1e-12).terms(2 * target, target)
    np.testing.assert_allclose([convergence.item(), distance.item()], [1.0, np.log(2)], rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_identical_signals_give_exactly_zero(loss: type) -> None:
    estimate = signals()[0].requires_grad_()
    value = loss()(estimate, estimate.detach().clone())
    value.backward()
    assert value.item() == 0
    assert (estimate.grad == 0).all()


@pytest.mark.parametrize("silent", ["estimate", "target", "both"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_on_silence(loss: type, silent: str, dtype: torch.dtype) -> None:
    estimate, target = (
        torch.zeros_like(signal) if silent in (name, "both") else signal
        for name, signal in zip(["estimate", "target"], signals(), strict=True)
    )
    estimate, target = estimate.to(dtype).requires_grad_(), target.to(dtype).requires_grad_()
    value = loss()(estimate, target)
    value.backward()
    assert value.isfinite()
    assert estimate.grad.isfinite().all()
    assert target.grad.isfinite().all()
    assert (silent == "both") == (value.item() == 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_that_of_finite_differences(loss: type) -> None:
    estimate, target = signals(length=600, batch=1)
    direction = torch.randn_like(estimate)
    module, step = loss(), 1e-7
    estimate.requires_grad_()
    (slope,) = torch.autograd.grad(module(estimate, target), estimate)
    ahead, behind = module(estimate + step * direction, target), module(estimate - step * direction, target)
    torch.testing.assert_close((slope * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_does_not_lower_the_precision(loss: type) -> None:
    module = loss().float()
    estimate, target = (signal.to(torch.bfloat16) for signal in signals())
    expected = module(estimate.float(), target.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = module(estimate, target)
    assert value.dtype == torch.float32
    assert value.item() == expected.item()
    assert module(estimate.double(), target.double()).dtype == torch.float64


@pytest.mark.parametrize("length", [1, 2, 239, 512, 1025])
@pytest.mark.parametrize("loss", [MultiResolutionSTFTLoss, MagnitudeLoss])
def test_clips_shorter_than_a_window_work(loss: type, length: int) -> None:
    estimate, target = signals(length)
    padded = [torch.nn.functional.pad(signal, (0, 2048 - length)) for signal in (estimate, target)]
    module = loss() if loss is MagnitudeLoss else loss((2048,), (240,), (1200,))
    assert module(estimate, target) > 0
    torch.testing.assert_close(module(estimate, target), module(*padded))


def test_windows_are_no_state() -> None:
    assert not MultiResolutionSTFTLoss().state_dict()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("estimate", "target", "message"),
    [
        (torch.zeros(1, 100), torch.zeros(1, 99), r"one shape \(B, T\).*\(1, 100\) and \(1, 99\)"),
        (torch.zeros(1, 1, 100), torch.zeros(1, 1, 100), "drop the channel axis"),
        (torch.zeros(1, 0), torch.zeros(1, 0), "T >= 1"),
        (torch.zeros(1, 9, dtype=torch.int16), torch.zeros(1, 9, dtype=torch.int16), "divide 16-bit integers by 32768"),
    ],
)
def test_unfit_signals_are_refused(loss: type, estimate: Tensor, target: Tensor, message: str) -> None:
    refused(lambda: loss()(estimate, target), message)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiResolutionSTFTLoss((512,), (50, 60), (240,)), "one entry per resolution, got 1, 2 and 1"),
        (lambda: MultiResolutionSTFTLoss((), (), ()), "one entry per resolution"),
        (lambda: MultiResolutionSTFTLoss((512,), (50,), (600,)), r"`win_length` must be in 1 .. n_fft = 512, got 600"),
        (lambda: MultiResolutionSTFTLoss((512,), (500,), (240,)), "`hop_length` must be in"),
        (lambda: MultiResolutionSTFTLoss(eps=0.0), "`eps` must be positive"),
        (lambda: MagnitudeLoss(sample_rate=4000), "`low_band_hz` must be above 0 and at most .* 2000 Hz"),
    ],
)
def test_unfit_settings_are_refused(build: object, message: str) -> None:
    refused(lambda: build(), message)


def test_power_loss_against_numpy_and_what_it_is_for() -> None:
    estimate, target = 0.1 * torch.randn(2, 4096), 0.1 * torch.randn(2, 4096)
    loss = PowerLoss(n_fft=256, hop_length=64, win_length=256)

    def power(audio: np.ndarray) -> np.ndarray:
        spectrum = librosa.stft(audio, n_fft=256, hop_length=64, window="hann", pad_mode="reflect")
        return (np.abs(spectrum) ** 2 + 1e-7).mean(axis=-1)

    expected = np.mean(
        [(np.log(power(e)) - np.log(power(t))) ** 2 for e, t in zip(estimate.numpy(), target.numpy(), strict=True)]
    )
    assert loss(estimate, target).item() == pytest.approx(expected, rel=1e-9)
    # A gain g costs (2 ln g)^2 and nothing else; unmatched noise is not drawn to quiet, as a frame-wise distance draws it.
    assert PowerLoss(eps=1e-12)(1.5 * target, target).item() == pytest.approx((2 * np.log(1.5)) ** 2, rel=1e-4)
    gains = torch.linspace(0.6, 1.4, 41)
    noise, other = torch.randn(8, 16384), torch.randn(8, 16384)
    best = gains[torch.stack([loss(gain * noise, other) for gain in gains]).argmin()]
    framewise = gains[torch.stack([MagnitudeLoss()(gain * noise, other) for gain in gains]).argmin()]
    assert abs(best - 1.0) < 0.05
    assert framewise < 0.9
