"""Lossless coding: the exact samples come back, the size is what the likelihood says, and nothing else is taken for a file."""

import json
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import is_refused, succeeds
from helpers import VOICE, random_log_mel, refused, tiny_student, tiny_teacher

from wavflow import Vocoder
from wavflow.likelihood import codec, exact_density
from wavflow.likelihood.bits import bits_per_sample
from wavflow.likelihood.exact_density import ExactDensity
from wavflow.likelihood.mel_code import coarse, code_mel, fine
from wavflow.likelihood.range_coding import WHOLE, reader, writer, written
from wavflow.models import save_model

DENSITIES = ["gaussian", "logistic", "mixture_of_gaussians", "mixture_of_logistics"]
WITH_PITCH = {"mel": VOICE}


def noise(length: int, channels: int = 1, level: float = 2000.0, seed: int = 0) -> np.ndarray:
    return np.round(level * np.random.default_rng(seed).standard_normal((channels, length))).astype(np.int16)


def small_teacher(**changes: object) -> Vocoder:
    return tiny_teacher(std=0.15, **changes).float()


def file(name: bytes, header: dict, words: bytes) -> bytes:
    text = json.dumps(header).encode()
    data = name + struct.pack("<I", len(text)) + text + words
    return data + struct.pack("<I", zlib.crc32(data))


SOUNDS = {
    "noise, longer than a chunk": noise(2500),
    "silence": np.zeros((1, 300), np.int16),
    "square wave at full scale": np.where(np.arange(700) // 20 % 2, 32767, -32768).astype(np.int16)[None],
    "one sample": np.full((1, 1), -32768, np.int16),
    "stereo": noise(70, 2),
    "clicks in silence": np.where(np.arange(400) % 150 == 7, 30000, 0).astype(np.int16)[None],
}


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize(
    ("changes", "speaker", "mel"),
    [
        ({"density": "gaussian", "layers": 5, "dilation_cycle": 5, "kernel_size": 3}, None, (1.0, 2)),
        ({"density": "mixture_of_logistics", "n_speakers": 3}, 2, (0.5, 3)),
        ({"whitening": 0}, None, (1.0, 1)),
        (WITH_PITCH, None, (0.5, 3)),
    ],
)
def test_the_samples_come_back(name: str, changes: dict, speaker: int | None, mel: tuple[float, int]) -> None:
    teacher, done = small_teacher(**changes), []
    coded = codec.encode(SOUNDS[name], 44100, teacher, *mel, speaker, done.append)
    assert sum(done) == SOUNDS[name].size

    threads = torch.get_num_threads()
    torch.set_num_threads(3 if threads < 3 else 1)
    try:
        pcm, rate = codec.decode(coded.data, teacher)
    finally:
        torch.set_num_threads(threads)

    assert rate == 44100
    assert pcm.dtype == np.int16
    np.testing.assert_array_equal(pcm, SOUNDS[name])


@pytest.mark.parametrize("changes", [{"density": density} for density in DENSITIES] + [{"whitening": 0}, WITH_PITCH], ids=str)
def test_probabilities_are_those_of_the_density(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_density, "CHUNK", 200)  # several chunks, so that what they look back on has to move
    teacher = small_teacher(layers=6, dilation_cycle=6, **changes)
    mel = random_log_mel(640 // teacher.hop_length, n_mels=teacher.mel.n_mels).float()
    pcm = noise(640)[0]

    density, length = ExactDensity(teacher, mel[0].double().numpy()), -(-200 // teacher.hop_length) * teacher.hop_length
    parts = [density._follow(start // teacher.hop_length, pcm[start : start + length]) for start in range(0, 640, length)]
    intervals = np.concatenate(parts)

    with torch.no_grad():
        expected = teacher.double().log_prob(torch.from_numpy(pcm / 32768.0)[None], mel.double())[0]
    told = torch.from_numpy(intervals[:, 1] / WHOLE)
    assert (told > 0).all()
    seen = told > 1e-6  # a share is 1e-9
    assert seen.sum() > 100
    torch.testing.assert_close(told[seen].log() + np.log(32768), expected[seen], rtol=0, atol=5e-3)


def test_size_is_what_the_likelihood_says() -> None:
    teacher = small_teacher(density="mixture_of_logistics")
    pcm = noise(4096)[0]

    coded = codec.encode(pcm[None], 8000, teacher, mel_step=0.5)

    with torch.no_grad():
        audio = torch.from_numpy(pcm / 32768).float()
        heard = torch.from_numpy(fine(coarse(teacher.mel(audio[None]), 0.5, 2), 0.5, 2, 256))[None].float()
        dequantized = audio + (torch.rand(len(pcm)).float() - 0.5) / 32768
        stated = float(bits_per_sample(teacher.log_prob(dequantized[None], heard).double()).sum())
    assert coded.sample_bits == pytest.approx(stated, rel=0.01)
    assert 8 * len(coded.data) == pytest.approx(stated + coded.mel_bits, rel=0.01, abs=8 * 400)  # the header


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_mel_goes_and_comes(stride: int) -> None:
    mel = (random_log_mel(20) + torch.linspace(-3, 3, 20)).float()
    grid = coarse(mel, 0.5, stride)
    assert grid.shape == (8, -(-20 // stride))
    told = torch.from_numpy(fine(grid, 0.5, stride, 20))[None]
    assert told.shape == mel.shape
    if stride == 1:
        assert (told - mel).abs().max() <= 0.25 + 1e-6
    assert (told - mel).mean().abs() < 0.1

    coder, read = writer(4 * grid.size), np.zeros_like(grid)
    code_mel(coder, grid, int(grid.min()), int(grid.max()))
    code_mel(reader(written(coder)), read, int(grid.min()), int(grid.max()))
    np.testing.assert_array_equal(read, grid)


def test_mels_whose_neighbors_agree_are_cheap() -> None:
    smooth = (10 * np.sin(np.arange(40)[:, None] / 9) + np.arange(60)[None] / 5).round().astype(np.int32)
    shuffled = np.random.default_rng(0).permutation(smooth.ravel()).reshape(smooth.shape)
    bits = []
    for grid in (smooth, shuffled):
        coder = writer(4 * grid.size)
        code_mel(coder, grid, int(grid.min()), int(grid.max()))
        bits.append(8 * len(written(coder)) / grid.size)
    assert bits[0] < 1.6
    assert bits[1] > 3.0


def test_noise_costs_no_more_than_its_samples() -> None:
    teacher = small_teacher()
    loud = np.random.default_rng(0).integers(-32768, 32768, (1, 5000)).astype(np.int16)
    one_of_two = np.concatenate([loud, np.zeros_like(loud)])
    half = np.concatenate([loud[0, :2048], noise(8192, level=3.0)[0]])[None]
    sizes = []
    for pcm in (loud, one_of_two, half):
        coded = codec.encode(pcm, 8000, teacher)
        done = []
        np.testing.assert_array_equal(codec.decode(coded.data, teacher, done.append)[0], pcm)
        assert sum(done) == pcm.size
        _, words = codec.read_header(coded.data)
        assert len(coded.data) - len(words) < 400
        sizes.append(len(words))
    assert sizes[0] == 2 * 5000
    assert 2 * 5000 < sizes[1] < 3 * 5000
    assert 2 * 2048 < sizes[2] < 2 * 2048 + 8192


def test_damage_is_refused() -> None:
    teacher = small_teacher()
    data = codec.encode(noise(60), 8000, teacher).data
    damaged = [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(0, len(data), 7)]
    for wrong in damaged + [data[:cut] for cut in (0, 5, 11, 15, len(data) - 1)]:
        refused(partial(codec.decode, wrong, teacher), "`input` must be")


@pytest.mark.parametrize(
    "lies",
    [
        {"samples": 10**9},
        {"samples": 0},
        {"samples": "60"},
        {"channels": 10**6},
        {"channels": -1},
        {"mel_stride": 0},
        {"mel_stride": 10**6},
        {"mel_step": 0.0},
        {"mel_step": "1"},
        {"mel_range": [0, 10**9]},
        {"mel_range": [3, 0]},
        {"mel_range": 3},
        {"speaker": "me"},
        {"model": None},
        {"crc32": None},
        {"sample_rate": True},
        {"bytes": None},
        {"bytes": []},
        {"bytes": [3]},
        {"bytes": [10**6, 60 - 10**6]},
    ],
    ids=str,
)
def test_headers_that_lie_are_refused(lies: dict) -> None:
    teacher = small_teacher()
    header, words = codec.read_header(codec.encode(noise(60), 8000, teacher).data)
    refused(lambda: codec.decode(file(b"wavflow2", header | lies, words), teacher), "a header that no encoder writes")


def test_another_model_is_refused_and_another_arithmetic_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = small_teacher()
    data = codec.encode(noise(200), 8000, teacher).data
    refused(lambda: codec.decode(data, small_teacher()), r"`model` must be the one that encoded.*got")
    teacher.config["an option of a later version"] = 1  # weights tell a model
    codec.decode(data, teacher)

    monkeypatch.setattr(codec, "fine", lambda *arguments: fine(*arguments) + 1e-3)
    refused(lambda: codec.decode(data, teacher), r"can't be decoded here.*checksum.*report it")
    for other, words in ((b"wavflow3", "3: update wavflow"), (b"wavflow1", "1: decode it with the wavflow that made it")):
        refused(partial(codec.decode, data.replace(b"wavflow2", other), teacher), f"`input` must be of format 2, got {words}")


def test_refuses_what_it_can_not_code() -> None:
    refused(lambda: codec.encode(np.zeros((1, 5)), 8000, small_teacher()), r"`pcm` must be int16 \(channels, T\).*got float64")
    refused(lambda: codec.encode(noise(5), 8000, tiny_teacher()), "`teacher` must be in float32 on the CPU")
    refused(lambda: codec.encode(noise(5), 8000, tiny_student().float()), "`teacher` must be one causal WaveNet")
    refused(lambda: codec.encode(noise(5), 8000, small_teacher(), mel_step=float("nan")), "`mel_step` must be at least")
    refused(lambda: codec.encode(noise(5), 8000, small_teacher(), mel_stride=0), "`mel_stride` must be from 1 to 16")
    broken = small_teacher()
    with torch.no_grad():
        broken.flow.transform.conditioner.last.bias.fill_(torch.nan)
    refused(lambda: codec.encode(noise(5), 8000, broken), "`teacher` must tell finite parameters")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_model(small_teacher(), tmp_path / "teacher.safetensors")
    soundfile.write(tmp_path / "a.wav", noise(300, 2).T, 8000, "PCM_16")
    return tmp_path


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_command_codes_and_decodes(place: Path, ending: str) -> None:
    model = f"model={place / 'teacher.safetensors'}"
    outcome = succeeds("compress", model, f"input={place / 'a.wav'}", f"output={place / 'a.wavflow'}")
    size = (place / "a.wavflow").stat().st_size
    assert f"{size} bytes, {8 * size / 600:.3f} bits/sample" in outcome.out
    assert "FLAC" in outcome.out
    succeeds("compress", model, f"input={place / 'a.wavflow'}", f"output={place / f'b.{ending}'}")
    pcm, rate = soundfile.read(place / f"b.{ending}", dtype="int16")
    assert rate == 8000
    np.testing.assert_array_equal(pcm.T, noise(300, 2))


def test_a_file_finds_the_released_model_that_coded_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    newest = place / "runs/teacher/run/model.safetensors"
    newest.parent.mkdir(parents=True)
    save_model(tiny_teacher(0.4).float(), newest)
    monkeypatch.setattr(
        "wavflow.commands.compress.released_models",
        lambda: {"one-teacher": newest, "other-teacher": place / "teacher.safetensors"},
    )
    succeeds("compress", f"model={place / 'teacher.safetensors'}", "input=a.wav", "output=a.wavflow")
    succeeds("compress", "input=a.wavflow", "output=b.wav")
    np.testing.assert_array_equal(soundfile.read("b.wav", dtype="int16")[0].T, noise(300, 2))


def test_command_refuses_in_one_line(place: Path) -> None:
    soundfile.write(place / "deep.wav", noise(300)[0] / 40000, 8000, "PCM_24")
    (place / "no.wavflow").write_bytes(b"RIFF")
    model = f"model={place / 'teacher.safetensors'}"

    def refuses(source: str, target: str, words: str) -> None:
        is_refused(place, "compress", model, f"input={place / source}", f"output={place / target}", words=words)

    refuses("gone.wav", "a.wavflow", "`input`|no file")
    refuses("deep.wav", "a.wavflow", "`input` must be 16-bit PCM|PCM_24")
    refuses("a.wav", "b.wav", "`output` must end in .wavflow")
    refuses("no.wavflow", "b.mp3", "`output` must end in .wav or .flac")
    refuses("no.wavflow", "b.wav", "does not begin like one")
    refuses("teacher.safetensors", "a.wavflow", "not audio that can be decoded")
