"""Mels read and audio written piece by piece, against the whole."""

import errno
from pathlib import Path

import pytest
import soundfile as sf
import torch
from helpers import random_log_mel, refused, tiny_mel

from wavflow.audio import read_audio
from wavflow.mel_files import load_mel, mel_chunks
from wavflow.writing import write_audio, write_chunks


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
@pytest.mark.parametrize(("samples", "rate"), [(16 * 41, 8000), (16 * 41 + 3, 8000), (5, 8000), (2003, 12000)])
def test_mel_of_a_file_in_chunks_is_that_of_the_whole(
    tmp_path: Path, samples: int, rate: int, ending: str, center: bool
) -> None:
    mel, path = tiny_mel(sample_rate=8000, center=center).float(), tmp_path / f"sound.{ending}"
    write_audio(path, 0.3 * torch.randn(samples), rate)
    whole = load_mel(path, mel)
    for frames in (1, 7, 1000):
        chunks = list(mel_chunks(path, mel, frames))
        assert max(chunk.shape[-1] for chunk in chunks) <= frames
        torch.testing.assert_close(torch.cat(chunks, dim=-1), whole, rtol=1e-5, atol=1e-5)


def test_mel_of_a_stored_array_in_chunks(tmp_path: Path) -> None:
    torch.save(random_log_mel(5)[0].float(), tmp_path / "mel.pt")
    chunks = list(mel_chunks(tmp_path / "mel.pt", tiny_mel(), 2))
    assert [chunk.shape[-1] for chunk in chunks] == [2, 2, 1]
    refused(lambda: next(mel_chunks(tmp_path / "none.wav", tiny_mel())), "`input`: there is no file", FileNotFoundError)
    refused(lambda: next(mel_chunks(tmp_path / "mel.pt", tiny_mel(), 0)), "`frames` must be at least 1")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_pieces_make_the_file_that_the_whole_makes(tmp_path: Path, ending: str) -> None:
    audio = 0.9 * torch.rand(24000) - 0.45
    write_audio(tmp_path / f"whole.{ending}", audio, 24000)
    path = tmp_path / "deep" / f"pieces.{ending}"
    assert write_chunks(path, audio.split(5000), 24000) == 24000
    assert sf.info(path).subtype == sf.info(tmp_path / f"whole.{ending}").subtype
    whole, pieces = (read_audio(file)[0] for file in (tmp_path / f"whole.{ending}", path))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=0 if ending in ("wav", "flac") else 1.0)
    assert len(pieces) == len(whole)


def test_pieces_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sound.wav"
    with pytest.raises(ValueError, match=r"`chunks` must be finite.*sound.wav was not written"):
        write_chunks(path, iter([torch.zeros(10), torch.full((10,), torch.nan)]), 8000)
    refused(lambda: write_chunks(path, [], 8000), "`chunks` must hold some audio")
    refused(lambda: write_chunks(tmp_path / "sound.aiff", [torch.zeros(3)], 8000), r"`path` must end in .wav")
    refused(lambda: write_chunks(path, [torch.zeros(3)], -1), "`path` must be writable", OSError)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sf.SoundFile, "write", full)
    refused(lambda: write_chunks(path, [torch.zeros(3)], 8000), "No space left", OSError)
    assert list(tmp_path.iterdir()) == []
