"""`python -m wavflow.synthesize input=... output=...`: audio from mels or from other audio; see conf/synthesize.yaml."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from wavflow.audio import FORMATS, write_audio
from wavflow.cli import command, newest_model
from wavflow.devices import pick_device
from wavflow.mel_files import MEL_FORMATS, load_mel
from wavflow.models import load_model


@command("synthesize")
def main(cfg: DictConfig) -> None:
    """Synthesizes every input and prints how fast that was."""
    vocoder = load_model(cfg.model or newest_model("student"), pick_device(cfg.device))
    pairs = inputs_and_outputs(Path(cfg.input), Path(cfg.output))
    speaker = None if cfg.speaker is None else torch.tensor([cfg.speaker], device=vocoder.device)
    seconds, started = 0.0, time.perf_counter()
    for source, target in tqdm(pairs, desc="synthesizing", unit="file"):
        mel = load_mel(source, vocoder.mel).to(vocoder.device)
        generator = torch.Generator().manual_seed(cfg.seed)
        audio = vocoder.sample(mel, temperature=cfg.temperature, generator=generator, speaker=speaker)[0]
        write_audio(target, audio.float().cpu(), vocoder.sample_rate)
        seconds += len(audio) / vocoder.sample_rate
    elapsed = time.perf_counter() - started
    print(
        f"{len(pairs)} file(s), {seconds:.1f} s of audio in {elapsed:.1f} s ({seconds / elapsed:.2f} x real time): {cfg.output}"
    )


def inputs_and_outputs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Pairs each input file with the wav file to write: one file with a file or folder, a folder's files with a folder.

    Raises:
        FileNotFoundError: When there is no such input.
        ValueError: When a folder holds nothing to synthesize, or its files cannot go where they are sent.
    """
    endings = {f".{ending}" for ending in (*FORMATS, *MEL_FORMATS)}
    if source.is_file():
        return [(source, target if target.suffix == ".wav" else target / f"{source.stem}.wav")]
    if not source.is_dir():
        raise FileNotFoundError(f"`input`: there is no file or folder {source}: name audio, a mel, or a folder of them.")
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in endings)
    if not files:
        raise ValueError(f"`input`: {source} holds no {', '.join(sorted(endings))} file: name another folder.")
    if target.suffix == ".wav":
        raise ValueError(f"`output` must be a folder for a folder of inputs, got {target}: leave out the .wav.")
    pairs = [(path, target / path.relative_to(source).with_suffix(".wav")) for path in files]
    if len({wav for _, wav in pairs}) < len(pairs):
        pairs = [(path, wav.with_name(f"{path.name}.wav")) for path, wav in pairs]  # a.wav beside a.npy
    return pairs


if __name__ == "__main__":
    main()
