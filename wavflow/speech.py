"""Speech from text: a text model makes the mel of each sentence, a vocoder its audio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from wavflow.mel_scale import audible
from wavflow.text_to_mel import GUIDANCE, TEMPERATURE, TextToMel
from wavflow.vocoder import PASSES, Vocoder


def spoken(
    sentences: Iterable[str],
    model: TextToMel,
    vocoder: Vocoder,
    speaker: Tensor | None = None,
    temperature: float = TEMPERATURE,
    length_scale: float = 1.0,
    guidance: float = GUIDANCE,
    pause: float = 0.25,
    passes: int = PASSES,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Yields the audio (T,) of each sentence, chunk by chunk, on the CPU.

    Args:
        sentences: See `wavflow.text.sentences`.
        model: Of the vocoder's mel convention.
        vocoder: One that draws in one pass.
        speaker: Id (1,), for a text model with speakers.
        temperature: See `TextToMel.sample`, as for `length_scale` and `guidance`.
        pause: Seconds of silence between sentences.
        passes: Of the vocoder's equalizer.
        seed: Of all noise.
    """
    generator = torch.Generator().manual_seed(seed)
    silence = torch.zeros(round(pause * vocoder.sample_rate))
    for i, sentence in enumerate(sentences):
        if i and len(silence):
            yield silence
        mel = audible(model.sample(sentence, temperature, length_scale, guidance, speaker, generator), model.mel)
        for chunk in vocoder.stream(mel, generator=generator, passes=passes):
            yield chunk[0].float().cpu()
