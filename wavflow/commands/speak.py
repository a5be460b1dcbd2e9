"""What `python -m wavflow.speak` does: speech from text, sentence by sentence."""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from wavflow.arguments import about
from wavflow.cli import newest_model, number
from wavflow.models import load_model
from wavflow.speakers import first_speaker, speaker_id
from wavflow.speech import spoken
from wavflow.text import sentences
from wavflow.text_to_mel import TextToMel
from wavflow.writing import quantized, write_chunks


def run(cfg: DictConfig) -> None:
    """Speaks a text and prints how fast that was."""
    parts = sentences(read_text(cfg))
    if not parts:
        raise ValueError("`text` must hold a word at least, got none: say what to speak.")
    started = time.perf_counter()
    with about("model", "path"):
        model = load_model(cfg.model or newest_model("text", key="model"), cfg.device, TextToMel)
    with about("vocoder", "path"):
        vocoder = load_model(cfg.vocoder, cfg.device)
    if model.mel.spec != vocoder.mel.spec:
        raise ValueError(
            f"`vocoder` must have the mel convention of the text model, {model.mel.spec}, got {cfg.vocoder} with "
            f"{vocoder.mel.spec}: name another one."
        )
    voice = first_speaker(model) if cfg.speaker is None else speaker_id(cfg.speaker, model)
    least = {"temperature": 0.0, "length_scale": 0.0, "guidance": 0.0, "pause": 0.0, "passes": 0, "seed": 0}
    options = {name: number(name, cfg[name], value, above=name == "length_scale") for name, value in least.items()}
    heard: list[float] = []

    def chunks() -> Iterator[Tensor]:
        shown = tqdm(parts, desc="speaking", unit="sentence", disable=None)
        for chunk in spoken(shown, model, vocoder, voice, **options):
            heard.append(time.perf_counter() - started)
            yield chunk

    if cfg.output == "-":
        samples = pipe(chunks(), vocoder.sample_rate)
    else:
        with about("output", "path"):
            samples = write_chunks(cfg.output, chunks(), vocoder.sample_rate)
    seconds, elapsed = samples / vocoder.sample_rate, time.perf_counter() - started
    print(
        f"{seconds:.1f} s of speech in {elapsed:.1f} s, {seconds / elapsed:.2f} x real time, the first sound after "
        f"{heard[0]:.2f} s: {cfg.output}",
        file=sys.stderr if cfg.output == "-" else sys.stdout,
    )


def read_text(cfg: DictConfig) -> str:
    """Returns the text to speak: `text`, or what the file `input` or standard input holds."""
    if cfg.text is not None and cfg.input is not None:
        raise ValueError("`text` and `input` exclude each other: leave one out.")
    if cfg.text is not None:
        return str(cfg.text)
    try:
        if cfg.input in (None, "-"):
            return sys.stdin.buffer.read().decode("utf-8-sig")
        if not Path(cfg.input).exists() or Path(cfg.input).is_dir():  # it may be a pipe
            raise FileNotFoundError(f"`input`: there is no text file {cfg.input}: check the name.")
        return Path(cfg.input).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`input` must be text in UTF-8, got {cfg.input or 'standard input'} ({error}).") from error


def pipe(chunks: Iterable[Tensor], sample_rate: int) -> int:
    """Writes audio (T,) as 16-bit WAV of unknown length to standard output as it comes; returns the number of samples."""
    endless, samples = 2**31 - 1, 0
    header = struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", endless, b"WAVEfmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16, b"data", endless - 36
    )
    sys.stdout.buffer.write(header)
    for chunk in chunks:
        sys.stdout.buffer.write(quantized(chunk, "PCM_16").astype("<i2").tobytes())
        sys.stdout.buffer.flush()
        samples += len(chunk)
    return samples
