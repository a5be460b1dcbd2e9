"""The models of a server, what a client may choose for a draw, and how what it sends is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from fastapi import HTTPException
from pydantic import BaseModel, Field

from wavflow.arguments import about
from wavflow.audio import audio_length
from wavflow.files import in_a_file
from wavflow.mel_files import mel_frames
from wavflow.serving.limits import Limits
from wavflow.speakers import speaker_id
from wavflow.speech import spoken
from wavflow.text import sentences
from wavflow.text_to_mel import GUIDANCE, TEMPERATURE, TextToMel
from wavflow.vocoder import PASSES, Vocoder
from wavflow.vocoder_stream import VocoderStream

T = TypeVar("T")
NPY = b"\x93NUMPY"
MOST_CHARACTERS = 30  # of text, for each second of audio that is allowed: nobody speaks so fast


class Voice(BaseModel, extra="forbid"):
    """Which model, and which of its speakers."""

    model: str | None = Field(None, description="a name of /healthz; the first fitting one if left out")
    speaker: str | None = Field(None, description="name or id, for a model with speakers")


class Draw(Voice):
    """A draw."""

    temperature: float = Field(1.0, ge=0, le=10, allow_inf_nan=False, description="multiplies the noise")
    seed: int = Field(0, ge=0, lt=2**63, description="of the noise")
    passes: int = Field(PASSES, ge=0, le=32, description="of the mel equalizer")


class Speech(Draw):
    """Speech."""

    speaker: str | None = Field(None, description="name or id, for a text model with speakers")
    temperature: float = Field(TEMPERATURE, ge=0, le=10, allow_inf_nan=False, description="multiplies the noise of the mel")
    length_scale: float = Field(1.0, ge=0.25, le=4, allow_inf_nan=False, description="multiplies the durations")
    guidance: float = Field(GUIDANCE, ge=0, le=10, allow_inf_nan=False, description="multiplies the text's share of the mel")
    pause: float = Field(0.25, ge=0, le=10, allow_inf_nan=False, description="seconds of silence between sentences")


class Models:
    """Models by name, all loaded at the start; every request shares their weights and engines.

    Args:
        models: Vocoders by name.
        text: A text model; None for none.
    """

    def __init__(self, models: Mapping[str, Vocoder], text: TextToMel | None) -> None:
        self.by_name, self.text = dict(models), text

    def name_of(self, model: Vocoder) -> str:
        """Returns the name of one of the models."""
        return next(name for name, known in self.by_name.items() if known is model)

    def choose(self, name: str | None, fits: Callable[[Vocoder], bool], what: str) -> Vocoder:
        """Returns the model of a name, or the first that fits; raises HTTPException where there is none, or it does not fit."""
        if name is not None and name not in self.by_name:
            raise HTTPException(404, f"`model` must be one of {', '.join(self.by_name)}, got {name[:100]!r}.")
        for candidate, model in self.by_name.items():
            if name in (None, candidate) and fits(model):
                return model
        found = "none is loaded" if name is None else f"got {name}"
        raise HTTPException(400, f"`model` must be one that {what}, {found}: see /healthz.")

    def open_stream(self, draw: Draw) -> VocoderStream:
        """Returns a new draw; raises HTTPException or ValueError where its options fit no model."""
        model = self.choose(draw.model, lambda model: model.draws_in_parallel and model.mel.n_mels > 0, "draws in one pass")
        generator = torch.Generator().manual_seed(draw.seed)
        return model.open_stream(None, draw.temperature, generator, speaker_of(draw, model), draw.passes)

    def scorer(self, vocoder: Vocoder) -> Vocoder | None:
        """Returns the first model that scores in one pass and is of a vocoder's mel and speakers; None for none."""

        def kind(model: Vocoder) -> tuple[Any, ...]:
            return model.mel.spec, model.speakers is None, model.info.get("speakers")

        return next((m for m in self.by_name.values() if m.scores_in_parallel and kind(m) == kind(vocoder)), None)

    def speak(self, speech: Speech, model: TextToMel, body: bytes, limits: Limits) -> Iterator[torch.Tensor]:
        """Yields speech (T,), chunk by chunk; raises HTTPException or ValueError where the text or an option does not fit."""
        spec, most = model.mel.spec, int(MOST_CHARACTERS * limits.seconds)
        what = "draws in one pass from the mel of the text model, without a speaker"
        vocoder = self.choose(speech.model, lambda m: m.draws_in_parallel and m.mel.spec == spec and m.speakers is None, what)
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"`body` must be a text in UTF-8 ({error}).") from error
        if len(text) > most:
            raise ValueError(f"`body` must be a text of at most {most} characters, got {len(text)}: send it in parts.")
        left, parts = limits.seconds * vocoder.sample_rate, sentences(text)
        if not parts:
            raise ValueError("`body` must be a text with a word at least, got none.")
        options = speech.model_dump(include={"temperature", "length_scale", "guidance", "pause", "passes", "seed"})
        for chunk in spoken(parts, model, vocoder, speaker_of(speech, model), **options):
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"`body` takes more than {limits.seconds:g} s to speak, which is the limit: send less.")
            yield chunk


def speaker_of(voice: Voice, model: Vocoder | TextToMel) -> torch.Tensor | None:
    """Returns the speaker's id as the model takes it; raises ValueError where the model does not know it."""
    name = voice.speaker
    return speaker_id(int(name) if name is not None and name.isdecimal() else name, model)


def read_upload(body: bytes, model: Vocoder, limits: Limits, read: Callable[[Path], T]) -> T:
    """Returns what `read` makes of a file with these bytes, once its header says that it is not too long.

    Raises:
        ValueError: When it can't be read, or is too long; no place on the disk is told.
    """
    name, rate = f"upload{'.npy' * body.startswith(NPY)}", model.sample_rate
    with in_a_file(body, name, "what was sent") as path, about("body", "path", "input"):
        samples = mel_frames(path, model.mel) * model.hop_length if path.suffix else audio_length(path, rate)
        if samples > limits.seconds * rate:
            raise ValueError(f"`body` holds {samples / rate:.1f} s of audio, {limits.seconds:g} s are the limit: send less.")
        return read(path)
