"""The pulses under a student's noise: exact density, the mel's pitch, the level of noise alone; the same in every engine."""

import pytest
import torch
from helpers import (
    VOICE,
    assert_log_det_is_exact,
    random_log_mel,
    refused,
    tiny_mel,
    tiny_student,
    tiny_teacher,
    voiced_log_mel,
)
from torch import Tensor

from wavflow import Vocoder
from wavflow.evaluation.systems import PULSES, Clip, render
from wavflow.flows import HarmonicSource, MelPitch
from wavflow.losses import DensityDistillation
from wavflow.mel import MelSpectrogram
from wavflow.synthesis.parallel import ParallelEngine, dtypes


def voice(frames: int = 12, batch: int = 2, share: float = 0.9) -> tuple[HarmonicSource, Tensor]:
    mel = MelSpectrogram(**VOICE)
    source = HarmonicSource(mel, MelPitch(mel), share)
    cond = voiced_log_mel(mel, frames, batch)
    assert source.pitch(source.at_blocks(cond))[1].min() > 0.3, "the mel must be a voice's"
    return source, cond


def test_density_is_exact() -> None:
    source, cond = voice(2, 1)
    z = torch.randn(1, 1, 128)
    assert_log_det_is_exact(lambda z: source.inverse(z, cond), z)
    assert_log_det_is_exact(lambda v: source(v, cond), z)
    v, log_sigma = source.inverse(z, cond)
    assert log_sigma.max() < -0.1
    torch.testing.assert_close(source(v, cond)[0], z, rtol=0, atol=1e-12)


def test_pulses_come_at_the_pitch_of_the_mel() -> None:
    source, cond = voice(60)
    pulses, _ = source.inverse(torch.zeros(2, 1, 60 * 64), cond)
    period, _ = source.pitch(source.at_blocks(cond))
    for item, expected in zip(pulses[:, 0], (source.block_length / period).sum(dim=1), strict=True):
        peaks = (item > item.roll(1)) & (item >= item.roll(-1)) & (item > 0.1 * item.max())
        assert abs(peaks.sum() - expected) <= 1
        assert peaks.nonzero()[:, 0].diff().min() > 0.8 * period.min()


def test_level_is_that_of_noise_alone() -> None:
    # behind the comb, for which the pulses are made; at all frequencies, but where the short pulse fades out
    student = tiny_student(None, mel={}, pulses=0.9)
    comb = student.whitening.transforms[1]
    cond = voiced_log_mel(student.mel, 150)[..., 75:76].expand(-1, -1, 600)  # one pitch
    assert comb.pitch(comb.at_blocks(cond))[1].min() > 0.5
    z = torch.randn(1, 1, 600 * 256)
    noise, voice = (comb.inverse(x, cond)[0][0, 0] for x in (z, student.add_pulses(z, cond)[0]))
    bands = [torch.fft.rfft(x).abs().square().split(600 * 16) for x in (noise, voice)]  # of 1.4 kHz
    levels = [float(10 * torch.log10(b.sum() / a.sum())) for a, b in zip(*bands, strict=True)]
    assert all(abs(level) < most for level, most in zip(levels, (1.0, 2.0, 3.0), strict=False)), levels
    assert sorted(levels, reverse=True) == levels, levels
    assert torch.equal(student.source.inverse(z, torch.full_like(cond, -8.0))[0], z), "nothing hums here"


def student_of(**changes: object) -> Vocoder:
    return tiny_student(std=0.15, **{"mel": VOICE, "pulses": 0.9, "layers": 3} | changes).eval()


def test_students_density_is_that_of_its_draws() -> None:
    student = student_of(group=2)
    cond = voiced_log_mel(student.mel, 3)
    noise = student.noise(cond)
    audio, log_prob = student.sample_and_log_prob(cond, noise)
    torch.testing.assert_close(student.log_prob(audio, cond), log_prob, rtol=0, atol=1e-6)
    draw = student.draw(cond, noise)
    assert_log_det_is_exact(lambda z: (student.draw(cond, z[:, 0]).u, student.draw(cond, z[:, 0]).log_scale), noise[:, None])
    torch.testing.assert_close(draw.log_prob, student.flow.base_log_prob(draw.z) - draw.log_scale)
    quiet = student_of(group=2, pulses=0.0)
    quiet.load_state_dict(student.state_dict())
    assert (quiet.sample(cond, noise, passes=0) - audio).abs().max() > 0.1 * audio.std()


def test_the_estimators_of_the_divergence_agree() -> None:
    # a log-scale without sigma, or a loc without the pulses, and closed form and path part
    student, teacher = student_of(layers=2), tiny_teacher(std=0.15, mel=VOICE, layers=2)
    cond = voiced_log_mel(student.mel, 4).expand(96, -1, -1)
    features = teacher.conditioning(cond)
    with torch.no_grad():
        draw = student.draw(cond, student.noise(cond))
        path, closed, rao_blackwell = (
            DensityDistillation(form)(draw, student.flow, teacher.flow, features).kl.mean(dim=1)
            for form in ("path", "closed", "rao_blackwell")
        )
    assert closed.mean() > 0.05
    for other in (path, rao_blackwell):
        difference = other - closed
        assert difference.mean().abs() < 3.5 * difference.std() / len(difference) ** 0.5 + 1e-4


def test_a_report_shows_what_pulses_do_alone() -> None:
    student = student_of()
    cond = voiced_log_mel(student.mel, 40)
    clips = [Clip("clip", torch.randn(1, 40 * 64), cond)]
    renderings = render(clips, {"plain": student_of(pulses=0.0), "student": student}, temperature=0.7, jobs=1)
    untrained = tiny_student(None, mel=VOICE, pulses=0.9)
    noise = student.noise(cond, torch.Generator().manual_seed(0))
    expected = untrained.sample(cond, noise, 0.7, passes=0)[0].float()
    torch.testing.assert_close(renderings[PULSES].audio[0], expected, rtol=0, atol=1e-5)
    assert PULSES not in render(clips, {"plain": student_of(pulses=0.0)}, jobs=1)


@pytest.mark.parametrize("dtype", dtypes())
def test_engine_and_streams(dtype: torch.dtype) -> None:
    student = student_of(group=2).float()
    cond = voiced_log_mel(student.mel, 21, 2).float()
    noise = student.noise(cond)
    with torch.no_grad():
        expected, log_prob = student.sample_and_log_prob(cond, noise)
    whole = student.sample(cond, noise, dtype=dtype)
    for sizes in ([1] * 21, [2, 19], [21]):
        pieces = list(student.stream(iter(cond.split(sizes, dim=-1)), noise, dtype=dtype))
        assert torch.equal(torch.cat(pieces, dim=-1), whole), sizes
    if dtype == torch.float32:
        audio, density = ParallelEngine(student).sample_and_log_prob(cond, noise)
        torch.testing.assert_close(audio, expected, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(density, log_prob, rtol=0, atol=5e-5)
        torch.testing.assert_close(student.sample(cond, noise, passes=0, fast=False), expected, rtol=1e-4, atol=2e-5)


def test_where_the_mel_tells_no_pitch_there_are_none() -> None:
    for changes in ({"mel": tiny_mel().spec}, {"whitening": 0}, {"pitch": False}, {"pulses": 0.0}):
        assert student_of(**changes).source is None
    refused(lambda: student_of(pulses=1.0), r"`pulses` must be at least 0 and below 1, got 1\.0")
    source, _ = voice()
    refused(lambda: source.inverse(torch.zeros(1, 1, 64), random_log_mel(2, n_mels=64)), "one frame per 64 samples")
