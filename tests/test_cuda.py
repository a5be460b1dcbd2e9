"""Draws for a GPU against the plain ones, without their graphs on a CPU: the same numbers, whatever the length and shape."""

import pytest
import torch
from helpers import random_log_mel, randomised, tiny_flow, tiny_mel, tiny_student, tiny_teacher
from torch._subclasses.fake_tensor import FakeTensorMode

from wavflow.nn import Conditioning, WaveNet
from wavflow.synthesis import cuda
from wavflow.synthesis.cuda import StaticStepper, StudentDraw, TeacherDraw, captured, colour

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs")
STUDENTS = [
    {"flows": 2},
    {"flows": 2, "layers": 2, "group": 4, "whitening": 0},
    {"flows": 1, "n_speakers": 3, "mel": tiny_mel(center=True).spec, "upsampling": "smoothing"},
]


@pytest.mark.parametrize("changes", STUDENTS, ids=["plain", "grouped", "speakers"])
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 14, 37])  # pieces of 8: less than one, one, and more, with and without a rest
def test_pieces_are_the_whole_draw(changes: dict, frames: int) -> None:
    student = tiny_student(std=0.15, **changes).float().eval()
    mel = random_log_mel(frames, 2).float()
    noise, speaker = student.noise(mel), torch.tensor([2, 0]) if student.speakers else None
    draw = StudentDraw(student, batch=2, frames=8, dtype=torch.float32)
    assert draw.run_up < 6, "pieces must go on from each other"

    audio = draw.sample(mel, noise, speaker)

    assert audio.abs().max() > 1e-3
    torch.testing.assert_close(audio, student.sample(mel, noise, speaker=speaker, passes=0, fast=False), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(draw.sample(mel, noise, speaker), audio, rtol=0, atol=0)


def test_bfloat16_comes_near_and_new_weights_are_felt() -> None:
    student = tiny_student(std=0.15).float().eval()
    mel = random_log_mel(9).float()
    noise, draw = student.noise(mel), StudentDraw(student, frames=8)
    exact = student.sample(mel, noise, passes=0, fast=False)

    error = (draw.sample(mel, noise) - exact).abs().max() / exact.abs().max()
    assert 0 < error < 0.05
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(3.0)
    moved = student.sample(mel, noise, passes=0, fast=False)
    assert (moved - exact).abs().max() > 0.2 * exact.abs().max()
    torch.testing.assert_close(draw.sample(mel, noise), moved, rtol=0, atol=0.05 * float(moved.abs().max()))


def test_what_does_not_fit_a_student_draw_is_refused() -> None:
    student, mel = tiny_student().float(), random_log_mel(9).float()
    with pytest.raises(ValueError, match="`vocoder` must be a student"):
        StudentDraw(tiny_teacher().float())
    with pytest.raises(ValueError, match="`vocoder` must be a student"):
        StudentDraw(tiny_flow("waveglow").float())
    with pytest.raises(ValueError, match="`frames` must be at least"):
        StudentDraw(student, frames=2)
    for noise in (torch.zeros(2, 144), torch.zeros(1, 143)):
        with pytest.raises(ValueError, match="make another `StudentDraw` for another batch"):
            StudentDraw(student, frames=8).sample(mel, noise)


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("cond_channels", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_static_steps_are_the_steps(kernel_size: int, cond_channels: int, dtype: torch.dtype) -> None:
    options = {"layers": 5, "channels": 6, "skip_channels": 4, "dilation_cycle": 3, "in_channels": 2}
    net = randomised(WaveNet(kernel_size=kernel_size, cond_channels=cond_channels, **options)).to(dtype)
    x, cond = torch.randn(3, 2, 40, dtype=dtype), None
    if cond_channels:
        cond = Conditioning(torch.randn(3, 3, 10, dtype=dtype), torch.rand(3, 4, dtype=dtype))
    step = net.stepper(cond, batch=3)
    static = StaticStepper(net, batch=3, hop_length=4)
    places = [ring.data_ptr() for ring in static.rings]

    for _ in range(2):  # and once more after a reset
        step = net.stepper(cond, batch=3)
        static.reset()
        for t in range(40):
            if t % 4 == 0:
                static.load(*net._project(cond), t // 4)
            with torch.no_grad():
                torch.testing.assert_close(static(x[..., t]), step(x[..., t]), rtol=0, atol=1e-6)
    assert int(static.time) == 40
    assert [ring.data_ptr() for ring in static.rings] == places, "a graph knows them by their place"


def test_steps_that_see_ahead_are_refused() -> None:
    with pytest.raises(ValueError, match="`net` must be causal"):
        StaticStepper(WaveNet(layers=1, dilation_cycle=1, causal=False))


TEACHERS = [
    {"density": "gaussian"},
    {"density": "mixture_of_logistics"},
    {"density": "gaussian", "kernel_size": 3, "layers": 4},
]


@pytest.mark.parametrize("changes", TEACHERS, ids=["affine", "mixture", "kernel 3"])
def test_a_teacher_draws_what_its_flow_draws(changes: dict) -> None:
    teacher = tiny_teacher(**changes).float().eval()
    mel = random_log_mel(3, 2).float()
    z, cond = teacher.noise(mel).unsqueeze(1), teacher.conditioning(mel)
    draw = TeacherDraw(teacher.flow, batch=2, hop_length=16)
    with torch.no_grad():
        expected = teacher.flow.sample(z, cond)
    assert expected.std() > 0.1
    for _ in range(2):  # the second draw starts from silence again
        torch.testing.assert_close(draw.sample(z, cond), expected, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_a_teacher_draw_is_refused() -> None:
    teacher, z = tiny_teacher().float(), torch.zeros(1, 1, 32)
    with pytest.raises(ValueError, match="`flow` must be one causal WaveNet"):
        TeacherDraw(tiny_student().flow, 1, 16)
    draw = TeacherDraw(teacher.flow, batch=1, hop_length=16)
    for unfit in (z[..., :31], z.expand(2, -1, -1)):
        with pytest.raises(ValueError, match="make another `TeacherDraw`, or pad"):
            draw.sample(unfit, teacher.conditioning(random_log_mel(2).float()))


def test_the_whitening_is_undone_as_by_the_model() -> None:
    student = tiny_student(mel=None, features=8).float()  # the published mel, whose pitch the comb takes
    mel = torch.full((2, 80, 12), -6.0).float()
    for harmonic in range(1, 9):
        mel[:, int(2.7 * harmonic)] = torch.linspace(-1.0, 0.5, 12)
    u = 0.3 * torch.randn(2, 1, 12 * 256).float()
    torch.testing.assert_close(colour(student, u, mel), student.colour(u, mel)[0], rtol=1e-4, atol=1e-5)


def test_without_a_gpu_nothing_is_captured() -> None:
    def function() -> None:
        raise AssertionError("must not run yet")

    assert captured(function, torch.device("cpu")) is function


def draws(density: str | None = None) -> StudentDraw | TeacherDraw:
    if density is None:
        return StudentDraw(tiny_student(flows=1, layers=1).float(), frames=8, dtype=torch.float32)
    return TeacherDraw(tiny_teacher(density=density, layers=1).float().flow, 1, 16)


@pytest.mark.parametrize("density", [None, "gaussian", "mixture_of_logistics", "mixture_of_gaussians"])
def test_what_a_graph_holds_looks_at_no_value(density: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "STEPS", 1)
    draw = draws(density)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):  # whose tensors have no values: to look at one raises
        draw._draw()


@needs_gpu
@pytest.mark.parametrize("what", ["student", "teacher"])
def test_graphs_draw_the_same(what: str) -> None:
    mel = random_log_mel(37, 2).float().cuda()
    model = (tiny_student(std=0.15) if what == "student" else tiny_teacher()).float().cuda()
    noise = model.noise(mel)
    expected = model.sample(mel, noise, passes=0)
    if what == "student":
        draw = StudentDraw(model, batch=2, frames=8, dtype=torch.float32)
        drawn = [draw.sample(mel, noise) for _ in range(2)]
    else:
        steps = TeacherDraw(model.flow, batch=2, hop_length=16)
        drawn = [colour(model, steps.sample(noise.unsqueeze(1), model.conditioning(mel)), mel) for _ in range(2)]
    for audio in drawn:
        torch.testing.assert_close(audio, expected, rtol=1e-4, atol=1e-4)
