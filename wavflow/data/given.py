"""Mels that are given with the audio and not computed from it: predicted by an acoustic model, aligned with the recording.

A predicted mel is smoother than the recording's own, and errs. So a vocoder for predicted mels is best trained further on pairs
of recording and predicted mel. Frame f must condition the samples `f * hop_length` to `(f + 1) * hop_length`, as in the model's
own mel.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wavflow.audio import audio_length, read_audio, read_segment
from wavflow.audio_files import some
from wavflow.data.corpora import read_table
from wavflow.mel import MelSpectrogram
from wavflow.mel_files import MEL_FORMATS, load_mel, mel_frames, stored_mel
from wavflow.mel_scale import SCALES, MelScale

SLACK = 2
"""By how many frames a mel may be longer or shorter than its audio; only the frames that both have are used."""

FAR = 1.5
"""By how many nats mels may differ from their audio's on average: predicted mels do by about .5, mels of other audio by 2."""

_TRIED = 16  # mels that are compared with their audio


class GivenMels:
    """Audio files and their mels. Files without a mel that fits are left out, with a warning.

    Args:
        paths: Audio file to mel file; None where there is none.
        mel: The settings that they were made with; its sample rate is the data's.
        scale: Converts the mels, see `MelScale`; None leaves them as they are.

    Attributes:
        frames: For each audio file that can be used, how many frames both audio and mel have.

    Raises:
        ValueError: None can be used, or they are not of that audio.
    """

    def __init__(self, paths: Mapping[Path, Path | None], mel: MelSpectrogram, scale: MelScale | None = None) -> None:
        self.mel, self.scale = MelSpectrogram(**mel.spec), scale
        self.frames: dict[Path, int] = {}
        self._paths: dict[Path, Path] = {}
        left_out: dict[Path, Exception] = {}
        unequal = 0
        for audio, path in paths.items():
            try:
                own = mel.frames_of(audio_length(audio, mel.sample_rate))
                if path is None:
                    raise ValueError("there is no mel of that name")
                given = mel_frames(path, mel, "mels")
                if abs(given - own) > SLACK:
                    raise ValueError(f"{path} has {given} frames, where {own} fit its audio with a hop of {mel.hop_length}")
            except (ValueError, OSError) as error:
                left_out[audio] = error
                continue
            self.frames[audio], self._paths[audio] = min(own, given), path
            unequal += own != given
        first = f"The first: {next(iter(left_out.values()))}." if left_out else ""
        if not self.frames:
            raise ValueError(f"`mels` must hold a mel for each audio file, but of {len(paths)} files none has one. {first}")
        self._hold_against_audio()
        if left_out:
            warnings.warn(
                f"{len(left_out)} of {len(paths)} audio files have no mel that fits and are left out: {some(left_out)}. "
                f"{first}",
                stacklevel=2,
            )
        if unequal:
            warnings.warn(
                f"{unequal} of {len(self.frames)} mels are up to {SLACK} frames longer or shorter than their audio: what is "
                "common to both is used.",
                stacklevel=2,
            )

    def samples(self, audio: Path, length: int) -> int:
        """Returns how many samples of an audio file of that length are used."""
        return min(length, self.frames[audio] * self.mel.hop_length)

    def read_crop(self, audio: Path, first: int, frames: int) -> tuple[Tensor, Tensor]:
        """Reads the audio and the given mel of some frames of a file, fewer where it ends, as `read_with_mel`."""
        hop, frames = self.mel.hop_length, min(frames, self.frames[audio] - first)
        stop = self.samples(audio, audio_length(audio, self.mel.sample_rate))
        samples = read_segment(audio, first * hop, min(frames * hop, stop - first * hop), self.mel.sample_rate)
        return samples, self.read(audio)[:, first : first + frames].clone()

    def read(self, audio: Path) -> Tensor:
        """Reads the mel of an audio file, (n_mels, F), float32, converted, and cut to the frames that the audio has too."""
        given = load_mel(self._paths[audio], self.mel, self.scale)[0]
        if given.shape[-1] < self.frames[audio]:
            raise ValueError(f"`mels` must stay as they are during training, but {self._paths[audio]} got shorter.")
        return given[:, : self.frames[audio]]

    def _hold_against_audio(self) -> None:
        """Raises ValueError where the mels of some files differ too much from those computed from their audio."""
        said = MelScale() if self.scale is None else self.scale
        scales = {said.name: said, **{name: MelScale(name, said.mean, said.std) for name in SCALES if name != said.name}}
        files, errors, distances = list(self.frames), [], []
        for audio in files[:: -(-len(files) // _TRIED)]:
            try:
                mel, whole = stored_mel(self._paths[audio], self.mel, "mels"), read_audio(audio, self.mel.sample_rate)[0]
            except (ValueError, OSError) as error:  # where it is one of many it is dropped when it is read
                errors.append(error)
                continue
            with torch.no_grad():
                own = self.mel(torch.nn.functional.pad(whole, (0, self.mel.hop_length))[None])[..., : self.frames[audio]]
            mel = mel[..., : self.frames[audio]]
            distances.append([float((scale(mel) - own).abs().mean()) for scale in scales.values()])
        if not distances:
            raise ValueError(f"`mels` can't be read. The first: {errors[0]}")
        means = dict(zip(scales, torch.tensor(distances).mean(dim=0).tolist(), strict=True))
        if not means[said.name] < FAR:
            best = min(means, key=lambda name: means[name])
            advice = "check that they are of these recordings, frame by frame, and how they were normalized"
            if means[best] < FAR:
                advice = f"as {best} they would by {means[best]:.2f}, so say mel_scale={best}"
            raise ValueError(
                f"`mels` must be near the mels of their audio, but differ from them by {means[said.name]:.2f} nats on average, "
                f"where {FAR} is allowed: {advice}."
            )


def find_mels(
    files: Sequence[Path],
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    table: str | os.PathLike[str] | None = None,
    scale: MelScale | None = None,
) -> dict[Path, Path | None]:
    """Finds the mel of each audio file: what the column `mel` of a table says, if there is one, else by the name in `folder`.

    Args:
        files: Audio files.
        path: The folder that they are below.
        folder: Of mels, each with the path that its audio has below `path`, but for the ending; or what the table's paths are
            relative to (`path` if it is None).
        table: See `read_table`.
        scale: Of these mels; None for the model's.

    Returns:
        File to mel, None where there is none of that name; nothing where neither a folder nor a column is given.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: A scale is given, and no mels.
    """
    if folder is not None and not Path(folder).is_dir():
        raise FileNotFoundError(f"`mels` must name a folder of mels, but there is no folder {folder}: check the name.")
    column = {} if table is None else read_table(table, path, "mel")
    if any(column.values()):
        return {file: Path(folder or path, str(column[file])) for file in files}
    if folder is None:
        if scale is not None:
            raise ValueError("`mel_scale`, `mel_mean` and `mel_std` are of given mels, but none are: name them by `mels`.")
        return {}
    found: dict[Path, Path | None] = {}
    for file in files:
        stem = Path(folder, file.relative_to(path) if file.is_relative_to(path) else file.name)
        named = (stem.with_suffix(f".{ending}") for ending in MEL_FORMATS)
        found[file] = next((mel for mel in named if mel.is_file()), None)
    return found
