"""The flows that draw in parallel without distillation: exact, invertible, drawn in pieces, built and refused."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from flow_checks import assert_one_graph, assert_round_trip, assert_total_log_det_is_exact
from helpers import PARALLEL_FLOWS, jacobian, random_log_mel, randomized, refused, tiny_flow, tiny_student, tiny_teacher

from wavflow.distributions import Gaussian
from wavflow.losses import DensityDistillation
from wavflow.nn import Conditioning, WaveNet
from wavflow.nn.wavenet2d import WaveNet2d

every_flow = pytest.mark.parametrize("name", PARALLEL_FLOWS)


@every_flow
def test_log_det_is_that_of_the_autograd_jacobian(name: str) -> None:
    model, u = tiny_flow(name), torch.randn(1, 1, 48)
    transform, cond = model.flow.transform, model.conditioning(random_log_mel(3))
    assert_total_log_det_is_exact(transform, u, cond)
    for direction in (transform, transform.inverse):
        matrix = jacobian(lambda u, direction=direction: direction(u, cond)[0], u).reshape(48, 48)
        assert matrix.triu(diagonal=1).abs().max() > 1e-3, "these flows see the future"
        assert direction(u, cond)[1].abs().max() > 0.1


@every_flow
def test_round_trip(name: str) -> None:
    model = tiny_flow(name)
    assert_round_trip(model.flow.transform, torch.randn(2, 1, 48), model.conditioning(random_log_mel(3, batch=2)))


@every_flow
def test_pieces_make_the_whole(name: str) -> None:
    model, mel = tiny_flow(name), random_log_mel(40)
    noise = model.noise(mel)
    pieces, whole = model.sample(mel, noise, segment_frames=6), model.sample(mel, noise, segment_frames=40)
    assert model.flow.transform.context[1] < 24 * 16, "else nothing is drawn in pieces"
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


@every_flow
def test_reach_is_as_stated(name: str) -> None:
    model = tiny_flow(name)
    cond, z = model.conditioning(random_log_mel(20)), torch.randn(1, 1, 320)
    after = z.clone()
    after[..., 160] += 1.0
    x, changed = (model.flow.transform.inverse(value, cond)[0] for value in (z, after))
    reached = ((x - changed).abs()[0, 0] > 0).nonzero().flatten()
    before, behind = model.flow.transform.context
    assert model.receptive_field == before + behind + 1
    assert 160 - behind <= reached.min() < 160 < reached.max() <= 160 + before
    assert reached.max() - reached.min() > 0.4 * (before + behind), "far more is stated than is true"


@every_flow
def test_untrained_density_is_that_of_whitened_noise(name: str) -> None:
    model, mel, audio = tiny_flow(name, std=None), random_log_mel(3), 0.1 * torch.randn(1, 48)
    u, log_slope = model.whiten(audio, mel)
    wanted = Gaussian().log_prob(u).sum() + log_slope.sum()  # a rotation of the channels leaves the sum as it is
    torch.testing.assert_close(model.log_prob(audio, mel).sum(), wanted, rtol=0, atol=1e-10)


def test_act_norm_starts_from_data() -> None:
    model, u = tiny_flow("flowavenet", std=None), 3.0 + 0.2 * torch.randn(4, 1, 320)
    cond = model.conditioning(random_log_mel(20, batch=4))
    model.flow.initialize(u, cond)
    z, _ = model.flow.transform(u, cond)
    torch.testing.assert_close(z.std(), torch.tensor(1.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.mean(), torch.tensor(0.0), rtol=0, atol=1e-3)


@every_flow
@torch.no_grad()
def test_compiles_as_one_graph(name: str) -> None:
    fewer = {"flowavenet": {"flows": 1, "scales": 2}, "waveglow": {"flows": 2, "early_every": 1}, "waveflow": {"flows": 1}}
    model, u = tiny_flow(name, layers=1, **fewer[name]), torch.randn(1, 1, 48)
    cond = torch.randn(1, 5, 3), model.upsampler.kernel

    def log_prob(u: torch.Tensor, frames: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return model.flow.log_prob(u, Conditioning(frames, kernel))

    assert_one_graph(log_prob, u, *cond)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tiny_flow("waveglow", flows=0), "`flows` must be at least 1, got 0"),
        (lambda: tiny_flow("waveglow", flows=7), "`group` 4 leaves fewer than 2 channels after 3 early outputs of 1"),
        (lambda: tiny_flow("waveglow", kernel_size=2), "`kernel_size` must be odd for taps on both sides, got 2"),
        (lambda: tiny_flow("flowavenet", scales=0), "`scales` must be at least 1, got 0"),
        (lambda: tiny_flow("waveflow", flows=0), "`flows` must be at least 1, got 0"),
        (lambda: tiny_flow("waveflow", height_kernel_size=0), "`height_kernel_size` must be at least 1, got 0"),
    ],
)
def test_impossible_models_are_refused(build: Callable, message: str) -> None:
    refused(build, message)


@pytest.mark.parametrize(
    ("name", "changes"), [("waveglow", {"group": 5}), ("flowavenet", {"scales": 5}), ("waveflow", {"height": 3})]
)
def test_a_fold_must_fit_the_frames(name: str, changes: dict[str, int]) -> None:
    ((argument, value),) = changes.items()
    refused(lambda: tiny_flow(name, **changes), rf"`{argument}` {value} folds \d+ samples, which must divide a frame's 16")
    cond = Conditioning(torch.zeros(1, 3, 2), torch.zeros(3, 16))
    refused(lambda: cond.folded(5), "`factor` must divide a frame's 16 samples, got 5")


def test_closed_form_is_for_inverse_autoregressive_students() -> None:
    teacher, flow = tiny_teacher().flow, tiny_flow("waveflow").flow
    DensityDistillation("closed").check(tiny_student().flow, teacher)
    DensityDistillation("path").check(flow, teacher)
    for form in ("closed", "rao_blackwell"):
        check = partial(DensityDistillation(form).check, flow, teacher)
        refused(check, "needs a student of inverse autoregressive flows: use 'path'")


def tiny_rows(**changes: int) -> WaveNet2d:
    options = {"layers": 3, "channels": 6, "kernel_size": 3, "dilation_cycle": 2, "cond_channels": 3}
    return randomized(WaveNet2d(2, **options | changes))


@pytest.mark.parametrize("height_kernel_size", [1, 2, 3, 7])
def test_row_by_row_equals_the_full_pass(height_kernel_size: int) -> None:
    net, x = tiny_rows(height_kernel_size=height_kernel_size), torch.randn(2, 5, 12)
    cond = Conditioning(torch.randn(2, 3, 3), torch.rand(3, 4))
    step = net.stepper(cond, batch=2)
    given = [torch.zeros(2, 12), *x.unbind(1)[:-1]]
    params = torch.stack([step(row) for row in given], dim=2).flatten(1, 2)
    torch.testing.assert_close(params, net(x, cond), rtol=0, atol=1e-12)


def test_parameters_of_a_row_see_the_rows_before_it() -> None:
    net, x = tiny_rows(), torch.randn(1, 5, 12)
    matrix = torch.autograd.functional.jacobian(lambda x: net(x, torch.zeros(1, 3, 12)).view(2, 5, 12), x)[:, :, :, 0]
    for row in range(5):
        assert (matrix[:, row, :, row:] == 0).all()
    assert (matrix[:, 4, 6, 0, 5:8].abs().amin(dim=0) > 0).all(), "row 4 sees row 0, before and after its own time"


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_wavenet_that_is_not_causal_reaches_both_ways(kernel_size: int) -> None:
    net = randomized(WaveNet(layers=3, channels=6, kernel_size=kernel_size, dilation_cycle=2, causal=False))
    x = torch.randn(8, 1, 60)
    after = x.clone()
    after[..., 30] += 1.0
    reached = ((net(after) - net(x)).abs() > 0).any(dim=1).any(dim=0).nonzero().flatten()
    assert net.context == (4 * (kernel_size // 2), 4 * (kernel_size // 2))
    assert (30 - reached.min(), reached.max() - 30) == net.context
    refused(lambda: net.stepper(), "`causal` must be true for a step by step pass")


def test_folded_conditioning_is_the_mean_of_each_group() -> None:
    cond, projected = Conditioning(torch.randn(1, 3, 5), torch.rand(3, 8)), torch.randn(1, 5, 4)
    fine = cond.to_samples(projected, 40)
    torch.testing.assert_close(cond.folded(4).to_samples(projected, 10), fine.unflatten(1, (10, 4)).mean(dim=2))
    assert cond.folded(1) is cond
