"""Comparing systems on held-out clips, and what synthesis costs."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import random_log_mel, randomised, tiny_student, tiny_teacher

import wavflow.models
from wavflow import Vocoder, save_model
from wavflow.evaluation import compare, resources
from wavflow.evaluation.compare import Clip, Rendering
from wavflow.evaluation.metrics import Interval


def make_clips(model: Vocoder, frames: tuple[int, ...] = (9, 5, 7), std: float = 0.1) -> list[Clip]:
    """Noise on the grid of 16 bits plus dequantisation, and its mel."""
    clips = []
    for i, n in enumerate(frames):
        audio = (std * torch.randn(1, n * model.hop_length)).clamp(-0.9, 0.9)
        audio = ((32768 * audio).round() + torch.rand_like(audio) - 0.5) / 32768
        clips.append(Clip(f"clip {i}", audio, model.mel(audio)))
    return clips


def test_identical_audio_is_perfect_in_every_figure() -> None:
    teacher = tiny_teacher()
    clips = make_clips(teacher, (60, 40))
    same = Rendering([clip.audio[0] for clip in clips], 2.0)
    louder = Rendering([2.0 * clip.audio[0] for clip in clips], math.nan)

    rows = compare.judge(clips, {"same": same, "louder": louder}, teacher, voicing=False)
    perfect, loud = rows[:2], rows[2:]

    for row, clip in zip(perfect, clips, strict=True):
        assert (row["clip"], row["system"]) == (clip.name, "same")
        assert row["RMS ratio"] == pytest.approx(1.0)
        assert all(abs(row[name]) < 1e-6 for name in ("level dB", "M-STFT", "LSD dB", "mel L1")), row
    for row in loud:
        assert row["level dB"] == pytest.approx(20 * math.log10(2.0))
        assert all(row[name] > 0.1 for name in ("M-STFT", "LSD dB", "mel L1")), row


def test_voicing_is_judged_unless_it_is_left_out() -> None:
    teacher = tiny_teacher()
    t = torch.arange(4000) / 8000
    audio = 0.1 * sum(torch.sin(2 * math.pi * 150 * k * t) / k for k in range(1, 9))[None]
    clip = Clip("buzz", audio, teacher.mel(audio))
    rendering = {"same": Rendering([audio[0]], 1.0)}

    assert "voicing F1" not in compare.judge([clip], rendering, teacher, voicing=False)[0]
    assert compare.judge([clip], rendering, teacher)[0]["voicing F1"] == 1.0


def test_summary_is_the_mean_over_clips_with_the_speed() -> None:
    rows = [{"clip": str(i), "system": "a", "x": float(i)} for i in range(3)] + [{"clip": "0", "system": "b", "x": 7.0}]
    first, second = compare.summarise(rows, {"a": Rendering([], 5.0), "b": Rendering([], 6.0)})

    assert (first["system"], first["x"].mean, first["x"].n, first["x real time"]) == ("a", 1.0, 3, 5.0)
    assert first["x"].half_width == pytest.approx(4.302653 / math.sqrt(3))  # Student's t of two degrees of freedom
    assert second["x"].mean == 7.0


@pytest.mark.parametrize("density", ["gaussian", "mixture_of_logistics"])
def test_likelihoods_are_those_of_a_direct_calculation(density: str) -> None:
    teacher = tiny_teacher(density=density)
    clips = make_clips(teacher)

    flac, whitening, row = compare.likelihoods(clips, teacher)

    samples = sum(clip.audio.shape[-1] for clip in clips)
    total = sum(teacher.log_prob(clip.audio, clip.mel).sum().item() for clip in clips)
    nats = row["nats/sample"]
    assert row["likelihood of"] == "teacher"
    assert nats.mean == pytest.approx(total / samples)
    assert nats.n == 3
    assert nats.half_width > 0
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
    teacher, student = tiny_teacher(whitening=0), tiny_student(whitening=0)
    clips = make_clips(teacher, (3,))

    assert [row["likelihood of"] for row in compare.likelihoods(clips, teacher)] == ["FLAC", "teacher"]
    assert compare.WHITENING not in compare.render(clips, teacher, student)


def test_untrained_pairs_do_not_diverge() -> None:
    teacher, student = tiny_teacher(std=None), tiny_student(std=None)
    untrained, trained = compare.divergences(make_clips(teacher), teacher, student)

    for row in (untrained, trained):
        assert row["KL"].mean == pytest.approx(0.0, abs=1e-10)
        assert row["KL"].n == 3
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert untrained["cross-entropy"].mean == pytest.approx(entropy, abs=0.2)


def test_divergence_is_that_of_the_student_whatever_it_was_before() -> None:
    teacher, student = tiny_teacher(std=None), tiny_student(std=None)
    with torch.no_grad():  # its log-scale is 0.3, the teacher's 0
        for flow in student.flow.transform.transforms:
            flow.transform.conditioner.last.bias[1] = 0.15
    first = student.draw(random_log_mel(), torch.zeros(1, 48)).log_scale
    shift = first.mean().item()
    assert abs(shift) > 0.1, "or this test proves nothing"

    untrained, row = compare.divergences(make_clips(teacher, (400, 300)), teacher, student)

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

    together = compare._draw_together(teacher, clips, temperature=0.7)

    for i, (clip, audio) in enumerate(zip(clips, together, strict=True)):
        noise = teacher.noise(clip.mel, torch.Generator().manual_seed(i))
        alone = teacher.sample(clip.mel, noise, 0.7)[0]
        known = slice(None) if i == 0 else slice(-16)  # the first clip is the longest
        torch.testing.assert_close(audio[known], alone[known], rtol=0, atol=1e-10)
        assert len(audio) == len(alone)


def test_systems_share_their_noise_and_keep_the_lengths() -> None:
    teacher, student = tiny_teacher(std=None), tiny_student(std=None)
    clips = make_clips(teacher)

    renderings = compare.render(clips, teacher, student, temperature=0.5)

    assert list(renderings) == ["recording", "Griffin-Lim", "whitening alone", "teacher", "student"]
    for name, rendering in renderings.items():
        assert [audio.shape for audio in rendering.audio] == [clip.audio[0].shape for clip in clips], name
        assert math.isnan(rendering.speed) if name == "recording" else rendering.speed > 0
    for name in ("teacher", "student"):  # untrained, both are the whitening undone
        for audio, expected in zip(renderings[name].audio, renderings["whitening alone"].audio, strict=True):
            torch.testing.assert_close(audio, expected, rtol=0, atol=1e-5)
    assert compare.render(clips, None, student).keys() == renderings.keys() - {"teacher"}
    assert compare.render(clips, teacher, None).keys() == renderings.keys() - {"student"}


@pytest.mark.parametrize("upsampling", ["linear", "smoothing"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(
    "net",
    [
        {"layers": 1, "kernel_size": 2, "flows": 1},
        {"layers": 4, "kernel_size": 2, "flows": 3, "dilation_cycle": 4},
        {"layers": 6, "kernel_size": 3, "flows": 2, "dilation_cycle": 5},
    ],
    ids=["2 samples", "46 samples", "131 samples"],
)
def test_student_in_segments_is_the_student_in_one_pass(net: dict, center: bool, upsampling: str) -> None:
    mel = tiny_student().mel.spec | {"center": center}
    student = tiny_student(std=0.2, upsampling=upsampling, mel=mel, **net)
    log_mel = random_log_mel(23, batch=2)
    noise = student.noise(log_mel)

    audio = student.sample_and_log_prob(log_mel, noise, temperature=0.8)[0]

    for segment_frames in (1, 4, 10, 22):
        pieces = student.sample(log_mel, noise, 0.8, segment_frames=segment_frames)
        torch.testing.assert_close(pieces, audio, rtol=0, atol=1e-10)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    save_model(tiny_student(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_costs_are_measured_in_processes_of_their_own(model_file: Path) -> None:
    (row,) = resources.synthesis_costs(model_file, [0.1])

    assert row["seconds of audio"] == pytest.approx(0.1)
    assert row["x real time"] > 0
    assert row["MiB above idle"] >= 0
    assert 50 < row["MiB in all"] < 4000


def test_a_process_that_fails_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"measuring 0\.1 s of .*gone\.safetensors failed: .*there is no model file"):
        resources.synthesis_costs(tmp_path / "gone.safetensors", [0.1])


def test_costs_come_in_the_order_asked_for(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        seconds = float(command[-2])
        return subprocess.CompletedProcess(command, 0, "loading\n" + json.dumps({"seconds of audio": seconds}), "")

    monkeypatch.setattr(subprocess, "run", run)
    assert resources.synthesis_costs(model_file, [3, 1.5]) == [{"seconds of audio": 3}, {"seconds of audio": 1.5}]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is counted otherwise elsewhere")
def test_a_minute_is_synthesized_within_two_gibibytes(tmp_path: Path, small_student: Callable[[], Vocoder]) -> None:
    torch.set_default_dtype(torch.float32)
    save_model(small_student(), tmp_path / "model.safetensors")

    short, long = resources.synthesis_costs(tmp_path / "model.safetensors", [12, 60])

    assert long["seconds of audio"] == pytest.approx(60, abs=0.1)
    assert long["MiB in all"] < 2048
    assert 20 < long["MiB above idle"] < 6 * short["MiB above idle"], "memory must grow no faster than the length"


@pytest.fixture
def small_student() -> Callable[[], Vocoder]:
    """The student of the demo, as conf/net/student_small.yaml says, with the field's mel."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("wavflow.conf", version_base="1.3"):
        cfg = compose("train", ["stage=student", "net=student_small", "audio=22k", "output=out"])
    return lambda: randomised(wavflow.models.build(OmegaConf.to_container(cfg.net, resolve=True)), 0.01)


def test_intervals_are_kept_apart_from_figures() -> None:
    teacher = tiny_teacher()
    row = compare.likelihoods(make_clips(teacher, (4,)), teacher)[-1]
    assert isinstance(row["nats/sample"], Interval)
    assert math.isnan(row["nats/sample"].half_width), "one clip tells nothing of the others"
