"""Figures and anchors against independent calculations, and the report folder."""

import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import librosa
import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from torch import Tensor

from wavflow.evaluation import (
    Interval,
    bits_per_sample,
    curves_picture,
    flac_bits,
    griffin_lim,
    level_db,
    log_spectral_distance,
    markdown_table,
    mean_interval,
    mel_l1,
    random_phase,
    rms_ratio,
    spectrogram_picture,
    voicing_f1,
    write_report,
)
from wavflow.evaluation.pictures import _level, _read_curves
from wavflow.files import aside
from wavflow.mel import MelSpectrogram


def noise(length: int = 8000, level: float = 0.1) -> Tensor:
    return level * torch.randn(length).clamp(-4, 4)


def hum(length: int, sample_rate: int, pitch: float = 130.0) -> Tensor:
    """A buzz with ten falling harmonics: what pYIN calls voiced."""
    phase = 2 * math.pi * pitch * torch.arange(length) / sample_rate
    return sum(0.3 / k * torch.sin(k * phase) for k in range(1, 11))


# Figures --------------------------------------------------------------------------------------------------------------


def test_bits_of_a_uniform_density_are_the_bits_of_the_grid() -> None:
    assert bits_per_sample(-math.log(2)) == pytest.approx(16)  # density 1/2 on [-1, 1): 2^16 equally likely values
    torch.testing.assert_close(bits_per_sample(torch.tensor([4.31, 5.101])), torch.tensor([8.782, 7.641]), atol=5e-4, rtol=0)


def test_flac_bits_is_the_frames_of_the_best_file() -> None:
    audio = (noise(20000) * 32768).round().to(torch.int16)
    lengths = []
    for level in (0.0, 1.0):
        soundfile.write(file := io.BytesIO(), audio.numpy(), 22050, "PCM_16", format="FLAC", compression_level=level)
        lengths.append(8 * len(file.getvalue()) / len(audio))

    bits = flac_bits(audio, 22050)

    assert bits < lengths[1] <= lengths[0]
    assert 8 * 42 / len(audio) <= lengths[1] - bits <= 8 * 200 / len(audio), "42 bytes of header at the least"
    entropy = 0.5 * math.log2(2 * math.pi * math.e * (0.1 * 32768) ** 2)
    assert entropy - 0.02 < bits < entropy + 0.2


def test_flac_bits_sees_through_dequantisation() -> None:
    audio = (noise() * 32768).round().to(torch.int16)
    on_grid = audio / 32768
    dequantised = on_grid + (torch.rand(len(audio)) - 0.5) / 32768

    assert flac_bits(audio, 16000) == flac_bits(on_grid, 16000) == flac_bits(dequantised.numpy(), 16000)
    assert flac_bits(torch.tensor([-1.0, 1.0]), 16000) > 0  # both ends of the grid, and a clip of two samples


def test_level() -> None:
    audio, silence = noise(), torch.zeros(10)

    assert level_db(10 ** (1 / 20) * audio, audio.numpy()) == pytest.approx(1)
    assert rms_ratio(0.5 * audio[:1], audio[:1]) == pytest.approx(0.5)
    assert level_db(silence, audio) == -math.inf
    assert math.isnan(level_db(audio, silence))
    assert math.isnan(level_db(silence, silence))


def test_log_spectral_distance_agrees_with_librosa() -> None:
    generated, reference = noise(), 0.3 * noise()
    reference[3000:5000] = 0  # meets the floor

    def level(audio: Tensor) -> np.ndarray:
        spectrum = librosa.stft(audio.numpy(), n_fft=1024, hop_length=256, pad_mode="constant")
        return np.maximum(20 * np.log10(np.maximum(np.abs(spectrum) / 256, 1e-99)), -100)  # a full-scale sine gives 256

    expected = np.sqrt(((level(generated) - level(reference)) ** 2).mean(axis=0)).mean()
    assert log_spectral_distance(generated, reference) == pytest.approx(expected, rel=1e-10)


def test_log_spectral_distance_of_known_changes() -> None:
    audio = noise()

    assert log_spectral_distance(audio, audio.clone()) == 0
    assert log_spectral_distance(2 * audio, audio) == pytest.approx(20 * math.log10(2), rel=1e-6)
    assert log_spectral_distance(1e-6 * audio, torch.zeros_like(audio)) == 0, "both below the floor"


def test_mel_l1_of_known_changes() -> None:
    audio, mel = noise(), MelSpectrogram()

    assert mel_l1(audio, audio.clone(), mel) == 0
    assert mel_l1(math.e * audio, audio, mel) == pytest.approx(1, abs=1e-4)
    assert 0.05 < mel_l1(audio.roll(64), audio, mel) < 1


@pytest.mark.parametrize("sample_rate", [16000, 22050, 48000])
def test_voicing_f1(sample_rate: int) -> None:
    half = sample_rate // 2
    voiced = torch.cat([hum(half, sample_rate), noise(half)])
    whisper = noise(2 * half)

    assert voicing_f1(voiced, voiced.numpy()[:-100], sample_rate) == pytest.approx(1, abs=0.05)
    assert voicing_f1(hum(2 * half, sample_rate), voiced, sample_rate) == pytest.approx(2 / 3, abs=0.07)
    assert voicing_f1(whisper, voiced, sample_rate) < 0.2
    assert math.isnan(voicing_f1(torch.zeros(half), torch.zeros(half), sample_rate))


def test_mean_interval() -> None:
    interval = mean_interval([1.0, math.nan, torch.tensor(2.0), -math.inf, 3.0])

    assert interval == (2.0, pytest.approx(4.302653 / math.sqrt(3), rel=1e-6), 3)  # t of 2 degrees of freedom: a table
    assert mean_interval([5])[::2] == (5.0, 1)
    assert math.isnan(mean_interval([5]).half_width)
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([math.nan]).n == 0


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(1, 9), r"must be one clip \(T,\).*\(1, 9\)"),
        (torch.zeros(0), "T >= 1"),
        (torch.zeros(9, dtype=torch.int32), "divide 16-bit integers by 32768"),
        (torch.tensor([0.0, math.nan]), "must be finite"),
    ],
)
@pytest.mark.parametrize("figure", [level_db, log_spectral_distance, flac_bits, voicing_f1])
def test_unfit_clips_are_refused(figure: object, audio: Tensor, message: str) -> None:
    arguments = {flac_bits: (audio, 16000), voicing_f1: (audio, noise(10), 16000)}.get(figure, (audio, noise(10)))
    with pytest.raises(ValueError, match=message):
        figure(*arguments)


def test_unequal_lengths_and_overloads_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long, got 3000 and 2999 samples"):
        log_spectral_distance(noise(3000), noise(2999))
    with pytest.raises(ValueError, match="equally long"):
        mel_l1(noise(3000), noise(2999), MelSpectrogram())
    with pytest.raises(ValueError, match=r"peak of 1\.5: scale it down"):
        flac_bits(torch.tensor([1.5]), 16000)


# Anchors --------------------------------------------------------------------------------------------------------------


def bursts() -> Tensor:
    """Noise that starts and stops, 40 frames of 256: it shows where things are in time."""
    audio = torch.zeros(40 * 256)
    for start in (700, 2900, 5100, 8300):
        audio[start : start + 400] = noise(400, level=0.2)
    return audio


def lag(generated: Tensor, reference: Tensor, reach: int = 600) -> int:
    """Samples by which the envelope of `generated` comes late, from the peak of the cross-correlation."""
    signals = torch.stack([generated, reference]).square().unsqueeze(1)
    envelope = torch.nn.functional.avg_pool1d(signals, 129, stride=1, padding=64)[:, 0]
    envelope = envelope - envelope.mean(dim=1, keepdim=True)
    late = [(envelope[0].roll(-shift) * envelope[1]).sum() for shift in range(-reach, reach + 1)]
    return int(torch.stack(late).argmax()) - reach


@pytest.mark.parametrize("anchor", [griffin_lim, random_phase])
@pytest.mark.parametrize("settings", [{}, {"center": True}, {"n_fft": 512, "win_length": 400, "hop_length": 100}])
def test_anchors_have_the_right_length_and_no_lag(anchor: object, settings: dict) -> None:
    audio = bursts()
    module = MelSpectrogram(**{"n_mels": 40, **settings})
    mel = module(audio[None])[0]

    generated = anchor(mel, module)

    assert lag(audio.roll(128), audio) == 128, "half a hop of misplaced frames would show"
    assert generated.shape == (mel.shape[1] * module.hop_length,)
    assert abs(lag(generated, audio[: len(generated)])) <= 40


def test_griffin_lim_keeps_the_mel_and_random_phase_less_so() -> None:
    module = MelSpectrogram()
    audio = noise(30 * 256) + hum(30 * 256, 22050)
    mel = module(audio[None])[0].float()

    sought, drawn = griffin_lim(mel, module), random_phase(mel, module)

    assert sought.dtype == drawn.dtype == torch.float32
    assert mel_l1(sought, audio, module) < 0.25 < mel_l1(drawn, audio, module) < 1
    assert abs(level_db(sought, audio)) < 1.5


def test_anchors_can_be_repeated() -> None:
    module = MelSpectrogram(n_mels=20)
    mel = torch.randn(20, 6) - 4
    first, again, other = (random_phase(mel, module, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))

    assert (griffin_lim(mel, module, iterations=2) == griffin_lim(mel, module, iterations=2)).all()
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("anchor", [griffin_lim, random_phase])
def test_anchors_refuse_a_foreign_mel(anchor: object) -> None:
    with pytest.raises(ValueError, match="`mel` must be"):
        anchor(torch.zeros(79, 5), MelSpectrogram())


# Report ---------------------------------------------------------------------------------------------------------------


def test_level_of_a_full_scale_sine_is_zero_db() -> None:
    sine = torch.sin(2 * math.pi * 64 / 1024 * torch.arange(8000))
    middle = _level("sine", sine, 8000.0)[:, 20:-20]

    assert (middle.argmax(axis=0) == 64).all()
    np.testing.assert_allclose(middle.max(axis=0), 0, atol=0.01)


def test_spectrogram_picture(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "clip.png"
    signals = {"recording": noise(9000).float(), "shorter": noise(5000).numpy(), "silence": torch.zeros(300)}

    spectrogram_picture(path, signals, 16000, "a title that is no formula: $\\frac$")

    picture = imread(path)
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.1
    assert [file.name for file in path.parent.iterdir()] == ["clip.png"], "nothing half-written beside it"


def test_spectrogram_picture_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`signals` must hold at least one"):
        spectrogram_picture(tmp_path / "clip.png", {}, 16000)
    with pytest.raises(ValueError, match="'stereo' must be one clip"):
        spectrogram_picture(tmp_path / "clip.png", {"stereo": torch.zeros(2, 900)}, 16000)
    assert not list(tmp_path.iterdir())


METRICS = """epoch,step,lr-Adam,train/loss_step,validation/loss,train/kl,validation/kl
0,0,,3.5,,0.5,
0,1,0.001,,,,
0,9,,2.5,,nan,
0,9,,,2.75,,
1,19,,1.5,,,
"""


def test_curves_are_read_from_sparse_columns(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    curves = _read_curves(tmp_path / "metrics.csv")

    assert list(curves) == ["loss", "kl"]
    assert list(curves["kl"]) == ["train"], "an empty column draws nothing, and nan is no point"
    np.testing.assert_array_equal(curves["loss"]["train"], [[0, 3.5], [9, 2.5], [19, 1.5]])
    np.testing.assert_array_equal(curves["loss"]["validation"], [[9, 2.75]])


def test_curves_picture(tmp_path: Path) -> None:
    (tmp_path / "teacher.csv").write_text(METRICS)
    rows = "\n".join(f"{step},{100 / (1 + step) + step % 3}" for step in range(200))
    (tmp_path / "student.csv").write_text("step,train/loss\n" + rows + "\n")
    (tmp_path / "empty.csv").write_text("")
    runs = {name: tmp_path / f"{name}.csv" for name in ("teacher", "student", "empty")}

    curves_picture(tmp_path / "curves.png", runs)

    assert imread(tmp_path / "curves.png").shape[:2] > (600, 800), "two rows of two"
    with pytest.raises(ValueError, match=r"columns train/... or validation/..., got none in .*empty.csv"):
        curves_picture(tmp_path / "none.png", {"empty": runs["empty"]})
    with pytest.raises(FileNotFoundError, match=r"absent.csv, which is not there"):
        curves_picture(tmp_path / "none.png", {"absent": tmp_path / "absent.csv"})
    assert not (tmp_path / "none.png").exists()


def test_markdown_table() -> None:
    rows = [
        {"system": "teacher | EMA", "bits": 8.25, "level": torch.tensor(-0.0321), "F1": Interval(0.95678, 0.0123, 5)},
        {"system": "student", "bits": math.nan, "F1": Interval(0.5, math.nan, 1), "clips": 1234, "speed": 133.42},
        {"system": "tiny", "bits": 1e-5, "level": None, "F1": Interval(math.nan, math.nan, 0), "clips": np.int64(0)},
    ]

    assert markdown_table(rows).splitlines() == [
        "| system | bits | level | F1 | clips | speed |",
        "|---|---:|---:|---:|---:|---:|",
        "| teacher \\| EMA | 8.250 | -0.0321 | 0.957 ± 0.012 | – | – |",
        "| student | – | – | 0.500 | 1234 | 133.4 |",
        "| tiny | 1.00e-05 | – | – | 0 | – |",
    ]
    assert markdown_table([]) == ""
    assert markdown_table([{"ok": np.bool_(True)}]) == "| ok |\n|---|\n| yes |\n"
    assert markdown_table(rows[:1], ["bits"]) == "| bits |\n|---:|\n| 8.250 |\n"


class Page(HTMLParser):
    """Collects the links of a page and checks that its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.links, self.text, self.tags = [], [], "", []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report(tmp_path: Path) -> None:
    for name in ("a b.wav", "curves.png", "clip#1.png"):
        (tmp_path / name).write_bytes(b"x")

    write_report(
        tmp_path,
        "Teacher <script> & $student",
        summary=[{"system": "recording", "KL": math.nan}, {"system": "student", "KL": Interval(0.13, 0.02, 4)}],
        clips=[{"clip": "<b>", "level dB": np.float32(0.5)}],
        pictures={"Loss curves": tmp_path / "curves.png", "clip 1": "clip#1.png"},
        wavs={"clip 1": {"the student": tmp_path / "a b.wav"}},
        notes=["95 % intervals & so on"],
    )

    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.tags.count("audio") == 1
    assert page.tags.count("img") == 2
    assert "script" not in page.tags
    assert "b" not in page.tags
    for text in ("Teacher <script> & $student", "0.130 ± 0.020", "95 % intervals & so on", "<b>"):
        assert text in page.text
    assert sorted({unquote(link) for link in page.links}) == ["a b.wav", "clip#1.png", "curves.png"]
    assert all((tmp_path / unquote(link)).is_file() for link in page.links)
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["summary"] == [
        {"system": "recording", "KL": None},
        {"system": "student", "KL": {"mean": 0.13, "half_width": 0.02, "n": 4}},
    ]
    assert figures["clips"] == [{"clip": "<b>", "level dB": 0.5}]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "![clip 1](clip%231.png)" in text
    assert "[the student](a%20b.wav)" in text


def test_report_refuses_files_that_would_not_travel_with_it(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"x")
    folder = tmp_path / "report"
    for path in (tmp_path / "outside.png", "absent.png"):
        with pytest.raises(ValueError, match=r"must lie inside .*report, got"):
            write_report(folder, "title", summary=[], pictures={"picture": path})
    assert not folder.exists()


def test_failed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("old")

    def fail() -> None:
        with aside(tmp_path / "report.md") as part:
            part.write_text("half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.md", "old")]
