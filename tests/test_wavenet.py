"""WaveNet and upsampler: causal, as far-reaching as stated, the same step by step, conditioned at the right sample."""

from collections.abc import Callable

import pytest
import torch
from flow_checks import assert_one_graph
from helpers import first_change, jacobian, random_log_mel, randomized, refused, tiny_mel, tiny_student, tiny_teacher
from torch import Tensor

from wavflow import Vocoder
from wavflow.nn import Conditioning, Upsampler, WaveNet, interpolate
from wavflow.nn.upsampler import interpolation_weights

CONFIGURATIONS = [
    {"layers": 1, "kernel_size": 2, "dilation_cycle": 1},
    {"layers": 4, "kernel_size": 2, "dilation_cycle": 4},
    {"layers": 5, "kernel_size": 3, "dilation_cycle": 2, "skip_channels": 3},
    {"layers": 3, "kernel_size": 4, "dilation_cycle": 3, "in_channels": 2, "out_channels": 6},
]
every_configuration = pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda c: f"{c['layers']} layers")


def tiny_wavenet(**changes: int) -> WaveNet:
    return randomized(WaveNet(**{"channels": 6, "cond_channels": 3} | changes))


def random_conditioning(frames: int, batch: int = 1, hop_length: int = 4) -> Conditioning:
    return Conditioning(torch.randn(batch, 3, frames), torch.rand(3, hop_length))


def stepwise(net: WaveNet, x: Tensor, cond: Conditioning | Tensor | None) -> Tensor:
    step = net.stepper(cond, batch=x.shape[0])
    return torch.stack([step(x[..., t]) for t in range(x.shape[-1])], dim=-1)


@every_configuration
@pytest.mark.parametrize("kind", ["frames", "samples", "none"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_steps_equal_the_full_pass(configuration: dict, kind: str, dtype: torch.dtype, atol: float) -> None:
    net = tiny_wavenet(**configuration | ({"cond_channels": 0} if kind == "none" else {})).to(dtype)
    x = torch.randn(2, configuration.get("in_channels", 1), 48, dtype=dtype)
    cond = {
        "frames": Conditioning(torch.randn(2, 3, 12, dtype=dtype), torch.rand(3, 4)),
        "samples": torch.randn(2, 3, 48, dtype=dtype),
        "none": None,
    }[kind]
    params = net(x, cond)
    assert params.shape == (2, configuration.get("out_channels", 2), 48)
    assert params.dtype == dtype
    assert params.std() > 0.01
    torch.testing.assert_close(stepwise(net, x, cond), params, rtol=0, atol=atol)


def test_steppers_do_not_share_their_caches() -> None:
    net, x, cond = tiny_wavenet(), torch.randn(1, 1, 8), random_conditioning(2)
    wanted = net(x, cond)
    first, second = net.stepper(cond), net.stepper(cond)
    for t in range(8):
        torch.testing.assert_close(first(x[..., t]), wanted[..., t])
        second(torch.randn(1, 1))


@every_configuration
def test_receptive_field_is_as_stated(configuration: dict) -> None:
    net = tiny_wavenet(**configuration)
    x = torch.randn(8, configuration.get("in_channels", 1), 60)
    cond, after = random_conditioning(15, batch=8), x.clone()
    after[..., 10] += 1.0
    reached = ((net(after, cond) - net(x, cond)).abs() > 0).any(dim=1).any(dim=0).nonzero().flatten()
    assert 1 < net.receptive_field < 50
    assert reached.min() == 10
    assert reached.max() == 10 + net.receptive_field - 1


@pytest.mark.parametrize("base", ["gaussian", "logistic"])
def test_receptive_fields_of_flows_add_up(base: str) -> None:
    student, cond_mel = tiny_student(flows=2, base=base), random_log_mel(2)
    cond = student.conditioning(cond_mel)
    matrix = jacobian(lambda z: student.flow.transform.inverse(z, cond)[0], torch.randn(1, 1, 32)).reshape(32, 32)
    reached = matrix[-1].nonzero().flatten()
    assert 32 - reached.min() == student.receptive_field


def test_untrained_output_is_zero_and_can_learn() -> None:
    net = WaveNet(layers=3, channels=6, dilation_cycle=3)
    params = net(torch.randn(1, 1, 20))
    params.square().sum().add(params.sum()).backward()
    assert (params == 0).all()
    assert net.last.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "`layers` must be at least 1, got 0"),
        ({"channels": 0}, "`channels` must be at least 1, got 0"),
        ({"kernel_size": 1}, "`kernel_size` must be at least 2, got 1"),
        ({"dilation_cycle": 0}, "`dilation_cycle` must be at least 1, got 0"),
    ],
)
def test_impossible_stacks_are_refused(changes: dict, message: str) -> None:
    refused(lambda: WaveNet(**changes), message)


def test_conditioning_must_be_there_and_fit() -> None:
    net, x = tiny_wavenet(), torch.randn(1, 1, 12)
    refused(lambda: net(x), "`cond` is needed: this WaveNet was built with 3 conditioning channels")
    refused(lambda: net.stepper(), "`cond` is needed")
    refused(lambda: net(x, random_conditioning(2)), "`cond` must have 3 frames of 4 samples for 12 samples, got 2: cut or pad")
    refused(lambda: net(x, torch.randn(1, 3, 11)), "`cond` must have 12 frames of 1 samples for 12 samples, got 11")


@pytest.mark.parametrize("kind", ["frames", "samples"])
def test_steps_end_where_the_conditioning_ends(kind: str) -> None:
    net = tiny_wavenet()
    step = net.stepper(random_conditioning(2) if kind == "frames" else torch.randn(1, 3, 8))
    for _ in range(8):
        step(torch.zeros(1, 1))
    refused(lambda: step(torch.zeros(1, 1)), "`cond` ends after")


@pytest.mark.parametrize("center", [0.0, 2.0, 4.0])
def test_interpolation_is_linear_between_centers(center: float) -> None:
    frames = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1)
    position = (torch.arange(16) + 0.5 - center) / 4  # of a sample, in frames
    samples = interpolate(frames, interpolation_weights(4, center))
    torch.testing.assert_close(samples.flatten(), position.clamp(0.0, 3.0), rtol=0, atol=1e-12)


def test_interpolation_commutes_with_projection_and_takes_frames_one_by_one() -> None:
    cond, matrix = random_conditioning(5), torch.randn(3, 2)
    frames = cond.frames.transpose(1, 2)
    torch.testing.assert_close(cond.to_samples(frames, 20) @ matrix, cond.to_samples(frames @ matrix, 20))
    one_by_one = [cond.frame_to_samples(frames, frame) for frame in range(5)]
    torch.testing.assert_close(torch.cat(one_by_one, dim=1), cond.to_samples(frames, 20))


@pytest.mark.parametrize("center", [-1.0, 5.0])
def test_center_must_lie_in_the_frame(center: float) -> None:
    refused(lambda: interpolation_weights(4, center), "`center` must lie within the frame's 4 samples")


def test_upsampling_mode_must_be_known() -> None:
    refused(lambda: Upsampler(8, 4, 16, 8, "nearest"), "`mode` must be 'linear' or 'smoothing', got 'nearest'")


def test_smoothing_starts_as_linear_and_learns_its_kernel() -> None:
    kernels = [Upsampler(8, 4, 16, 8, mode).kernel for mode in ("linear", "smoothing")]
    torch.testing.assert_close(*(kernel.detach() for kernel in kernels))
    assert [isinstance(kernel, torch.nn.Parameter) for kernel in kernels] == [False, True]


def score(model: Vocoder, mel: Tensor, signal: Tensor) -> Tensor:
    return model.log_prob(signal, mel)


def draw(model: Vocoder, mel: Tensor, signal: Tensor) -> Tensor:
    return model.sample(mel, noise=signal, passes=0)


@pytest.mark.parametrize(
    ("build", "use"),
    [(tiny_teacher, score), (tiny_teacher, draw), (tiny_student, draw), (tiny_student, score)],
    ids=["teacher scores", "teacher steps", "student draws", "student scores"],
)
@pytest.mark.parametrize("upsampling", ["linear", "smoothing"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("whitening", [0, 6])
def test_a_frame_is_felt_from_its_first_sample_on(
    build: Callable[..., Vocoder], use: Callable[..., Tensor], upsampling: str, center: bool, whitening: int
) -> None:
    """No sample before the look-ahead may change, and the first one after it must."""
    model = build(mel=tiny_mel(center=center).spec, upsampling=upsampling, whitening=whitening)
    mel, signal = random_log_mel(6), torch.randn(1, 96)
    after = mel.clone()
    after[..., 3] += 1.0
    with torch.no_grad():
        first = first_change(use(model, mel, signal), use(model, after, signal))
    assert first == 3 * 16 - (32 if center or upsampling == "smoothing" else 24)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("what", ["wavenet", "teacher log_prob", "student draw"])
def test_one_graph_compiles_and_equals_eager(what: str) -> None:
    mel, signal = random_log_mel(2), torch.randn(1, 32)
    if what == "wavenet":
        function, arguments = tiny_wavenet(layers=3, dilation_cycle=2), (signal.unsqueeze(1), random_conditioning(8))
    elif what == "teacher log_prob":
        function, arguments = tiny_teacher(layers=2, whitening=2).log_prob, (signal, mel)
    else:
        student = tiny_student(layers=2, whitening=2)
        function, arguments = lambda mel, noise: student.draw(mel, noise)[:4], (mel, signal)
    assert_one_graph(function, *arguments)
