"""Audio files and mel spectrograms, against librosa where it has an opinion, and all that can be wrong with them."""

import io
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile as sf
import torch
import torchaudio.functional as F
from helpers import PRESETS, preset, refused
from torch import Tensor

from wavflow.audio import audio_length, check_audio, read_audio, read_segment
from wavflow.mel import MelSpectrogram
from wavflow.writing import encode_audio, write_audio


def colored_noise(samples: int, channels: int = 1) -> np.ndarray:
    """Noise (samples, channels) of speech-like level, most of it low, none beyond full scale."""
    white = np.random.default_rng(samples).standard_normal((samples, channels))
    return np.stack([np.convolve(c, np.hanning(9) / 4.0, mode="same") for c in white.T], axis=1) * 0.1


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "FLOAT", 1e-7),
        ("a.flac", "PCM_16", 2**-15),
        ("a.ogg", "VORBIS", 0.1),
        ("a.mp3", "MPEG_LAYER_III", 0.1),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_read_audio_takes_any_sample_format_and_mixes_down(
    tmp_path: Path, name: str, subtype: str, tolerance: float, channels: int
) -> None:
    if subtype == "MPEG_LAYER_III" and channels == 8:
        channels = 2  # an MP3 has no more
    audio = colored_noise(4000, channels)
    sf.write(tmp_path / name, audio, 16000, subtype=subtype)
    read, rate = read_audio(tmp_path / name)
    assert rate == 16000
    assert read.dtype == torch.float32
    assert audio_length(tmp_path / name) == len(read) == 4000
    np.testing.assert_allclose(read, audio.mean(axis=1), atol=tolerance)


def test_resampling_keeps_a_tone_and_removes_what_would_alias(tmp_path: Path) -> None:
    t = np.arange(48000) / 48000
    sf.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * t) + 0.4 * np.sin(2 * np.pi * 13000 * t), 48000)
    audio, rate = read_audio(tmp_path / "a.wav", 22050)
    assert (rate, len(audio), audio_length(tmp_path / "a.wav", 22050)) == (22050, 22050, 22050)
    expected = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(22050) / 22050)
    inner = slice(200, -200)  # the filter reaches over the edges
    torch.testing.assert_close(audio[inner].double(), expected[inner], atol=1e-4, rtol=0)  # 16-bit steps are 3e-5


@pytest.mark.parametrize("target", [None, 22050, 24000, 44100])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_segment_is_part_of_the_whole(tmp_path: Path, ending: str, target: int | None) -> None:
    path = tmp_path / f"a.{ending}"
    sf.write(path, colored_noise(44100, 2), 44100 if target == 22050 else 22050)
    whole, _ = read_audio(path, target)
    total = len(whole)
    for start, length in [(0, 700), (1, 700), (9999, 1234), (total - 700, 700), (total - 100, 700), (-300, 700)]:
        segment = read_segment(path, start, length, target)
        expected = torch.nn.functional.pad(whole, (700, 700))[start + 700 : start + 700 + length]
        torch.testing.assert_close(segment, expected, atol=1e-6, rtol=0)
    assert read_segment(path, total, 10, target).eq(0).all()
    assert read_segment(path, -20, 10, target).eq(0).all()


@pytest.mark.parametrize("ending", ["ogg", "mp3"])
def test_segments_of_a_long_lossy_file_do_not_trust_its_seeking(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    rng = np.random.default_rng(1)
    loudness = np.repeat(rng.uniform(0.0, 1.0, 280) ** 3, 1600)  # bursts make the encoders switch their windows
    sf.write(path, loudness * colored_noise(len(loudness))[:, 0], 22050)
    whole, _ = read_audio(path)
    in_one_go, _ = sf.read(path, dtype="float32")
    np.testing.assert_array_equal(whole, in_one_go)
    for start in rng.integers(270_000, len(whole) - 500, 150).tolist():  # beyond MP3's run-up; some 10 bare seeks err
        torch.testing.assert_close(read_segment(path, start, 500), whole[start : start + 500], atol=1e-6, rtol=0)


def test_segment_reads_no_more_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sf.write(tmp_path / "a.flac", colored_noise(200_000), 48000)
    asked, read = [], sf.SoundFile.read
    monkeypatch.setattr(sf.SoundFile, "read", lambda self, n, **kw: asked.append(n) or read(self, n, **kw))
    read_segment(tmp_path / "a.flac", 50_000, 1000, 22050)
    assert 1000 * 48 / 22 < sum(asked) < 4000


def test_rates_without_a_common_divisor_cost_no_memory(tmp_path: Path) -> None:
    t = np.arange(20_000) / 44100
    sf.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), 44100)
    audio, rate = read_audio(tmp_path / "a.wav", 22051)
    assert rate == 22051
    expected = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(len(audio)) / 22050)  # 0.08 cents too low
    torch.testing.assert_close(audio[200:-200].double(), expected[200:-200], atol=1e-4, rtol=0)
    torch.testing.assert_close(read_segment(tmp_path / "a.wav", 5000, 100, 22051), audio[5000:5100], atol=1e-6, rtol=0)


@pytest.mark.parametrize("source", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000])
def test_length_at_usual_rates_is_exact(tmp_path: Path, source: int) -> None:
    sf.write(tmp_path / "a.wav", np.zeros(30_011), source)
    for target in (16000, 22050, 24000, 44100, 48000):
        assert audio_length(tmp_path / "a.wav", target) == -(-30_011 * target // source), target


def test_overs_and_silence_are_read_as_they_are(tmp_path: Path) -> None:
    sf.write(tmp_path / "over.wav", np.linspace(-1.5, 1.5, 100), 16000, subtype="FLOAT")
    sf.write(tmp_path / "clipped.wav", np.sign(colored_noise(500)), 16000)
    sf.write(tmp_path / "silent.wav", np.zeros(100), 16000)
    over, clipped, silent = (read_audio(tmp_path / f"{name}.wav")[0] for name in ("over", "clipped", "silent"))
    assert (over.min(), over.max()) == (-1.0, 1.0)
    assert ((over > -1) & (over < 1)).sum() == 66, "only what lies beyond full scale is clipped"
    assert clipped.abs().min() > 0.999
    assert silent.eq(0).all()


def broken_files(folder: Path) -> dict[str, str]:
    """Files that can't be used, and what the message about each must say."""
    noise = colored_noise(40_000)
    for ending in ("wav", "flac", "ogg", "mp3"):
        sf.write(folder / f"whole.{ending}", noise, 16000)
        whole = (folder / f"whole.{ending}").read_bytes()
        (folder / f"truncated.{ending}").write_bytes(whole[: len(whole) // 2])
        (folder / f"stub.{ending}").write_bytes(whole[:20])
        (folder / f"whole.{ending}").unlink()
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("This is no audio.\n" * 100)
    (folder / "headerless.raw").write_bytes(noise.tobytes())
    sf.write(folder / "no_samples.wav", np.zeros(0), 16000)
    noise[777] = np.nan
    sf.write(folder / "nan.wav", noise, 16000, subtype="FLOAT")
    noise[777] = np.inf
    sf.write(folder / "inf.wav", noise, 16000, subtype="DOUBLE")
    sf.write(folder / "integers.wav", np.arange(-5000.0, 5000.0), 16000, subtype="FLOAT")
    (folder / "folder.wav").mkdir()
    return {
        **{f"truncated.{ending}": "truncated|holds no samples" for ending in ("wav", "flac", "ogg", "mp3")},
        **{f"stub.{ending}": "decoded|truncated" for ending in ("wav", "flac", "ogg", "mp3")},
        "empty.wav": "empty",
        "text.wav": "decoded",
        "headerless.raw": "decoded",
        "no_samples.wav": "no samples",
        "nan.wav": "NaN",
        "inf.wav": "inf",
        "integers.wav": "has a peak of 5000",
        "folder.wav": "folder",
    }


def test_unusable_files_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    for name, finding in broken_files(tmp_path).items():
        for reader in (read_audio, check_audio):
            with pytest.raises(ValueError, match=finding) as caught:
                reader(tmp_path / name)
            assert re.fullmatch(rf"`path` must name .*{re.escape(name)}.*: .+\.", str(caught.value)), "one line, a way out"


def test_damage_in_the_middle_is_found_when_it_is_read(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", colored_noise(40_000), 16000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    (tmp_path / "a.flac").write_bytes(content)
    refused(lambda: read_audio(tmp_path / "a.flac"), r"a\.flac is damaged")


def test_float_files_are_checked_to_their_end_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavflow.audio._CHUNK", 1000)
    sound, read = np.zeros(3500), []
    original = sf.SoundFile.read
    monkeypatch.setattr(sf.SoundFile, "read", lambda file, n, **options: read.append(n) or original(file, n, **options))
    sf.write(tmp_path / "good.wav", sound, 8000, "FLOAT")
    check_audio(tmp_path / "good.wav")
    assert read == [1000, 1000, 1000, 500]
    for place in (0, 1700, 3499):
        damaged = sound.copy()
        damaged[place] = np.nan
        sf.write(tmp_path / "bad.wav", damaged, 8000, "FLOAT")
        refused(lambda: check_audio(tmp_path / "bad.wav"), "holds NaN or inf")


def test_missing_file_and_impossible_requests(tmp_path: Path) -> None:
    refused(lambda: read_audio(tmp_path / "none.wav"), r"there is no .*none\.wav: check the name", FileNotFoundError)
    sf.write(tmp_path / "a.wav", colored_noise(100), 16000)
    refused(lambda: read_audio(tmp_path / "a.wav", 0), "`sample_rate` must be at least 100")
    refused(lambda: read_segment(tmp_path / "a.wav", 0, -1), "`length` must be at least 0")


@pytest.mark.parametrize(
    ("ending", "subtype", "bits"),
    [("wav", None, 16), ("wav", "PCM_24", 24), ("wav", "PCM_32", 32), ("flac", None, 16), ("flac", "PCM_24", 24)],
)
def test_written_audio_is_clipped_and_rounded_to_the_nearest_step(
    tmp_path: Path, ending: str, subtype: str | None, bits: int
) -> None:
    step = 2.0 ** (1 - bits)
    audio = torch.tensor([-2.0, -1.0, -2.6 * step, -0.4 * step, 0.0, 0.6 * step, 2.4 * step, 1.0 - step, 1.0, 7.0])
    write_audio(tmp_path / f"a.{ending}", audio, 22050, subtype)
    written, rate = sf.read(tmp_path / f"a.{ending}", dtype="float64")
    expected = np.array([-1 / step, -1 / step, -3, 0, 0, 1, 2, 1 / step - 1, 1 / step - 1, 1 / step - 1])
    np.testing.assert_array_equal(written / step, expected)
    assert rate == 22050
    assert sf.info(tmp_path / f"a.{ending}").subtype == f"PCM_{bits}"
    assert os.listdir(tmp_path) == [f"a.{ending}"]


@pytest.mark.parametrize(("name", "tolerance"), [("a.wav", 2**-16), ("a.flac", 2**-16), ("a.ogg", 0.1), ("a.mp3", 0.1)])
def test_what_is_written_can_be_read(tmp_path: Path, name: str, tolerance: float) -> None:
    audio = torch.from_numpy(colored_noise(5000)[:, 0]).float()
    write_audio(tmp_path / name, audio, 16000)
    torch.testing.assert_close(read_audio(tmp_path / name)[0], audio, atol=tolerance * 1.001, rtol=0)


def test_float_files_stay_in_range(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", torch.tensor([-3.0, 0.123456789, 3.0]), 8000, "FLOAT")
    written, _ = sf.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_allclose(written, [-1.0, 0.123456789, 1.0 - 2**-15], rtol=1e-7)


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = torch.zeros(100)
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    for path in (tmp_path / "file" / "a.wav", tmp_path / "folder.wav"):
        refused(partial(write_audio, path, audio, 16000), r"`path` must be writable, got .*: choose another place", OSError)
    write_audio(tmp_path / "old.wav", audio, 16000)

    def disk_full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    refused(lambda: write_audio(tmp_path / "old.wav", torch.ones(50), 16000), "No space left", OSError)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.wav", "old.wav"]
    assert len(read_audio(tmp_path / "old.wav")[0]) == 100, "what was there is still there"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.txt"}, r"`path` must end in \.wav"),
        ({"audio": torch.zeros(1, 10)}, r"`audio` must be float \(T,\)"),
        ({"audio": torch.zeros(0)}, r"`audio` must be float \(T,\)"),
        ({"audio": torch.zeros(10, dtype=torch.int16)}, r"`audio` must be float \(T,\).*int16 .*divided by 32768"),
        ({"audio": torch.tensor([0.0, torch.nan])}, "`audio` must be finite"),
        ({"sample_rate": 0}, "`sample_rate` must be at least 1"),
        ({"sample_rate": 16000.0}, "`sample_rate` must be a whole number, got 16000.0"),
        ({"subtype": "PCM_99"}, "`subtype` must be one of wav's"),
        ({"path": "a.mp3", "sample_rate": 12345}, r"`sample_rate`: no mp3 file can hold 12345 Hz \(MPEG"),
    ],
)
def test_write_audio_refuses(tmp_path: Path, arguments: dict, message: str) -> None:
    arguments = {"path": "a.wav", "audio": torch.zeros(10), "sample_rate": 16000, **arguments}
    arguments["path"] = tmp_path / arguments["path"]
    refused(lambda: write_audio(**arguments), message)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("rate", ["16000", 16000.0, 99])
def test_read_audio_refuses_a_rate_that_is_none(tmp_path: Path, rate: Any) -> None:
    write_audio(tmp_path / "a.wav", torch.zeros(10), 16000)
    refused(lambda: read_audio(tmp_path / "a.wav", rate), "^`sample_rate` must be")


def test_encoded_flac_is_the_smallest_and_of_sixteen_bits() -> None:
    audio = 0.002 * torch.randn(20000).cumsum(dim=0)  # something that a predictor gains on
    sizes = []
    for level in (0.0, 1.0):
        sf.write(file := io.BytesIO(), (audio * 32768).round().short().numpy(), 8000, format="FLAC", compression_level=level)
        sizes.append(len(file.getvalue()))
    encoded = encode_audio(audio, 8000)
    assert len(encoded) == sizes[1] < sizes[0], "or the level makes no difference here"
    steps, sample_rate = sf.read(io.BytesIO(encoded), dtype="int16")
    assert sample_rate == 8000
    np.testing.assert_array_equal(steps, (audio * 32768).round().numpy())
    refused(lambda: encode_audio(audio, 8000, "au"), "`file_format` must be one of wav, flac")


ODD = {"sample_rate": 24000, "hop_length": 300, "win_length": 1200, "n_fft": 2048, "f_min": 40.0, "f_max": 11000.0}
SPECS = [*(preset(name).spec for name in PRESETS), ODD]


def librosa_filterbank(mel: MelSpectrogram) -> np.ndarray:
    return librosa.filters.mel(
        sr=mel.sample_rate, n_fft=mel.n_fft, n_mels=mel.n_mels, fmin=mel.f_min, fmax=mel.f_max, dtype=np.float64
    )


@pytest.mark.parametrize("arguments", SPECS)
def test_filterbank_is_librosas(arguments: dict) -> None:
    mel = MelSpectrogram(**arguments)
    expected = librosa_filterbank(mel)
    assert mel.filterbank.shape == (mel.n_mels, mel.n_fft // 2 + 1)
    np.testing.assert_allclose(mel.filterbank, expected, rtol=0, atol=1e-14)
    assert expected.max() > 1e-3, "the tolerance must mean something"
    assert not mel.state_dict(), "no buffer goes into a model file: the spec does"


@pytest.mark.parametrize("arguments", SPECS)
def test_filterbank_of_float32_is_torchaudios_to_the_last_bit(arguments: dict) -> None:
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back; released models were trained with these bits
    mel = MelSpectrogram(**arguments)
    bins = mel.n_fft // 2 + 1
    expected = F.melscale_fbanks(bins, mel.f_min, mel.f_max, mel.n_mels, mel.sample_rate, norm="slaney", mel_scale="slaney")
    assert mel.filterbank.dtype == torch.float32
    assert torch.equal(mel.filterbank, expected.T)


def librosa_mel(mel: MelSpectrogram, audio: np.ndarray) -> np.ndarray:
    """The conventions written down in the other library's words; audio (T,), T a multiple of the hop."""
    pad = mel.n_fft // 2 if mel.center else (mel.n_fft - mel.hop_length) // 2
    stft = librosa.stft(
        np.pad(audio, pad, mode="reflect"), n_fft=mel.n_fft, hop_length=mel.hop_length, win_length=mel.win_length, center=False
    )
    bands = np.log(np.maximum(librosa_filterbank(mel) @ np.sqrt(np.abs(stft) ** 2 + 1e-9), 1e-5))
    return bands[:, :-1] if mel.center else bands


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("arguments", SPECS)
def test_mel_is_librosas(arguments: dict, center: bool) -> None:
    mel = MelSpectrogram(**arguments | {"center": center})
    audio = colored_noise(20 * mel.hop_length)[:, 0]
    result = mel(torch.from_numpy(audio)[None])
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result[0], librosa_mel(mel, audio), atol=1e-4)


def test_mel_in_float32_and_under_autocast() -> None:
    audio = torch.from_numpy(colored_noise(2560)).T
    mel = MelSpectrogram()
    single = mel(audio.float())
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = mel(audio.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), mel(audio), atol=1e-4, rtol=0)
    torch.testing.assert_close(under_autocast, single, atol=0, rtol=0)
    torch.testing.assert_close(mel(audio.half()), single, atol=0.5, rtol=0)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("hop_length", [16, 27, 64])  # 27: the padding can't be even on both sides
def test_frame_count_is_floor_of_samples_over_hop(center: bool, hop_length: int) -> None:
    mel = MelSpectrogram(sample_rate=800, n_fft=64, hop_length=hop_length, win_length=48, n_mels=5, f_max=400.0, center=center)
    for samples in (1, 2, hop_length - 1, hop_length, hop_length + 1, 2 * hop_length, 50, 10 * hop_length, 1001):
        result = mel(torch.randn(2, samples))
        assert result.shape == (2, 5, samples // hop_length)
        assert result.isfinite().all()


@pytest.mark.parametrize("center", [False, True])
def test_clip_too_short_to_be_reflected_is_followed_by_zeros(center: bool) -> None:
    mel = MelSpectrogram(center=center)
    audio = torch.randn(1, 300)
    result = mel(audio)
    assert result.shape == (1, 80, 1)
    torch.testing.assert_close(result, mel(torch.nn.functional.pad(audio, (0, 1000)))[..., :1])


@pytest.mark.parametrize("arguments", [{"center": True}, {"hop_length": 27}, *SPECS])
def test_frame_center_is_where_a_frame_looks(arguments: dict) -> None:
    mel = MelSpectrogram(**arguments)
    frame, hop = 12, mel.hop_length

    def loudness(offset: int) -> float:
        audio = torch.zeros(1, 24 * hop)
        audio[0, frame * hop + offset] = 1.0
        return mel(audio)[0, :, frame].sum().item()

    peak = max(range(mel.frame_center - 5, mel.frame_center + 6), key=loudness)
    assert peak == mel.frame_center
    assert mel.frame_center == (0 if mel.center else -(-hop // 2))


def test_silence_is_the_floor_with_a_finite_gradient() -> None:
    audio = torch.zeros(1, 2048, dtype=torch.float32, requires_grad=True)
    mel = MelSpectrogram()(audio)
    mel.sum().backward()
    torch.testing.assert_close(mel, torch.full_like(mel, 1e-5).log())
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


def test_spec_rebuilds_the_mel_through_json() -> None:
    mel = MelSpectrogram(sample_rate=16000, n_mels=40, f_max=7600, center=True)
    rebuilt = MelSpectrogram(**json.loads(json.dumps(mel.spec)))
    assert rebuilt.spec == mel.spec
    audio = torch.randn(1, 5000)
    torch.testing.assert_close(rebuilt(audio), mel(audio), atol=0, rtol=0)
    rebuilt.check(mel(audio), mel.spec)


def test_check_refuses_foreign_mels() -> None:
    mel = MelSpectrogram()
    good = mel(torch.randn(2, 2048))
    mel.check(good)
    foreign = MelSpectrogram(hop_length=300).spec
    refused(lambda: mel.check(good, foreign), r"settings \{.*'hop_length': 256.*\{.*'hop_length': 300.*compute it with")
    refused(lambda: mel.check(good, {"hop_length": 256}), r"own settings .*made with \{'hop_length': 256\}")
    bad: list[Tensor] = [good[0], good[:, :79], good[..., :0], good.transpose(1, 2), good.long()]
    for wrong in bad:
        refused(partial(mel.check, wrong), rf"\(B, 80, F\).*{re.escape(str(tuple(wrong.shape)))}.*compute it with \{{")
    for value in (torch.nan, torch.inf, -torch.inf):
        wrong = good.clone()
        wrong[1, 3, 2] = value
        refused(partial(mel.check, wrong), "finite")


@pytest.mark.parametrize("audio", [torch.zeros(100), torch.zeros(1, 1, 100), torch.zeros(1, 0), torch.zeros(1, 9).long()])
def test_mel_refuses_other_shapes(audio: Tensor) -> None:
    refused(lambda: MelSpectrogram()(audio), r"`audio` must be float \(B, T\)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_rate": 0}, "`sample_rate`"),
        ({"sample_rate": 22050.0}, "`sample_rate`"),
        ({"hop_length": -1}, "`hop_length`"),
        ({"hop_length": 2000}, "`hop_length` must be at most"),
        ({"win_length": 1025}, "`win_length` must be at most"),
        ({"n_fft": 1025}, "`n_fft` must be even"),
        ({"n_mels": True}, "`n_mels`"),
        ({"n_mels": 500}, "`n_mels` must leave no band"),
        ({"f_min": -1.0}, "`f_min` and `f_max`"),
        ({"f_min": 8000.0}, "`f_min` and `f_max`"),
        ({"f_max": 12000.0}, "`f_min` and `f_max`"),
        ({"f_max": None}, "`f_min` and `f_max`"),
        ({"f_max": float("nan")}, "`f_min` and `f_max`"),
        ({"center": "false"}, "`center`"),
    ],
)
def test_mel_refuses_impossible_settings(arguments: dict, message: str) -> None:
    refused(lambda: MelSpectrogram(**arguments), message)


# --- bytes, open files and arrays


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_bytes_and_open_files_are_read_as_files_are(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    write_audio(path, np.random.default_rng(0).uniform(-0.5, 0.5, 4000), 16000)  # an array, in float64
    expected, rate = read_audio(path, 8000)
    for given in (path.read_bytes(), io.BytesIO(path.read_bytes()), path.open("rb")):
        audio, given_rate = read_audio(given, 8000)
        assert torch.equal(audio, expected)
        assert given_rate == rate
        if not isinstance(given, bytes):
            given.close()


def test_bytes_that_are_no_audio_are_refused_without_a_path_that_nobody_knows(tmp_path: Path) -> None:
    for data, words in [(b"", "is empty"), (b"no audio at all", "is not audio")]:
        refused(partial(read_audio, data), rf"but what was given \({len(data)} bytes\) {words}")
    refused(lambda: read_audio(io.StringIO("text")), "`path` must be open for reading bytes, got str: open it with mode 'rb'")
    refused(lambda: write_audio(tmp_path / "a.wav", [0.0, 0.1], 8000), "`audio` must be a tensor or a NumPy array, got list")
