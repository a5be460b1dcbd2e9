"""Systems on the same clips: what they draw, how likely they find the recordings, how far they are from the teacher."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import PARALLEL_FLOWS, VOICE, random_log_mel, tiny_flow, tiny_student, tiny_teacher, voiced_log_mel
from sounds import hum

from wavflow import Vocoder
from wavflow.evaluation import systems
from wavflow.evaluation.anchors import griffin_lim
from wavflow.evaluation.systems import Clip
from wavflow.reporting.intervals import Interval
from wavflow.vocoder import PASSES


def make_clips(model: Vocoder, frames: tuple[int, ...] = (9, 5, 7), std: float = 0.1) -> list[Clip]:
    """Noise on the grid of 16 bits plus dequantization, and its mel."""
    clips = []
    for i, n in enumerate(frames):
        audio = (std * torch.randn(1, n * model.hop_length)).clamp(-0.9, 0.9)
        audio = ((32768 * audio).round() + torch.rand_like(audio) - 0.5) / 32768
        clips.append(Clip(f"clip {i}", audio, model.mel(audio)))
    return clips


@pytest.mark.parametrize("density", ["gaussian", "mixture_of_logistics"])
def test_likelihoods_are_those_of_a_direct_calculation(density: str) -> None:
    teacher = tiny_teacher(density=density)
    clips = make_clips(teacher)
    (flac, whitening, row), curves = systems.likelihoods(clips, {"teacher": teacher})
    samples = sum(clip.audio.shape[-1] for clip in clips)
    total = sum(teacher.log_prob(clip.audio, clip.mel).sum().item() for clip in clips)
    nats = row["nats/sample"]
    assert row["likelihood of"] == "teacher"
    assert nats.mean == pytest.approx(total / samples)
    assert isinstance(nats, Interval)
    assert nats.n == 3
    assert nats.half_width > 0
    for clip in clips:
        assert torch.equal(curves[clip.name]["teacher"], teacher.log_prob(clip.audio, clip.mel)[0])
    assert row["bits/sample"].mean == pytest.approx((math.log(32768) - nats.mean) / math.log(2))

    # The whitening alone: u / s is standard normal, with the s that makes this likelihood greatest.
    pairs = [teacher.whiten(clip.audio, clip.mel) for clip in clips]
    u, log_det = (torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1))

    def likelihood(scale: float) -> float:
        return (torch.distributions.Normal(0.0, scale).log_prob(u) + log_det).mean().item()

    best = max(likelihood(math.exp(log_scale)) for log_scale in torch.linspace(-2.0, 4.0, 6001).tolist())
    assert whitening["nats/sample"].mean == pytest.approx(best, abs=1e-6)

    # White noise of a known level: FLAC can't be far from its entropy, and not below it.
    entropy = math.log2(0.1 * 32768) + 0.5 * math.log2(2 * math.pi * math.e)
    assert entropy - 0.5 < flac["bits/sample"] < entropy + 3.0
    assert flac["nats/sample"] == pytest.approx(math.log(32768) - flac["bits/sample"] * math.log(2))


def test_without_whitening_there_is_no_row_of_it() -> None:
    models = {"teacher": tiny_teacher(whitening=0), "student": tiny_student(whitening=0)}
    clips = make_clips(models["teacher"], (3,))
    rows, curves = systems.likelihoods(clips, models)
    assert [row["likelihood of"] for row in rows] == ["FLAC", "teacher"], "a student scores in T steps"
    assert list(curves["clip 0"]) == ["teacher"]
    assert math.isnan(rows[1]["nats/sample"].half_width), "one clip tells nothing of the others"
    assert systems.WHITENING not in systems.render(clips, models, jobs=1)


def test_a_whitening_with_pitch_is_also_shown_without_it() -> None:
    models = {"student": tiny_student(std=None, mel={})}  # of the field's mel, which resolves the pitch
    audio = 0.2 * hum(30 * 256, 22050)[None] + 0.001 * torch.randn(1, 30 * 256)
    clips = [Clip("hum", audio, models["student"].mel(audio))]
    rows, _ = systems.likelihoods(clips, models)
    drawn = systems.render(clips, models, jobs=1, passes=0)
    assert [row["likelihood of"] for row in rows] == ["FLAC", systems.ENVELOPE, systems.WHITENING]
    envelope, whole = (drawn[name].audio[0] for name in (systems.ENVELOPE, systems.WHITENING))
    assert not torch.equal(envelope, whole)
    torch.testing.assert_close(drawn["student"].audio[0], whole, rtol=0, atol=1e-5)  # untrained


def test_divergence_is_that_of_the_student_whatever_it_was_before() -> None:
    teacher, student = tiny_teacher(std=None), tiny_student(std=None)
    with torch.no_grad():  # its log-scale is 0.3, the teacher's 0
        for flow in student.flow.transform.transforms:
            flow.transform.conditioner.last.bias[1] = 0.15
    first = student.draw(random_log_mel(), torch.zeros(1, 48)).log_scale
    shift = first.mean().item()
    assert abs(shift) > 0.1, "or this test proves nothing"
    untrained, row = systems.divergences(make_clips(teacher, (400, 300)), teacher, {"student": student})
    assert untrained["KL"].mean == pytest.approx(0.0, abs=1e-10)
    exact = 0.5 * (math.exp(2 * shift) - 1.0) - shift
    assert row["KL"].mean == pytest.approx(exact, abs=0.03)
    assert row["KL"].mean == pytest.approx(row["cross-entropy"].mean - row["entropy"].mean)
    assert row["entropy"].mean == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + shift, abs=0.03)


@pytest.mark.parametrize("upsampling", ["linear", "smoothing"])
@pytest.mark.parametrize("center", [False, True])
def test_teacher_draws_clips_together_as_it_draws_each_alone(upsampling: str, center: bool) -> None:
    """But for the last frame of a shorter clip: alone, its *features* are held beyond the end; padded, its mel is, and the
    features of a held mel are not those of the last frame, which has another one before it.
    """
    mel = tiny_teacher().mel.spec | {"center": center}
    teacher = tiny_teacher(upsampling=upsampling, mel=mel)
    clips = make_clips(teacher)
    together = systems._sample_together(teacher, clips, temperature=0.7)
    for i, (clip, audio) in enumerate(zip(clips, together, strict=True)):
        noise = teacher.noise(clip.mel, torch.Generator().manual_seed(i))
        alone = teacher.sample(clip.mel, noise, 0.7, passes=0)[0]
        known = slice(None) if i == 0 else slice(-16)  # the first clip is the longest
        torch.testing.assert_close(audio[known], alone[known], rtol=0, atol=1e-10)
        assert len(audio) == len(alone)


def test_models_of_other_maps_and_twins_of_an_architecture() -> None:
    teacher, student, twin = tiny_teacher(), tiny_student(), tiny_student()
    models = {"teacher": teacher, "a": student, "b": twin, "other": tiny_student(whitening=4), "second teacher": tiny_teacher()}
    rows = systems.divergences(make_clips(teacher, (3, 2)), teacher, models)
    assert [row["divergence of"] for row in rows] == ["untrained a", "a", "b"]
    assert rows[1]["KL"] != rows[2]["KL"]


@pytest.mark.parametrize("name", PARALLEL_FLOWS)
def test_flows_are_rendered_scored_and_held_against_a_teacher(name: str) -> None:
    """Their own likelihood and noise give their KL another way: E[log q(x) - log p(x)] over the very same draws."""
    teacher, model = tiny_teacher(), tiny_flow(name)
    clips = make_clips(teacher, (8, 4))
    (*_, row), curves = systems.likelihoods(clips, {name: model})
    (*_, divergence) = systems.divergences(clips, teacher, {name: model})
    drawn = systems.render(clips, {name: model}, jobs=1, passes=0)[name]
    assert row["likelihood of"] == divergence["divergence of"] == name
    assert [len(curves[clip.name][name]) for clip in clips] == [128, 64]
    kl = []
    for i, (clip, audio) in enumerate(zip(clips, drawn.audio, strict=True)):
        noise = model.noise(clip.mel, torch.Generator().manual_seed(i))
        whole, log_prob = model.sample_and_log_prob(clip.mel, noise)
        torch.testing.assert_close(audio, whole[0].float(), rtol=0, atol=1e-6)
        kl.append((log_prob - teacher.log_prob(whole, clip.mel)).mean().item())
    assert divergence["KL"].mean == pytest.approx(sum(kl) / 2, abs=1e-6)
    assert sum(kl) / 2 > 0.01, "or this test proves nothing"


def test_systems_share_their_noise_and_keep_the_lengths() -> None:
    teacher, student = tiny_teacher(std=None), tiny_student(std=None)
    clips, seen = make_clips(teacher), []

    def progress(items: Any, name: str) -> Iterator[Any]:
        seen.append((name, len(items)))
        yield from items

    renderings = systems.render(clips, {"teacher": teacher, "student": student}, 0.5, jobs=1, progress=progress, passes=0)
    assert list(renderings) == ["recording", "Griffin-Lim", "WORLD", "random phase", "whitening alone", "teacher", "student"]
    for name, rendering in renderings.items():
        assert [audio.shape for audio in rendering.audio] == [clip.audio[0].shape for clip in clips], name
        assert math.isnan(rendering.speed) if name == "recording" else rendering.speed > 0
        assert {audio.dtype for audio in rendering.audio} == {torch.float32}
    for name in ("teacher", "student"):  # untrained, both are the whitening undone
        for audio, expected in zip(renderings[name].audio, renderings["whitening alone"].audio, strict=True):
            torch.testing.assert_close(audio, expected, rtol=0, atol=1e-5)
    for clip, audio, recording in zip(clips, renderings["Griffin-Lim"].audio, renderings["recording"].audio, strict=True):
        torch.testing.assert_close(audio, griffin_lim(clip.mel[0], teacher.mel).float(), rtol=0, atol=1e-6)
        torch.testing.assert_close(recording, clip.audio[0].float())
    first, second, _ = renderings["random phase"].audio
    assert not torch.equal(first[: len(second)], second)
    assert seen == [("anchors", 3), ("whitening alone", 3), ("student", 3)], "the teacher draws all at once"


def test_draws_as_they_are_and_equalized_pulses_stand_beside_what_is_heard() -> None:
    student = tiny_student(mel=VOICE, pulses=0.5)
    mel = voiced_log_mel(student.mel, 12)
    clips = [Clip("a", 0.1 * torch.randn(1, 12 * 64), mel)]
    made = systems.render(clips, {"student": student}, jobs=1)
    assert list(made)[-4:] == ["pulses alone", f"pulses alone, {PASSES} passes", "student, 0 passes", "student"]
    noise = student.noise(mel, torch.Generator().manual_seed(0))
    for name, passes in (("student", PASSES), ("student, 0 passes", 0)):
        torch.testing.assert_close(made[name].audio[0], student.sample(mel, noise, passes=passes)[0].float())
    pulses = made["pulses alone"].audio[0][None].to(mel)
    expected = student.equalizer(pulses, mel, PASSES)[0].float()
    torch.testing.assert_close(made[f"pulses alone, {PASSES} passes"].audio[0], expected, rtol=0, atol=1e-4)
    assert made["student"].speed <= made["student, 0 passes"].speed
