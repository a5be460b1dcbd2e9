"""The speakers that a model knows, by name and by id."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wavflow.text_to_mel import TextToMel
from wavflow.vocoder import Vocoder


def speaker_id(speaker: int | str | None, vocoder: Vocoder | TextToMel) -> torch.Tensor | None:
    """Returns the id of a speaker, given by name or id, as the model takes it, (1,); None for none, where it takes none.

    Where names are numbers themselves, as LibriTTS's, a number is a name.
    """
    known = vocoder.n_speakers
    if speaker is None and not known:
        return None
    names = vocoder.info.get("speakers", []) if known else []
    if str(speaker) in names:
        speaker = names.index(str(speaker))
    elif speaker not in range(known) or any(name.isdecimal() for name in names):
        needed = f"be at least 0 and below {known}" if known else "not be given, since this model knows no speakers"
        needed = f"be one of {', '.join(names)}" if names else needed
        raise ValueError(f"`speaker` must {needed}, got {speaker!r}.")
    return torch.tensor([speaker], device=vocoder.device)


def first_speaker(vocoder: Vocoder | TextToMel, batch: int = 1) -> torch.Tensor | None:
    """Returns ids (B,) of the first speaker; None for a model without speakers."""
    return None if vocoder.speakers is None else torch.zeros(batch, dtype=torch.long, device=vocoder.device)


def speaker_names(vocoder: Vocoder | TextToMel) -> list[str]:
    """Returns the names of a model's speakers, in the order of their ids; none for a model without.

    Raises:
        ValueError: When it knows speakers, but its file does not tell their names.
    """
    known, names = vocoder.n_speakers, vocoder.info.get("speakers", [])
    if len(names) != known:
        raise ValueError(f"`model` knows {known} speakers, but its file names {len(names)}: train it with net.n_speakers=auto.")
    return names


def count_speakers(n_speakers: int | str, names: Sequence[str]) -> int:
    """Returns how many speakers the data names.

    Raises:
        ValueError: It names none, or another number than was asked for; "auto" asks for all.
    """
    if not names:
        raise ValueError(
            f"`net.n_speakers` must be 0 for data that names no speakers, got {n_speakers}: leave it at 0, or take data=folder "
            f"with data.table=<CSV file>, or a corpus of several speakers."
        )
    if n_speakers not in ("auto", len(names)):
        raise ValueError(f"`net.n_speakers` must be the data's {len(names)}, got {n_speakers}: say net.n_speakers=auto.")
    return len(names)
