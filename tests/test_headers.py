"""Audio files whose header does not tell their length: read to the end of the file, or refused, never shortened."""

import io
import re
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import refused

from wavflow.audio import audio_length, check_audio, read_audio, read_segment


def noise(samples: int, quiet: float = 1.0) -> np.ndarray:
    """Noise whose first half is of another loudness, so that a variable bit rate begins far from its mean."""
    sound = 0.2 * np.random.default_rng(0).standard_normal(samples)
    sound[: samples // 2] *= quiet
    return sound.clip(-1, 1)


def encoded(sound: np.ndarray, file_format: str, subtype: str | None = None, rate: int = 22050, **options: object) -> bytes:
    content = io.BytesIO()
    with sf.SoundFile(content, "w", rate, 1, subtype, format=file_format, **options) as file:
        file.write(sound)
    return content.getvalue()


# What sox, arecord, ffmpeg and a recorder that was switched off leave as RIFF and data size.
PIPED = [
    *((0x7FFFF024, 0x7FFFF000), (0x7FFFFF24, 0x7FFFFF00), (0x80000024, 0x80000000), (0xFFFFFFFF, 0xFFFFFFFF)),
    *((0, 0), (36, 0), (8, 0)),
]


@pytest.mark.parametrize(("riff", "data"), PIPED)
def test_wav_written_to_a_pipe_is_read_to_the_end_of_the_file(tmp_path: Path, riff: int, data: int) -> None:
    content = bytearray(encoded(noise(22050), "WAV", "PCM_16"))
    content[4:8], content[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    (tmp_path / "a.wav").write_bytes(content)
    audio, _ = read_audio(tmp_path / "a.wav")
    assert len(audio) == audio_length(tmp_path / "a.wav") == 22050
    assert check_audio(tmp_path / "a.wav") == 1.0
    np.testing.assert_allclose(audio, noise(22050), atol=2**-15)


@pytest.mark.parametrize("file_format", ["WAV", "AIFF", "AU", "W64", "RF64"])
def test_a_file_that_lacks_its_end_is_refused_in_every_format(tmp_path: Path, file_format: str) -> None:
    whole = encoded(noise(22050), file_format, "PCM_16")
    path = tmp_path / f"a.{file_format.lower()}"
    path.write_bytes(whole)
    assert len(read_audio(path)[0]) == 22050
    path.write_bytes(whole[: len(whole) // 2])
    for reader in (read_audio, check_audio):
        refused(partial(reader, path), rf"{re.escape(path.name)} is truncated")


def bare_mp3(sound: np.ndarray, rate: int, mode: str) -> bytes:
    """An MP3 without the frame that holds the index, as recorders and streams leave it."""
    content = encoded(sound, "MP3", rate=rate, bitrate_mode=mode, compression_level=0.5)
    return content[content.index(content[:2], 4) :]


@pytest.mark.parametrize(("mode", "quiet"), [("CONSTANT", 1.0), ("VARIABLE", 0.01), ("VARIABLE", 100.0)])
@pytest.mark.parametrize("rate", [11025, 22050, 44100])
def test_mp3_without_an_index_is_read_to_its_end(tmp_path: Path, rate: int, mode: str, quiet: float) -> None:
    sound, path = noise(4 * rate, quiet), tmp_path / "a.mp3"
    path.write_bytes(encoded(sound, "MP3", rate=rate, bitrate_mode=mode, compression_level=0.5))
    whole, _ = read_audio(path)
    bare = bare_mp3(sound, rate, mode)
    for content in (bare, b"ID3\x04\0\0\0\0\x01\0" + bytes(128 + 50) + bare + b"TAG" + bytes(125)):
        path.write_bytes(content)
        audio, _ = read_audio(path)
        assert len(whole) <= len(audio) == audio_length(path) <= len(whole) + 3 * 1152
        np.testing.assert_allclose(audio[576 : 576 + len(whole)], whole, atol=1e-3)  # the encoder's delay stays
        np.testing.assert_allclose(read_segment(path, 2 * rate, 500), audio[2 * rate : 2 * rate + 500], atol=1e-6)


def test_mp3s_joined_are_read_to_the_end_of_the_last(tmp_path: Path) -> None:
    one = encoded(noise(44100), "MP3")
    (tmp_path / "a.mp3").write_bytes(one + one)
    audio, _ = read_audio(tmp_path / "a.mp3")
    assert 2 * 44100 <= len(audio) <= 2 * 44100 + 8 * 576
    assert audio[-22050:].abs().max() > 0.1


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_one_after_the_other_are_refused(tmp_path: Path, subtype: str) -> None:
    one, other = (encoded(noise(n), "OGG", subtype, 48000) for n in (48000, 24000))
    (tmp_path / "a.ogg").write_bytes(one)
    assert len(read_audio(tmp_path / "a.ogg")[0]) == 48000
    (tmp_path / "a.ogg").write_bytes(one + other)
    refused(lambda: read_audio(tmp_path / "a.ogg"), r"a\.ogg holds several streams, one after the other")
