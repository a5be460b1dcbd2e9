"""The layers that Numba compiles for training against the plain ones: values, all gradients, and where they are used."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import random_log_mel, randomized, refused, tiny_student, tiny_teacher
from torch import Tensor, nn

from wavflow.kernels import multiplies_bfloat16
from wavflow.losses import DensityDistillation
from wavflow.nn import Conditioning, WaveNet, gated_layers

CASES = [  # samples of a frame, frames
    ({"kernel_size": 3}, 5, 7),
    ({"kernel_size": 2, "layers": 5, "dilation_cycle": 5, "channels": 32}, 3, 4),  # looks back beyond the clip
    ({"kernel_size": 3, "skip_channels": 48, "dilation_cycle": 2}, 16, 2),
    ({"kernel_size": 3, "skip_channels": 16, "channels": 48, "causal": False}, 1, 33),
    ({"kernel_size": 4, "layers": 1}, 8, 1),  # a layer that is the first and the last, a frame without neighbors
]
every_case = pytest.mark.parametrize(("changes", "hop_length", "frames"), CASES)


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # on any machine


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Is lengthened whenever a WaveNet takes the compiled layers."""
    made, original = [], gated_layers.gated_layers

    def counted(*args: object) -> Tensor:
        made.append("compiled")
        return original(*args)

    monkeypatch.setattr("wavflow.nn.wavenet.gated_layers", counted)
    return made


def net_of(changes: dict) -> WaveNet:
    net = WaveNet(**{"layers": 4, "channels": 16, "dilation_cycle": 3, "cond_channels": 3} | changes)
    return randomized(net, std=0.8 / net.channels**0.5)


def case(net: WaveNet, hop_length: int, frames: int, batch: int = 2) -> tuple[Tensor, Conditioning]:
    x = torch.randn(batch, 1, hop_length * frames).requires_grad_()
    return x, Conditioning(torch.randn(batch, 3, frames).requires_grad_(), torch.rand(3, hop_length))


def float_case(changes: dict | None = None) -> tuple[WaveNet, Tensor, Conditioning]:
    """A net in float32, and a signal of six frames of four samples without a gradient."""
    net = net_of(changes or {}).float()
    x, cond = case(net, 4, 6)
    return net, x.detach().float(), Conditioning(cond.frames.detach().float(), cond.kernel.float())


def results(net: WaveNet, x: Tensor, cond: Conditioning, dtype: torch.dtype, compiled: bool) -> list[Tensor]:
    """Returns the parameters and all gradients, the net in float64 or float32, or its layers in bfloat16."""
    net.compiled_layers = compiled
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    net.to(exact)
    x, features = (value.detach().to(exact).requires_grad_() for value in (x, cond.frames))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        params = net(x, Conditioning(features, cond.kernel.to(exact)))
    return [params, *torch.autograd.grad(params.sin().sum(), [x, features, *net.parameters()])]


def error(found: Tensor, right: Tensor) -> float:
    return float(((found - right).norm() / right.norm()).detach())


@every_case
def test_values_and_all_gradients_are_those_of_the_plain_layers(
    calls: list[str], changes: dict, hop_length: int, frames: int
) -> None:
    net = net_of(changes)
    x, cond = case(net, hop_length, frames)
    expected = results(net, x, cond, torch.float64, compiled=True)
    assert not calls, "float64 is computed as it is written"
    found = results(net, x, cond, torch.float32, compiled=True)
    assert len(calls) == 1
    assert expected[0].std() > 0.01
    for value, right in zip(found, expected, strict=True):
        assert right.norm() > 1e-3
        assert error(value, right) < 1e-5


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16")
@every_case
def test_in_bfloat16_they_come_as_near_as_the_plain_layers(
    calls: list[str], changes: dict, hop_length: int, frames: int
) -> None:
    net = net_of(changes)
    x, cond = case(net, hop_length, frames)
    expected = results(net, x, cond, torch.float64, compiled=False)
    plain, ours = (results(net, x, cond, torch.bfloat16, compiled) for compiled in (False, True))
    assert len(calls) == 1
    errors = [[error(value, right) for value, right in zip(values, expected, strict=True)] for values in (ours, plain)]
    assert 1e-4 < sum(errors[0]) < 1.5 * sum(errors[1])
    assert all(a < 2.0 * b + 0.02 for a, b in zip(*errors, strict=True))


def test_the_gradient_is_the_slope() -> None:
    net = net_of({}).float()
    x, frames, kernel = torch.randn(2, 20, 16).float(), torch.randn(4, 2, 5, 32).float(), torch.rand(3, 4).float()
    x, frames = x.requires_grad_(), frames.requires_grad_()
    tensors = [x, frames, *(p for layer in (*net.gates, *net.outputs) for p in layer.parameters())]
    start = [tensor.detach().clone() for tensor in tensors]
    direction = [torch.randn_like(tensor) for tensor in tensors]

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            for tensor, at, along in zip(tensors, start, direction, strict=True):
                tensor.copy_(at + step * along)
        return gated_layers.gated_layers(x, frames, kernel, net.gates, net.outputs, net.dilations).sin().sum()

    slope = (loss(1e-3) - loss(-1e-3)).item() / 2e-3
    gradient = torch.autograd.grad(loss(0.0), tensors)
    along = sum((g * d).sum().item() for g, d in zip(gradient, direction, strict=True))
    assert abs(along) > 1.0
    assert along == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("per_frame", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_a_batch_of_several_lengths(calls: list[str], causal: bool, per_frame: bool) -> None:
    net = net_of({"causal": causal})
    x, cond = case(net, 4, 6, batch=3)
    frames, kernel = (cond.frames, cond.kernel) if per_frame else (cond.frames[..., :1], None)
    mask = (torch.arange(24) < torch.tensor([24, 15, 1])[:, None]).double()
    found: list[list[Tensor]] = []
    for dtype in (torch.float64, torch.float32):
        net.to(dtype)
        inputs = [value.detach().to(dtype).requires_grad_() for value in (x, frames)]
        cond = Conditioning(inputs[1], None if kernel is None else kernel.to(dtype), mask=mask.to(dtype))
        params = net(inputs[0], cond) * mask.to(dtype).unsqueeze(1)
        found.append([params, *torch.autograd.grad(params.sin().sum(), [*inputs, *net.parameters()])])
    assert len(calls) == 1
    for value, right in zip(found[1], found[0], strict=True):
        assert right.norm() > 1e-3
        assert error(value, right) < 1e-5


def test_a_frozen_net_passes_the_gradient_on(calls: list[str]) -> None:
    net, x, cond = float_case({"skip_channels": 32})
    net.requires_grad_(False)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, cond).sin().sum(), x)
    net.compiled_layers = False
    (right,) = torch.autograd.grad(net(x, cond).sin().sum(), x)
    assert len(calls) == 1
    assert error(gradient, right) < 1e-5


def test_steps_use_memory_again_but_never_another_nets() -> None:
    net, x, cond = float_case()
    nets = [net, net_of({"channels": 32}).float()]

    def gradients(compiled: bool, nets: list[WaveNet]) -> list[Tensor]:
        for net in nets:
            net.compiled_layers = compiled
        losses = [net(x, cond).sin().sum() for net in nets]  # all forwards before the first backward
        return [g for net, loss in zip(nets, losses, strict=True) for g in torch.autograd.grad(loss, list(net.parameters()))]

    right = gradients(False, nets)
    gated_layers.spare.buffers.clear()
    for _ in range(2):
        for gradient, expected in zip(gradients(True, nets), right, strict=True):
            assert error(gradient, expected) < 1e-5
        addresses = sorted(buffer.data_ptr() for buffer in gated_layers.spare.buffers)
        assert len(addresses) == 2
    gradients(True, nets[::-1])
    assert sorted(buffer.data_ptr() for buffer in gated_layers.spare.buffers) == addresses
    gradients(True, [*nets, net_of({"channels": 64}).float()])
    assert len(gated_layers.spare.buffers) == 3


def test_threads_share_the_memory() -> None:
    spare, interval = gated_layers.Spare(), sys.getswitchinterval()

    def work(seed: int) -> None:
        for size in np.random.default_rng(seed).choice([64, 128, 256, 512], 1000).tolist():
            memory = spare.take(size)
            assert len(memory) >= size
            memory.fill_(seed)
            assert (memory == seed).all(), "no other thread has it"
            spare.give(memory)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert [*map(len, spare.buffers)] == sorted(map(len, spare.buffers))
    assert len(spare.buffers) <= 8


@every_case
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_they_keep_nothing(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, mode: Callable, changes: dict, hop_length: int, frames: int
) -> None:
    spare = gated_layers.Spare()
    monkeypatch.setattr(gated_layers, "spare", spare)
    net = net_of(changes).float()
    x, cond = case(net, hop_length, frames)
    x, cond = x.detach().float(), Conditioning(cond.frames.detach().float(), nn.Parameter(cond.kernel.float()))
    with mode():
        params = net(x, cond)
        net.compiled_layers = False
        assert error(params, net(x, cond)) < 1e-5
    assert calls == ["compiled"]
    (memory,) = spare.buffers
    assert len(memory) == 3 * x.numel() * net.channels * 4, "of one layer: its inputs, and both tanhs"
    cond.kernel.requires_grad_(False)  # the memory serves a training step all the same
    net.compiled_layers = True
    for parameters in (net.parameters(), []):
        net.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        assert error(net(x, cond), params) < 1e-5


def test_a_second_backward_is_refused() -> None:
    net, x, cond = float_case()
    loss = net(x, cond).sum()
    loss.backward(retain_graph=True)
    refused(lambda: loss.backward(), "for a second, set the WaveNet's `compiled_layers` to False", RuntimeError)


def without_jit(net: WaveNet, x: Tensor, cond: Conditioning) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        net(x, cond)


PLAIN: list[Callable[[WaveNet, Tensor, Conditioning], object]] = [
    without_jit,
    lambda net, x, cond: net(x, cond.frames.repeat_interleave(4, dim=-1)),  # features at the sample rate
    lambda net, x, cond: net(x, Conditioning(cond.frames, cond.kernel.requires_grad_())),
    lambda net, x, cond: net.bfloat16()(x.bfloat16(), Conditioning(cond.frames.bfloat16(), cond.kernel)),
    lambda net, x, cond: torch.compile(net, backend="eager", fullgraph=True)(x, cond),
    lambda net, x, cond: net_of({"channels": 20}).float()(x, cond),
    lambda net, x, cond: net_of({"skip_channels": 20}).float()(x, cond),
    lambda net, x, cond: net_of({"cond_channels": 0}).float()(x),
]


@pytest.mark.parametrize("run", PLAIN)
def test_where_the_plain_layers_are_taken(calls: list[str], run: Callable) -> None:
    net, x, cond = float_case()
    run(net, x, cond)
    assert not calls
    float_net, x, cond = float_case()
    float_net(x, cond)
    assert len(calls) == 1


def test_many_threads_are_left_to_torch(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, cond = float_case()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    net(x, cond)
    assert not calls
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    net(x, cond)
    assert len(calls) == 1


def test_features_must_be_as_long_as_the_signal() -> None:
    net, x, cond = float_case()
    refused(lambda: net(x[..., :20], cond), "`cond` must have 5 frames of 4 samples for 20 samples, got 6")


def test_a_student_is_distilled_alike(calls: list[str]) -> None:
    wide = {"channels": 16, "kernel_size": 3, "whitening": 2, "pitch": False}
    student, teacher = tiny_student(std=0.15, **wide).float(), tiny_teacher(std=0.15, **wide, density="gaussian").float()
    teacher.requires_grad_(False)
    mel = random_log_mel(9, batch=2).float()
    noise, found = student.noise(mel), []
    for compiled in (False, True):
        for module in nn.ModuleList([student, teacher]).modules():
            if isinstance(module, WaveNet):
                module.compiled_layers = compiled
        student.zero_grad()
        draw = student.draw(mel, noise)
        loss = DensityDistillation()(draw, student.flow, teacher.flow, teacher.conditioning(mel)).kl.mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in student.parameters() if p.grad is not None)])
    assert len(calls) == 3, "two flows and the teacher"
    assert len(found[0]) > 20
    for value, right in zip(*found[::-1], strict=True):
        assert error(value, right) < 1e-4
