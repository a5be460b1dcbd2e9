"""The fused layer against WaveNet's own: on a GPU where there is one, else through Triton's interpreter."""

import os
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import randomised, tiny_flow, tiny_student
from torch import Tensor

from wavflow.nn import Conditioning, WaveNet
from wavflow.nn.wavenet import delay

pytest.importorskip("triton", reason="Triton is not there for every platform")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def fused() -> ModuleType:
    """The module, its kernels made for the interpreter where there is no GPU: Triton asks as it decorates them."""
    before = os.environ.get("TRITON_INTERPRET")
    if DEVICE == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    from wavflow.synthesis import fused_layer

    os.environ.pop("TRITON_INTERPRET", None)
    if before is not None:
        os.environ["TRITON_INTERPRET"] = before
    return fused_layer


CASES = [  # two layers, so that one has a residual and the other none; samples of a frame, frames
    ({"channels": 16, "kernel_size": 3}, 4, 5),
    ({"channels": 6, "kernel_size": 2, "dilation_cycle": 2}, 7, 11),  # an odd length, more than a block
    ({"channels": 20, "kernel_size": 3, "skip_channels": 9, "dilation_cycle": 2}, 1, 67),
    ({"channels": 33, "kernel_size": 3, "skip_channels": 40, "causal": False}, 3, 23),
    ({"channels": 6, "kernel_size": 4, "layers": 5, "dilation_cycle": 5}, 3, 3),  # looks back beyond the clip
    ({"channels": 6, "kernel_size": 3, "cond_channels": 0}, 1, 9),
    ({"channels": 128, "kernel_size": 2, "layers": 1}, 2, 17),  # as wide as it goes
]
every_case = pytest.mark.parametrize(
    ("changes", "hop_length", "frames"), CASES, ids=lambda x: str(x) if isinstance(x, int) else ""
)


def net_of(changes: dict) -> WaveNet:
    net = WaveNet(**{"layers": 2, "dilation_cycle": 1, "cond_channels": 3} | changes)
    return randomised(net, std=0.8 / net.channels**0.5).float().to(DEVICE)


def run(net: WaveNet, x: Tensor, cond: Conditioning | None, layer: Any = None) -> Tensor:
    """`WaveNet.forward`, with the layer by `layer` if it is given."""
    given, projected = net._project(cond)
    h, skip, ahead = net.input(x.transpose(1, 2)), 0.0, 0 if net.causal else net.kernel_size // 2
    for i, dilation in enumerate(net.dilations):
        if layer is not None:
            h, skip = layer(net, i, h, skip, given, projected)
            continue
        taps = torch.cat([delay(h, (k - ahead) * dilation) for k in reversed(range(net.kernel_size))], dim=-1)
        h, skip = net._layer(i, h, taps, None if projected is None else given.to_samples(projected[i], x.shape[-1]), skip)
    return net._params(skip).transpose(1, 2)


def conditioning(net: WaveNet, hop_length: int, frames: int) -> Conditioning | None:
    if not net.cond_channels:
        return None
    kernel = torch.rand(3, hop_length, dtype=torch.float32, device=DEVICE).requires_grad_() if hop_length > 1 else None
    features = torch.randn(2, net.cond_channels, frames, dtype=torch.float32, device=DEVICE)
    return Conditioning(features.requires_grad_(), kernel)


@every_case
def test_forward_and_all_gradients_are_those_of_the_layer(
    fused: ModuleType, changes: dict, hop_length: int, frames: int
) -> None:
    net = net_of(changes)
    x = torch.randn(2, 1, hop_length * frames, dtype=torch.float32, device=DEVICE).requires_grad_()
    cond = conditioning(net, hop_length, frames)
    inputs = [x, *net.parameters(), *([] if cond is None else [v for v in (cond.frames, cond.kernel) if v is not None])]
    expected = run(net, x, cond)
    torch.testing.assert_close(expected, net(x, cond))
    wanted = torch.autograd.grad(expected.sin().sum(), inputs)

    params = run(net, x, cond, fused.wavenet_layer)
    grads = torch.autograd.grad(params.sin().sum(), inputs)

    assert expected.std() > 0.01
    torch.testing.assert_close(params, expected, rtol=1e-4, atol=1e-4)
    assert all(gradient.abs().max() > 1e-4 for gradient in wanted)
    for gradient, right in zip(grads, wanted, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-4 * max(1.0, float(right.abs().max())))


def test_a_frozen_layer_passes_gradients_on(fused: ModuleType) -> None:
    net = net_of({"channels": 16}).requires_grad_(False)
    x, cond = (
        torch.randn(1, 1, 40, device=DEVICE).float().requires_grad_(),
        Conditioning(torch.randn(1, 3, 40).float().to(DEVICE)),
    )

    (wanted,) = torch.autograd.grad(net(x, cond).sum(), x)
    params = run(net, x, cond, fused.wavenet_layer)
    (gradient,) = torch.autograd.grad(params.sum(), x)

    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)


def test_half_the_bits_come_as_near_as_with_the_layer_itself(fused: ModuleType) -> None:
    reduced = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter multiplies no bfloat16
    net, x = net_of({"channels": 16}), torch.randn(2, 1, 70, device=DEVICE).float()
    cond = Conditioning(torch.randn(2, 3, 10, device=DEVICE).float(), torch.rand(3, 7, device=DEVICE).float())
    errors = []
    for layer in (None, fused.wavenet_layer):
        net.zero_grad()
        with torch.autocast(DEVICE, reduced):
            params = run(net, x, cond, layer)
        params.square().sum().backward()
        gradient = net.gates[0].weight.grad.clone()
        net.zero_grad()
        exact = run(net, x, cond)
        exact.square().sum().backward()
        right = net.gates[0].weight.grad
        errors.append([float(((a - b).norm() / b.norm()).detach()) for a, b in ((params, exact), (gradient, right))])
    (eager, eager_gradient), (ours, our_gradient) = errors
    assert 1e-5 < ours < 1.5 * eager
    assert 1e-5 < our_gradient < 1.5 * eager_gradient


@pytest.mark.parametrize(
    ("h", "message"),
    [
        (torch.zeros(1, 4, 6, dtype=torch.float64), "`h` must be float32, bfloat16 or float16, got torch.float64"),
        (torch.zeros(1, 4, 300, dtype=torch.float32), "`h` and `skip` must have at most 128 channels, got 300 and 8"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused(fused: ModuleType, h: Tensor, message: str) -> None:
    channels = h.shape[-1]
    weights = torch.zeros(2 * channels, 2 * channels), torch.zeros(2 * channels), torch.zeros(8, channels), torch.zeros(8)
    with pytest.raises(ValueError, match=message):
        fused.gated_layer(h, torch.zeros(1, 4, 8), *weights)


def test_features_must_be_as_long_as_the_signal(fused: ModuleType) -> None:
    net = net_of({})
    with pytest.raises(ValueError, match="`cond` must have 6 frames of 2 samples for 12 samples, got 5"):
        run(net, torch.zeros(1, 1, 12, device=DEVICE).float(), conditioning(net, 2, 5), fused.wavenet_layer)


def test_it_is_switched_on_and_off(fused: ModuleType) -> None:
    def layers(model: torch.nn.Module) -> list:
        return [getattr(net, "fused", None) for net in model.modules() if isinstance(net, WaveNet)]

    student = tiny_student()
    assert layers(fused.use_fused(student)) == 2 * [fused.wavenet_layer]
    assert layers(fused.use_fused(student, False)) == 2 * [None]
    assert set(layers(fused.use_fused(tiny_flow("waveflow")))) == {None}, "its layers take other taps"


@pytest.mark.skipif(DEVICE == "cpu", reason="WaveNet takes the fused layer on a GPU alone")
def test_a_student_trains_alike(fused: ModuleType) -> None:
    student = tiny_student(std=0.15).float().cuda()
    mel = (-4.0 + torch.randn(2, 8, 9)).float().cuda()
    noise, found = student.noise(mel), []
    for switched_on in (False, True):
        student.zero_grad()
        fused.use_fused(student, switched_on)
        draw = student.draw(mel, noise)
        draw.u.square().mean().backward()
        found.append(
            [draw.u.detach(), draw.log_prob.detach(), *(p.grad.clone() for p in student.parameters() if p.grad is not None)]
        )
    for ours, eager in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-4)
