"""What `python -m wavflow.compress` does: lossless audio coding with a teacher."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import soundfile
from omegaconf import DictConfig
from tqdm import tqdm

from wavflow.arguments import about
from wavflow.audio import check_audio, open_audio
from wavflow.cli import newest_model, number
from wavflow.files import write_bytes
from wavflow.likelihood.codec import decode, encode, read_header
from wavflow.models import fingerprint, load_model, released_models
from wavflow.speakers import speaker_id
from wavflow.vocoder import Vocoder

CODED = ".wavflow"
FORMATS = {".wav": "WAV", ".flac": "FLAC"}


def run(cfg: DictConfig) -> None:
    """Codes the input, or decodes it if its name ends in .wavflow, and prints size and speed."""
    source, target = Path(cfg.input), Path(cfg.output)
    if not source.is_file():
        raise FileNotFoundError(f"`input`: there is no file {source}: name a .wav or .flac file, or a {CODED} file to decode.")
    decoding = source.suffix.lower() == CODED
    endings = list(FORMATS) if decoding else [CODED]
    if target.suffix.lower() not in endings:
        raise ValueError(f"`output` must end in {' or '.join(endings)} for {source.name}, got {target}: choose another name.")
    if target.resolve() == source.resolve():
        raise ValueError(f"`output` would overwrite the input {source}: choose another name.")
    (decompress if decoding else compress)(cfg, source, target)


def compress(cfg: DictConfig, source: Path, target: Path) -> None:
    """Codes a file."""
    pcm, sample_rate = read_pcm(source)
    step, stride = number("mel_step", cfg.mel_step, 0.05), number("mel_stride", cfg.mel_stride, 1)
    teacher = load_teacher(cfg)
    speaker = speaker_id(cfg.speaker, teacher)
    started = time.perf_counter()
    with tqdm(total=pcm.size, desc="coding", unit="sample", unit_scale=True, disable=None) as bar:
        coded = encode(pcm, sample_rate, teacher, step, stride, None if speaker is None else int(speaker), bar.update)
    elapsed = time.perf_counter() - started
    with about("output", "path"):
        write_bytes(target, coded.data)
    samples, mel, all_bits = (bits / pcm.size for bits in (coded.sample_bits, coded.mel_bits, 8 * len(coded.data)))
    print(
        f"{len(coded.data)} bytes, {all_bits:.3f} bits/sample: {samples:.3f} of samples, {mel:.3f} of mel, "
        f"{all_bits - samples - mel:.3f} of header; FLAC {8 * len(as_file(pcm, sample_rate, 'FLAC')) / pcm.size:.3f}; "
        f"{pcm.shape[1] / sample_rate / elapsed:.2f} x real time: {target}"
    )


def decompress(cfg: DictConfig, source: Path, target: Path) -> None:
    """Decodes a file."""
    data = source.read_bytes()
    header, _ = read_header(data)
    started = time.perf_counter()
    size = header["samples"] * header["channels"]
    with tqdm(total=size, desc="decoding", unit="sample", unit_scale=True, disable=None) as bar:
        pcm, sample_rate = decode(data, load_teacher(cfg, header["model"]), bar.update)
    elapsed = time.perf_counter() - started
    with about("output", "path"):
        write_bytes(target, as_file(pcm, sample_rate, FORMATS[target.suffix.lower()]))
    print(f"{pcm.size} samples, exactly as they were; {pcm.shape[1] / sample_rate / elapsed:.2f} x real time: {target}")


def read_pcm(path: Path) -> tuple[np.ndarray, int]:
    """Returns the int16 samples (channels, T) and the rate in Hz of a file that is whole and of 16 bits; ValueError if not."""
    with about("input", "path"):
        check_audio(path)
    with open_audio(path) as file:
        if file.subtype != "PCM_16":
            raise ValueError(f"`input` must be 16-bit PCM, got {file.subtype} in {path}: convert it to 16 bits first.")
        return np.ascontiguousarray(file.read(dtype="int16", always_2d=True).T), file.samplerate


def as_file(pcm: np.ndarray, sample_rate: int, file_format: str) -> bytes:
    """Returns int16 samples (channels, T) as a 16-bit file; ValueError if the format can't hold that many, or that rate."""
    file, compression = io.BytesIO(), 1.0 if file_format == "FLAC" else None
    try:
        soundfile.write(file, pcm.T, sample_rate, "PCM_16", format=file_format, compression_level=compression)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"`output`: {file_format} can't hold {len(pcm)} channels of {sample_rate} Hz ({error}).") from error
    return file.getvalue()


def load_teacher(cfg: DictConfig, coded_by: str | None = None) -> Vocoder:
    """Loads the model, on the CPU, which computes the same each time.

    Where no model is named, that is the released model whose fingerprint is `coded_by`, if there is one.
    """
    with about("model", "path"):
        for name, path in released_models().items() if coded_by and not cfg.model else ():
            if name.endswith("-teacher") and coded_by == fingerprint(model := load_model(path, "cpu")):
                return model
        return load_model(cfg.model or newest_model("teacher", key="model"), "cpu")
