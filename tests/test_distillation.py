"""Reverse KL: three estimators of one number, held against each other and against processes whose answer is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ar_process import COEFFICIENTS, ENTROPY_RATE, ar_filter, ar_student, ar_teacher, draw, iaf, impulse_response
from helpers import randomized, refused, tiny_student, tiny_teacher
from torch import Tensor, nn

from wavflow.distributions import Gaussian, Logistic
from wavflow.flows import Affine, Autoregressive, Chain, Flow, MixtureCDF
from wavflow.losses import ContrastiveDivergence, DensityDistillation
from wavflow.losses.distillation import FORMS
from wavflow.nn import WaveNet
from wavflow.vocoder import Vocoder

pytestmark = pytest.mark.usefixtures("one_thread")
Base = type[Gaussian] | type[Logistic]
NET = {"layers": 3, "channels": 4, "kernel_size": 2, "dilation_cycle": 3}
TEACHERS = {
    "gaussian": (Affine(), Gaussian()),
    "logistic": (Affine(), Logistic()),
    "mixture_of_gaussians": (MixtureCDF(Gaussian, Logistic(), 3), Logistic()),
    "mixture_of_logistics": (MixtureCDF(Logistic, Logistic(), 3), Logistic()),
}


def random_teacher(density: str = "gaussian") -> Flow:
    tau, base = TEACHERS[density]
    return randomized(Flow(Autoregressive(tau, WaveNet(out_channels=tau.n_params, **NET)), base)).requires_grad_(False)


def random_student(base: Base = Gaussian) -> Flow:
    return Flow(randomized(iaf(2, **NET)).transform, base())


def random_pair() -> tuple[Vocoder, Vocoder, Tensor]:
    """A student and a teacher of audio that share mel and whitening, and mels of two unlike sounds."""
    student, teacher = tiny_student(), tiny_teacher().requires_grad_(False)
    return student, teacher, student.mel(torch.randn(2, 64) * torch.tensor([[0.3], [0.02]]))


def assert_equal_within_3_standard_errors(found: Tensor, wanted: Tensor) -> None:
    """Compares the means of two estimators over the same items."""
    difference = found - wanted
    standard_error = difference.std() / math.sqrt(len(difference))
    assert 0 < standard_error < 0.02 * wanted.mean(), "too coarse to tell anything"
    assert difference.mean().abs() < 3 * standard_error


# --- the estimators


@torch.no_grad()
def test_the_three_estimators_agree() -> None:
    student, teacher = random_student(), random_teacher()
    path = draw(student, torch.randn(4000, 1, 24))
    kl = {form: DensityDistillation(form)(path, student, teacher).kl.mean(dim=1) for form in FORMS}
    assert_equal_within_3_standard_errors(kl["rao_blackwell"], kl["closed"])
    assert_equal_within_3_standard_errors(kl["path"], kl["closed"])


@torch.no_grad()
@pytest.mark.parametrize("base", [Gaussian, Logistic])
@pytest.mark.parametrize("density", ["logistic", "mixture_of_gaussians", "mixture_of_logistics"])
def test_path_and_rao_blackwell_agree_where_there_is_no_closed_form(density: str, base: Base) -> None:
    student, teacher = random_student(base), random_teacher(density)
    path = draw(student, student.noise((6000, 1, 16)))
    kl = {form: DensityDistillation(form, draws=4)(path, student, teacher).kl.mean(dim=1) for form in FORMS[1:]}
    assert_equal_within_3_standard_errors(kl["path"], kl["rao_blackwell"])


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_kl_is_cross_entropy_less_entropy(form: str) -> None:
    student, teacher = random_student(), random_teacher()
    divergence = DensityDistillation(form)(draw(student, torch.randn(5, 1, 16)), student, teacher)
    torch.testing.assert_close(divergence.kl, divergence.cross_entropy - divergence.entropy)
    assert divergence.kl.shape == (5, 16)


@torch.no_grad()
def test_variance_of_rao_blackwell_falls_with_the_number_of_draws() -> None:
    student, teacher = random_student(), random_teacher("mixture_of_logistics")
    path = draw(student, torch.randn(1, 1, 12).expand(1500, 1, 12))  # one path, judged 1500 times over
    variance = {}
    for draws in (1, 4, 16):
        variance[draws] = DensityDistillation("rao_blackwell", draws)(path, student, teacher).kl.var(dim=0).mean()
    assert variance[1] > 1e-3
    assert variance[4] / variance[1] == pytest.approx(1 / 4, rel=0.15)
    assert variance[16] / variance[1] == pytest.approx(1 / 16, rel=0.15)


@torch.no_grad()
def test_regularizer_is_no_part_of_the_kl() -> None:
    student, teacher = random_student(), random_teacher()
    path = draw(student, torch.randn(5, 1, 16))
    without, with_it = (DensityDistillation(regularization=w)(path, student, teacher) for w in (0.0, 4.0))
    torch.testing.assert_close(with_it.kl, without.kl, rtol=0, atol=0)
    assert (without.regularizer == 0).all()
    teacher_log_scale = -teacher.transform(path.u)[1]
    torch.testing.assert_close(with_it.regularizer, 4.0 * (teacher_log_scale - path.log_scale) ** 2)
    assert with_it.regularizer.mean() > 1e-3


# --- zero, and not zero


@torch.no_grad()
@pytest.mark.parametrize("form", ["closed", "path"])
def test_kl_is_zero_at_each_step_where_the_teacher_is_the_students_conditional(form: str) -> None:
    student, teacher = ar_student(impulse_response(65)[1:]), ar_teacher()
    path = draw(student, torch.randn(3, 1, 64))
    np.testing.assert_allclose(path.u.numpy(), ar_filter(path.z.numpy()), atol=1e-12)
    kl = DensityDistillation(form)(path, student, teacher).kl
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("shifted", ["student", "teacher"])
def test_kl_is_positive_where_either_is_shifted_by_one_sample(shifted: str) -> None:
    taps, coefficients = impulse_response(65)[1:], COEFFICIENTS
    if shifted == "student":
        taps = torch.cat([torch.zeros(1), taps[:-1]])
    else:
        coefficients = (0.0, *COEFFICIENTS)
    student, teacher = ar_student(taps), ar_teacher(coefficients)
    kl = {form: DensityDistillation(form)(draw(student, torch.randn(200, 1, 64)), student, teacher).kl.mean() for form in FORMS}
    assert min(kl.values()) > 0.5


@torch.no_grad()
def test_kl_on_whitened_audio_is_kl_on_audio() -> None:
    student, teacher, mel = random_pair()
    path = student.draw(mel, torch.randn(2, 64))
    audio, log_det = student.unwhiten(path.u, mel)
    on_audio = path.log_prob - log_det - teacher.log_prob(audio, mel)
    on_u = DensityDistillation("path")(path, student.flow, teacher.flow, teacher.conditioning(mel)).kl
    torch.testing.assert_close(on_u, on_audio, rtol=0, atol=1e-10)
    assert log_det.abs().min() > 0.5, "a whitening that does nothing would prove nothing"


# --- gradients


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_student_and_not_the_teacher(form: str) -> None:
    student, teacher = random_student(), random_teacher()
    DensityDistillation(form)(draw(student, torch.randn(4, 1, 32)), student, teacher).kl.mean().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_that_of_the_estimate_through_the_teachers_inputs_too(form: str) -> None:
    student, teacher = random_student(), random_teacher()
    z, step = torch.randn(4, 1, 16), 1e-5
    parameters = list(student.parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]

    def estimate() -> Tensor:
        torch.manual_seed(1)  # of the draws of rao_blackwell
        return DensityDistillation(form)(draw(student, z), student, teacher).kl.mean()

    def moved(distance: float) -> Tensor:
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.add_(distance * d)
        return estimate()

    gradients = torch.autograd.grad(estimate(), parameters)
    found = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    with torch.no_grad():
        wanted = (moved(step) - moved(-2 * step)) / (2 * step)
    assert wanted.abs() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


# --- refusals


@pytest.mark.parametrize(
    ("base", "density"), [(Logistic, "gaussian"), (Gaussian, "logistic"), (Gaussian, "mixture_of_gaussians")]
)
def test_where_there_is_no_closed_form_the_form_that_is_named_works(base: Base, density: str) -> None:
    student, teacher = random_student(base), random_teacher(density)
    refused(lambda: DensityDistillation("closed").check(student, teacher), "`form` 'closed' .* use 'rao_blackwell'")
    named = DensityDistillation("rao_blackwell")
    named.check(student, teacher)
    assert named(draw(student, student.noise((2, 1, 16))), student, teacher).kl.isfinite().all()


@pytest.mark.parametrize("form", ["closed", "rao_blackwell"])
def test_a_teacher_of_several_maps_needs_the_path(form: str) -> None:
    student, one = random_student(), random_teacher()
    teacher = Flow(Chain([one.transform, random_teacher().transform]), Gaussian())
    refused(lambda: DensityDistillation(form).check(student, teacher), "one autoregressive map: use 'path'")
    DensityDistillation("path").check(student, teacher)
    assert DensityDistillation("path")(draw(student, torch.randn(2, 1, 16)), student, teacher).kl.isfinite().all()


def test_unknown_form_and_no_draws_are_refused() -> None:
    refused(lambda: DensityDistillation("open"), "`form` must be one of closed, rao_blackwell, path, got 'open'")
    refused(lambda: DensityDistillation("rao_blackwell", draws=0), "`draws` must be at least 1, got 0")


# --- contrastive


@torch.no_grad()
def test_contrastive_divergence_is_that_to_the_teacher_of_the_other_item() -> None:
    student, teacher, mel = random_pair()
    audio, log_prob = student.sample_and_log_prob(mel)
    divergence = ContrastiveDivergence()(audio, log_prob, mel, teacher)
    for item, other in ((0, 1), (1, 0)):
        density = teacher.log_prob(audio[item : item + 1], mel[other : other + 1])[0]
        torch.testing.assert_close(divergence[item], log_prob[item] - density)
    own = log_prob - teacher.log_prob(audio, mel)
    assert divergence.mean() > own.mean() + 0.5, "another item's mel must fit worse, so that it is made large"


@torch.no_grad()
def test_contrastive_divergence_takes_the_other_items_speaker_too() -> None:
    student, teacher = tiny_student(n_speakers=3), tiny_teacher(n_speakers=3)
    mel, speaker = student.mel(0.1 * torch.randn(2, 64)), torch.tensor([2, 0])
    audio, log_prob = student.sample_and_log_prob(mel, speaker=speaker)
    divergence = ContrastiveDivergence()(audio, log_prob, mel, teacher, speaker)
    torch.testing.assert_close(divergence, log_prob - teacher.log_prob(audio, mel.flip(0), speaker.flip(0)))


def test_contrastive_divergence_needs_another_item() -> None:
    _, teacher, mel = random_pair()
    with pytest.raises(ValueError, match="at least 2 items in a batch, got 1: raise `batch_size`"):
        ContrastiveDivergence()(torch.zeros(1, 64), torch.zeros(1, 64), mel[:1], teacher)


# --- the analytic teacher, end to end


@torch.no_grad()
def test_the_analytic_teacher_is_the_process() -> None:
    teacher, z = ar_teacher(), torch.randn(3, 1, 50)
    x = teacher.sample(z)
    np.testing.assert_allclose(x.numpy(), ar_filter(z.numpy()), atol=1e-12)
    torch.testing.assert_close(teacher.transform(x)[0], z)
    assert -teacher.log_prob(teacher.sample(torch.randn(2000, 1, 50))).mean() == pytest.approx(ENTROPY_RATE, abs=0.01)


@pytest.mark.slow
def test_maximum_likelihood_on_an_ar_process_reaches_its_entropy_rate() -> None:
    torch.set_default_dtype(torch.float32)
    flow = Flow(Autoregressive(Affine(), WaveNet(layers=4, channels=16, kernel_size=2, dilation_cycle=4)), Gaussian())

    def nll(seed: int, batch: int) -> Tensor:
        z = np.random.default_rng(seed).standard_normal((batch, 1, 256))
        return -flow.log_prob(torch.from_numpy(ar_filter(z)).float()).mean(dim=1)

    with torch.no_grad():
        assert nll(0, 16).mean() > ENTROPY_RATE + 0.5
    train(flow, lambda step: nll(step, 16).mean(), steps=400, lr=1e-2)
    with torch.no_grad():
        fresh = torch.cat([nll(1_000_000 + part, 500) for part in range(8)])
    standard_error = fresh.std() / math.sqrt(len(fresh))
    assert standard_error < 0.001
    assert fresh.mean() == pytest.approx(ENTROPY_RATE, abs=0.01)


def train(flow: Flow, loss: Callable[[int], Tensor], steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(flow.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
