"""The student that draws a group of samples at a step: exact for each sample, the same roles, and groups of 1 as ever."""

import json
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from ar_process import ENTROPY_RATE, ar_teacher, draw, impulse_response, measured_impulse_response
from flow_checks import assert_one_graph
from helpers import MEL, assert_log_det_is_exact, jacobian, random_log_mel, randomized, refused, tiny_student, tiny_teacher
from test_config import SMALL, build, composed, net_config, plain
from torch import Tensor

from wavflow import Vocoder
from wavflow.distributions import Gaussian, Logistic
from wavflow.flows import Affine, Autoregressive, Chain, Flow, Inverse, Inverted, TriangularAffine
from wavflow.losses import DensityDistillation
from wavflow.losses.distillation import FORMS
from wavflow.nn import Conditioning, WaveNet
from wavflow.training import DistillationTask

GROUPS = [2, 3, 4]
every_group = pytest.mark.parametrize("group", GROUPS)


def grouped_student(group: int, std: float | None = 0.3, **changes: object) -> Vocoder:
    """A tiny student with 12 samples to a frame, which all groups divide."""
    return tiny_student(std, mel=MEL | {"hop_length": 12}, group=group, **changes)


def grouped(group: int, tau: Callable = TriangularAffine, cond_channels: int = 0, **options: int) -> Autoregressive:
    """One map with random weights, z = L x + loc in its forward direction."""
    net = {"layers": 2, "channels": 6, "kernel_size": 2, "dilation_cycle": 2, "cond_channels": cond_channels} | options
    turned = Inverted(tau(group))
    return randomized(Autoregressive(turned, WaveNet(group, turned.n_params, **net), group))


def lower_triangle(tau: TriangularAffine, params: Tensor) -> tuple[Tensor, Tensor]:
    """L (C, C) and loc (C,) of the parameters (P,) of one time step, by another hand."""
    n = tau.channels
    loc, raw, below = params[:n], params[n : 2 * n], params[2 * n :]
    matrix = torch.diag((9.0 * torch.tanh(raw / 9.0)).exp())
    rows, columns = torch.tril_indices(n, n, -1)
    matrix[rows, columns] = below
    return matrix, loc


# --- the map within a group


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_triangular_affine_is_its_matrix(channels: int) -> None:
    tau = TriangularAffine(channels)
    params, z = torch.randn(2, tau.n_params, 7), torch.randn(2, channels, 7)

    x, log_slope = tau.inverse(z, params)
    back, log_slope_back = tau.forward(x, params)

    for item in range(2):
        for t in range(7):
            matrix, loc = lower_triangle(tau, params[item, :, t])
            torch.testing.assert_close(x[item, :, t], matrix @ z[item, :, t] + loc, rtol=0, atol=1e-12)
            torch.testing.assert_close(log_slope[item, :, t], matrix.diagonal().log(), rtol=0, atol=1e-12)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_slope_back, -log_slope, rtol=0, atol=0)


def test_triangular_affine_starts_as_the_identity_and_is_bounded_below_the_diagonal_by_nothing() -> None:
    tau, z = TriangularAffine(3), torch.randn(1, 3, 4)
    x, log_slope = tau.inverse(z, torch.zeros(1, tau.n_params, 4))
    assert torch.equal(x, z)
    assert (log_slope == 0).all()

    _, log_slope = tau.inverse(z, torch.full((1, tau.n_params, 4), -1e3))
    assert (log_slope == -9.0).all()
    refused(lambda: TriangularAffine(0), "`channels` must be at least 1, got 0")


# --- exact for each sample


@every_group
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_det_of_each_sample_is_that_of_the_autograd_jacobian(group: int, direction: str) -> None:
    student, u = grouped_student(group), torch.randn(1, 1, 24)
    cond, function = student.conditioning(random_log_mel(2)), getattr(student.flow.transform, direction)

    assert_log_det_is_exact(lambda u: function(u, cond), u)

    matrix = jacobian(lambda u: function(u, cond)[0], u).reshape(24, 24)
    torch.testing.assert_close(matrix.diagonal().log(), function(u, cond)[1][0], rtol=0, atol=1e-10)
    own = torch.block_diag(*[torch.ones(group, group)] * (24 // group)).tril(-1).bool()
    assert matrix[own].abs().min() > 1e-6, "within a group each sample sees all those before it"
    assert function(u, cond)[1].unflatten(1, (-1, group)).std(dim=2).min() > 1e-3, "log-slopes differ within a group"


class Reversed(TriangularAffine):
    """Takes the samples of a group in the wrong order."""

    def inverse(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = super().inverse(z.flip(1), params)
        return x.flip(1), log_slope.flip(1)


class Spread(TriangularAffine):
    """States the log-slope of the group, evenly spread."""

    def inverse(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = super().inverse(z, params)
        return x, log_slope.mean(dim=1, keepdim=True).expand_as(log_slope)


@pytest.mark.parametrize("faulty", [Reversed, Spread])
def test_the_jacobian_test_notices(faulty: type[TriangularAffine]) -> None:
    transform = grouped(3, faulty)
    with pytest.raises(AssertionError):
        assert_log_det_is_exact(transform, torch.randn(1, 1, 12))


@every_group
@pytest.mark.parametrize("base", [Gaussian, Logistic])
def test_given_the_noise_before_it_a_sample_is_affine_in_its_own(group: int, base: type) -> None:
    """What `Draw.log_scale` promises and distillation stands on."""
    student, mel = grouped_student(group, flows=3, base=base.__name__.lower()), random_log_mel(2)
    noise = student.noise(mel).requires_grad_()

    path = student.draw(mel, noise)
    loc = path.u - path.log_scale.exp() * path.z

    of_loc = torch.stack([torch.autograd.grad(value, noise, retain_graph=True)[0][0] for value in loc[0, 0]])
    assert of_loc.triu().abs().max() < 1e-12
    assert of_loc.diagonal(-1).abs().min() > 1e-6, "loc sees the sample just before it, in its own group too"
    torch.testing.assert_close(path.log_prob, base().log_prob(noise) - path.log_scale)


@every_group
def test_scoring_step_by_step_undoes_the_draw(group: int) -> None:
    student, mel = grouped_student(group), random_log_mel(3, batch=2)
    noise = student.noise(mel)

    audio, log_prob = student.sample_and_log_prob(mel, noise)
    z, _ = student.flow.transform(student.whiten(audio, mel)[0], student.conditioning(mel))

    torch.testing.assert_close(z.squeeze(1), noise, rtol=0, atol=1e-8)
    torch.testing.assert_close(student.log_prob(audio, mel), log_prob, rtol=0, atol=1e-8)
    assert (student.draws_in_parallel, student.scores_in_parallel) == (True, False)


def test_sweeps_find_what_the_steps_find() -> None:
    transform, cond, z = grouped(3, cond_channels=6), torch.randn(2, 2, 24), torch.randn(2, 1, 24)
    solution = transform.solve(z, cond, tolerance=1e-12)

    torch.testing.assert_close(solution.value, transform.inverse(z, cond)[0], rtol=0, atol=1e-9)
    assert solution.sweeps <= 24 // 3 + 1


# --- groups of 1, and files


def test_a_group_of_one_is_the_affine_student_to_the_bit() -> None:
    student, mel = tiny_student(), random_log_mel(2)
    path = student.draw(mel, student.noise(mel))
    plain_steps = [
        Inverse(Autoregressive(Inverted(Affine()), s.transform.conditioner)) for s in student.flow.transform.transforms
    ]

    u, log_prob, log_scale = Flow(Chain(plain_steps), Gaussian()).sample_and_log_prob(path.z, student.conditioning(mel))

    for found, wanted in ((path.u, u), (path.log_prob, log_prob), (path.log_scale, log_scale)):
        assert torch.equal(found, wanted)


def test_a_file_from_before_groups_is_a_student_of_group_one() -> None:
    student, mel = tiny_student(), random_log_mel(2)
    config = json.loads(json.dumps(student.config))
    assert config.pop("group") == 1

    old = build(config)
    old.load_state_dict(student.state_dict())

    noise = student.noise(mel)
    assert torch.equal(old.sample(mel, noise), student.sample(mel, noise))


def test_a_group_must_fit_the_frames() -> None:
    refused(lambda: tiny_student(group=0), "`group` must be at least 1, got 0")
    refused(lambda: tiny_student(group=5), "`group` 5 folds 5 samples, which must divide a frame's 16")


# --- how far it sees


@every_group
def test_reach_of_one_map_is_what_is_stated(group: int) -> None:
    transform, z = Inverse(grouped(group)), torch.randn(1, 1, 12 * group)
    seen = jacobian(lambda z: transform.inverse(z)[0], z)[:, 0, :, 0] != 0

    at, of = seen.nonzero().unbind(dim=1)

    assert transform.context == ((at - of).max(), (of - at).max()) == (5 * group - 1, 0)


def test_receptive_field_of_a_student_is_that_of_its_groups() -> None:
    assert tiny_student(group=4).receptive_field == 2 * (9 * 4 - 1) + 1


def test_one_frame_changes_what_it_conditions_and_nothing_before() -> None:
    student, mel = tiny_student(group=4), random_log_mel(6)
    noise, other = student.noise(mel), mel.clone()
    other[..., 4] += 1.0

    changed = (student.draw(mel, noise).u != student.draw(other, noise).u)[0, 0].nonzero().flatten()

    first = 4 * 16 - 24  # a frame and a half
    assert first - 3 <= changed[0] <= first, "a group takes the mean over its samples: up to 3 samples earlier"


# --- distillation


def random_pair(group: int) -> tuple[Vocoder, Vocoder, Tensor]:
    mel = {"mel": MEL | {"hop_length": 12}}
    return grouped_student(group), tiny_teacher(**mel).requires_grad_(False), random_log_mel(2)


@torch.no_grad()
@pytest.mark.parametrize("group", [2, 3])
def test_the_three_estimators_agree_at_each_place_within_a_group(group: int) -> None:
    student, teacher, mel = random_pair(group)
    mel = mel.expand(6000, -1, -1)
    path, cond = student.draw(mel, torch.randn(6000, 24)), teacher.conditioning(mel)
    kl = {}
    for form in FORMS:
        loss = DensityDistillation(form, draws=2)
        loss.check(student.flow, teacher.flow)
        kl[form] = loss(path, student.flow, teacher.flow, cond).kl.unflatten(1, (-1, group)).mean(dim=1)  # (B, group)

    assert kl["closed"].mean() > 0.05
    for form in ("path", "rao_blackwell"):
        difference = kl[form] - kl["closed"]
        standard_error = difference.std(dim=0) / math.sqrt(len(difference))
        assert (standard_error < 0.1 * kl["closed"].mean(dim=0)).all(), "too coarse to tell anything"
        assert (difference.mean(dim=0).abs() < 3.5 * standard_error).all()


@pytest.mark.parametrize("form", ["closed", "rao_blackwell"])
def test_a_grouped_teacher_needs_the_path(form: str) -> None:
    tau = TriangularAffine(2)
    net = WaveNet(2, tau.n_params, layers=2, channels=4, dilation_cycle=2)
    teacher = Flow(randomized(Autoregressive(tau, net, 2)), Gaussian())
    student = Flow(Chain([Inverse(grouped(2))]), Gaussian())

    refused(lambda: DensityDistillation(form).check(student, teacher), "sample by sample, one autoregressive map: use 'path'")
    kl = DensityDistillation("path")(draw(student, torch.randn(200, 1, 16)), student, teacher).kl
    assert kl.mean() > 0.05


def test_gradients_reach_all_of_the_student() -> None:
    student, teacher, mel = random_pair(3)
    path = student.draw(mel, student.noise(mel))
    DensityDistillation()(path, student.flow, teacher.flow, teacher.conditioning(mel)).kl.mean().backward()

    for name, parameter in student.flow.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    for step in student.flow.transform.transforms:
        last = step.transform.conditioner.last
        assert (last.bias.grad != 0).all(), "each parameter of the triangle counts"


def test_it_composes_and_becomes_a_task_that_trains() -> None:
    cfg = composed("stage=student", "net.group=4", *SMALL)
    teacher = build(plain(composed("net.whitening=5", *SMALL))["net"])
    net = build(net_config(plain(cfg)["net"], teacher))
    task = DistillationTask(net, teacher, DensityDistillation(), partial(torch.optim.Adam, lr=1e-2))
    mel = random_log_mel(3, n_mels=net.mel.n_mels)
    audio = 0.1 * torch.randn(1, 3 * net.hop_length)
    batch = {"audio": audio, "mel": mel, "mask": torch.ones_like(audio)}
    optimizer, losses = task.optimizer(net.parameters()), []
    randomized(teacher, 0.1)

    for _ in range(4):
        optimizer.zero_grad()
        values = task._values(batch, net.noise(mel, torch.Generator().manual_seed(0)))[0]
        values["loss"].backward()
        optimizer.step()
        losses.append(values["loss"].item())

    assert [step.transform.group for step in net.flow.transform.transforms] == [4] * len(net.flow.transform.transforms)
    assert losses[-1] < losses[0]


@torch.no_grad()
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_compiles_as_one_graph(direction: str) -> None:
    student, z = tiny_student(group=4), torch.randn(1, 1, 48)
    flow = student.flow.transform.transforms[0] if direction == "forward" else student.flow.transform
    tau, params = TriangularAffine(4), torch.randn(1, 14, 12)

    def run(z: Tensor, frames: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        if direction == "inverse":
            return flow.inverse(z, Conditioning(frames, kernel))
        return tau.forward(z.view(1, 4, 12), params)

    assert_one_graph(run, z, torch.randn(1, 5, 3), student.upsampler.kernel)


# --- the analytic teacher, end to end


@pytest.mark.slow
def test_distillation_from_an_ar_process_finds_its_impulse_response() -> None:
    torch.set_default_dtype(torch.float32)
    teacher, loss = ar_teacher().requires_grad_(False), DensityDistillation("closed")
    tau = Inverted(TriangularAffine(4))

    def step() -> Inverse:
        net = WaveNet(4, tau.n_params, layers=3, channels=24, kernel_size=3, dilation_cycle=3)  # each flow sees 60 samples
        return Inverse(Autoregressive(tau, net, 4))

    student = Flow(Chain([step(), step()]), Gaussian())

    def kl(batch: int) -> Tensor:
        return loss(draw(student, torch.randn(batch, 1, 256)), student, teacher).kl

    with torch.no_grad():
        assert kl(64).mean() > 1.0
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        kl(8).mean().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        final, path = kl(256), draw(student, torch.randn(256, 1, 256))

    assert final.mean() < 0.01
    assert final.unflatten(1, (-1, 4)).mean(dim=(0, 1)).max() < 0.02, "at each place within a group"
    assert (Gaussian().entropy() + path.log_scale.mean()).item() == pytest.approx(ENTROPY_RATE, abs=0.02)
    wanted, found = impulse_response(40), measured_impulse_response(student, 40)
    assert torch.linalg.vector_norm(found - wanted) < 0.1 * torch.linalg.vector_norm(wanted)
