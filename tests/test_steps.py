"""The fast steps of a teacher against its slow ones, in every density, shape and precision."""

import re

import numpy as np
import pytest
import torch
from helpers import random_log_mel, randomized, refused, tiny_flow, tiny_student, tiny_teacher
from torch import Tensor

from wavflow import Vocoder
from wavflow.distributions import Gaussian, Logistic
from wavflow.flows import Autoregressive, Flow, MaskedAutoregressive
from wavflow.flows.elementwise import Affine, Inverted, MixtureCDF
from wavflow.kernels import compiling, vectors
from wavflow.nn.upsampler import Conditioning
from wavflow.nn.wavenet import WaveNet
from wavflow.synthesis import kernels, packing, steps
from wavflow.synthesis.steps import StepEngine

DENSITIES = ["gaussian", "logistic", "mixture_of_gaussians", "mixture_of_logistics"]


def case(teacher: Vocoder, batch: int = 1, frames: int = 4, length: int = 59) -> tuple[Tensor, Conditioning]:
    """Noise (B, 1, T) and conditioning of frames of 16 samples, the last one cut."""
    mel = random_log_mel(frames, batch)
    with torch.no_grad():
        return teacher.noise(mel).unsqueeze(1)[..., :length], teacher.conditioning(mel)


@pytest.mark.parametrize(("kernel_size", "batch"), [(2, 3), (3, 1)])
@pytest.mark.parametrize("density", DENSITIES)
def test_draws_what_the_slow_steps_draw(density: str, kernel_size: int, batch: int) -> None:
    # dilations from 1 to 128: blocks of 1 to 16 steps, and taps that never leave the zeros before the clip's 59 samples
    teacher = tiny_teacher(density=density, kernel_size=kernel_size, layers=8, dilation_cycle=8)
    z, cond = case(teacher, batch)
    z = 0.7 * z
    with torch.no_grad():
        expected = teacher.flow.sample(z, cond)
    u = StepEngine(teacher.flow).sample(z, cond)
    assert u.dtype == z.dtype
    torch.testing.assert_close(u, expected, rtol=0, atol=1e-5)
    assert torch.equal(u, StepEngine(teacher.flow).sample(z, cond)), "the same noise gives the same sample"


@pytest.mark.parametrize("length", [1, 33, 96])
@pytest.mark.parametrize(
    "changes", [{"channels": 20, "skip_channels": 40}, {"channels": 33, "skip_channels": 5}, {"upsampling": "smoothing"}]
)
def test_pieces_and_widths(changes: dict, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "PIECE", 20)  # 32 samples, two frames to a call: shorter than what the layers look back
    teacher = tiny_teacher(std=0.15, kernel_size=3, layers=7, dilation_cycle=6, **changes)
    z, cond = case(teacher, 5, 6, length)
    u = StepEngine(teacher.flow).sample(z, cond)
    with torch.no_grad():
        torch.testing.assert_close(u, teacher.flow.sample(z, cond), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cond_channels", [0, 4])
def test_features_at_sample_rate_or_none(cond_channels: int) -> None:
    net = randomized(WaveNet(1, 2, 4, 6, 3, 4, cond_channels=cond_channels))
    flow = Flow(Autoregressive(Affine(), net), Gaussian())
    z, cond = torch.randn(2, 1, 50), torch.randn(2, cond_channels, 50) if cond_channels else None
    with torch.no_grad():
        torch.testing.assert_close(StepEngine(flow).sample(z, cond), flow.sample(z, cond), rtol=0, atol=1e-5)


@pytest.mark.parametrize("density", ["gaussian", "mixture_of_logistics"])
def test_bfloat16_weights_hardly_change_the_density(density: str) -> None:
    teacher = tiny_teacher(std=0.15, density=density, kernel_size=3, layers=8, channels=24, dilation_cycle=8)
    z, cond = case(teacher, 4, 32, 512)
    full, half = StepEngine(teacher.flow).sample(z, cond), StepEngine(teacher.flow, torch.bfloat16).sample(z, cond)
    assert 1e-5 < (half - full).abs().max() < 0.1
    with torch.no_grad():  # scored at full precision, the sample is as likely as its noise makes it
        scored = teacher.flow.transform(half, cond)[0]
        gap = teacher.flow.base_log_prob(scored).mean() - teacher.flow.base_log_prob(z).mean()
    assert gap.abs() < 0.01  # nats per sample


def test_shared_words_round_as_bfloat16_does() -> None:
    weights = (torch.randn(3, 16, 64) * torch.logspace(-6, 3, 64)).float()
    weights[0, :4, :8] = 0
    words = packing.tiles(weights, packing.shared_words)
    exact = packing.tiles(weights).reshape(*words.shape[:2], 2, -1)
    even, odd = words.view(np.float32), (words << 16).view(np.float32)
    np.testing.assert_array_equal(odd, torch.from_numpy(exact[:, :, 1]).bfloat16().float().numpy())
    np.testing.assert_allclose(even, exact[:, :, 0], rtol=2.0**-8, atol=1e-38)
    # as near as rounding: an error of the masked half would double the mean
    rounded = torch.from_numpy(exact[:, :, 0]).bfloat16().float().numpy()
    assert np.abs(even - exact[:, :, 0]).mean() < 1.1 * np.abs(rounded - exact[:, :, 0]).mean()


@pytest.mark.parametrize("base", [Gaussian(), Logistic()])
@pytest.mark.parametrize("component", [Gaussian, Logistic])
@pytest.mark.parametrize("k", [1, 7])
def test_quantiles_of_mixtures_in_both_tails(k: int, component: type, base: Gaussian | Logistic) -> None:
    tau = MixtureCDF(component, base, k)
    params = (torch.randn(3, k, 200) * torch.tensor([2.0, 2.0, 6.0])[:, None, None]).reshape(1, 3 * k, 200).float()
    z = torch.linspace(-12.0, 12.0, 200).reshape(1, 1, 200)
    expected = tau.inverse(z, params.double())[0][0, 0]
    engine = StepEngine(Flow(Autoregressive(tau, WaveNet(1, tau.n_params, 1, 2)), base))
    noise, columns = engine._noise(z[:, 0])[0], params[0].T.contiguous().numpy()
    drawn = [
        kernels.quantile(column, k, tau.bound, component is Gaussian, one) for column, one in zip(columns, noise, strict=True)
    ]
    torch.testing.assert_close(torch.tensor(drawn), expected, rtol=1e-6, atol=1e-6)


def test_gate_is_exact_and_hides_no_nan() -> None:
    y = torch.linspace(-12.0, 12.0, 2 * 4096).float().reshape(2, -1)
    y[1] = y[1].roll(1000)
    y[0, 5], y[1, 9] = torch.nan, torch.nan
    out = np.empty(4096, np.float32)
    apply_gate(out, y.numpy())
    expected = torch.tanh(y[0].double()) * (1 + torch.tanh(y[1].double()))
    torch.testing.assert_close(torch.from_numpy(out).double(), expected, rtol=0, atol=5e-7, equal_nan=True)


@compiling.compiled
def apply_gate(out, y):
    for i in range(0, out.size, 16):
        vectors.store(out, i, vectors.gate(vectors.load(y, i), vectors.load(y, out.size + i)))


def _flow(**changes: object) -> Flow:
    parts = {"tau": Affine(), "net": WaveNet(1, 2, 2, 4), "kind": Autoregressive} | changes
    return Flow(parts["kind"](parts["tau"], parts["net"]), Gaussian())


@pytest.mark.parametrize(
    ("flow", "name"),
    [
        (lambda: tiny_student().flow, "Chain"),
        (lambda: tiny_flow("waveflow").flow, "Folded"),
        (lambda: _flow(net=WaveNet(1, 2, 2, 4, 3, causal=False)), "WaveNet"),
        (lambda: _flow(net=WaveNet(2, 4, 2, 4)), "WaveNet"),
        (lambda: _flow(tau=Inverted(Affine())), "Inverted"),
        (lambda: _flow(kind=lambda tau, net: MaskedAutoregressive(tau, net, 2)), "MaskedAutoregressive"),
    ],
)
def test_refuses_what_it_can_not_draw(flow: object, name: str) -> None:
    assert not StepEngine.supports(flow())
    refused(lambda: StepEngine(flow()), f"`flow` must be one causal WaveNet.*got .*{name}")


def test_errors_name_the_argument() -> None:
    teacher = tiny_teacher(density="mixture_of_logistics")
    engine, (z, cond) = StepEngine(teacher.flow), case(teacher, 2)
    with pytest.raises(ValueError, match=re.escape("`dtype` must be torch.float32 or torch.bfloat16, got torch.float16")):
        StepEngine(teacher.flow, torch.float16)
    refused(lambda: engine.sample(z[:, 0], cond), re.escape("`z` must be noise (B, 1, T), got (2, 59)"))
    refused(lambda: engine.sample(z), "`cond` is needed")
    refused(lambda: engine.sample(z[:1], cond), re.escape("`cond` must have frames (1, 5, F)"))
    with pytest.raises(ValueError, match="`cond` ends after 3 frames of 16 samples, `z` has 59"):
        engine.sample(z, Conditioning(cond.frames[..., :3], cond.kernel))
    with pytest.raises(ValueError, match="`z` must be noise of the flow's base density, got values up to 1000"):
        engine.sample(torch.full_like(z, -1000.0), cond)
