"""What `python -m wavflow.synthesize` does: audio from mels, other audio or nothing."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from wavflow.arguments import about, choose
from wavflow.audio import READABLE, UNREADABLE
from wavflow.audio_files import common_folder, counted, files_below, name_unreadable
from wavflow.cli import listed, newest_model, number
from wavflow.devices import nth_device
from wavflow.files import IDLE, sweep
from wavflow.mel_files import MEL_FORMATS, load_mel, mel_chunks, read_scale
from wavflow.models import load_model
from wavflow.options import as_dict
from wavflow.shares import Manifest, end_share, share_of
from wavflow.speakers import speaker_id
from wavflow.synthesis.parallel import ParallelEngine, fastest_dtype
from wavflow.threads import processors
from wavflow.vocoder import Vocoder
from wavflow.writing import FORMATS, write_audio, write_chunks

FREE = {"output", "count", "device", "devices", "share", "skip_done"}  # may differ when a command goes on
Pair = tuple[Path | int, Path]
Begin = Callable[[], Manifest]
Done = tuple[float, dict[Path | int, Exception]]
"""What one process has done: seconds of audio, and the inputs that it could not use."""


def run(cfg: DictConfig) -> None:
    """Synthesizes every input and prints how fast that was."""
    target = Path(cfg.output)
    pairs: Sequence[Pair] = inputs_and_outputs(listed(cfg.input), target) if has_input(cfg) else seeds_and_outputs(cfg, target)
    path, count = cfg.model or newest_model("student", key="model"), number("devices", cfg.devices, 1)
    shares = share_of(cfg.share).split(count)
    devices = [nth_device(cfg.device, share.local) for share in shares]
    with about("model", "path"):
        vocoder = load_model(path, devices[0])
    check_takes(vocoder, cfg)
    sweep(*{target, *(wav.parent for _, wav in pairs)}, idle=IDLE)
    settings = {name: value for name, value in as_dict(cfg).items() if name not in FREE} | {"model": str(path)}
    parts = [share.rest(pairs, lambda pair: cfg.skip_done and pair[1].exists()) for share in shares]
    begin = [partial(Manifest, target, "synthesized", share, settings, cfg.skip_done) for share in shares]
    manifests = begin if len(pairs) > 1 and (cfg.skip_done or shares[0].count > 1) else [None] * count
    started = time.perf_counter()
    if count == 1:
        done = [synthesize(cfg, parts[0], vocoder, manifests[0])]
    else:
        import joblib  # a third of a second

        work = zip(parts, devices, manifests, strict=True)
        tasks = [joblib.delayed(load_and_synthesize)(cfg, part, path, device, own) for part, device, own in work]
        with joblib.parallel_config("loky", inner_max_num_threads=max(1, processors() // count)):
            done = joblib.Parallel(count)(tasks)
    elapsed, seconds = time.perf_counter() - started, sum(audio for audio, _ in done)
    skipped = {source: error for _, failed in done for source, error in failed.items()}
    files = sum(map(len, parts))
    if written := files - len(skipped):
        speed = f"{seconds:.1f} s of audio in {elapsed:.1f} s, {seconds / elapsed:.2f} x real time"
        print(f"{counted(written, 'file')}, {speed}: {cfg.output}")
    end_share(skipped, files)


def load_and_synthesize(
    cfg: DictConfig, pairs: Sequence[Pair], path: str | Path, device: torch.device, begin: Begin | None
) -> Done:
    """Synthesizes some of the inputs, in a process of its own."""
    return synthesize(cfg, pairs, load_model(path, device), begin)


def synthesize(cfg: DictConfig, pairs: Sequence[Pair], vocoder: Vocoder, begin: Begin | None) -> Done:
    """Synthesizes some of the inputs, and notes in a manifest what became of each."""
    temperature, seed = number("temperature", cfg.temperature, 0.0), number("seed", cfg.seed, 0)
    speaker, passes = speaker_id(cfg.speaker, vocoder), number("passes", cfg.passes, 0)
    dtype, scale = matrix_dtype(cfg.precision, vocoder), read_scale(cfg.mel_scale, cfg.mel_mean, cfg.mel_std)
    skipped: dict[Path | int, Exception] = {}
    seconds, manifest = 0.0, None if begin is None else begin()
    for source, target in tqdm(pairs, desc="synthesizing", unit="file", disable=None):
        generator = torch.Generator().manual_seed(source if isinstance(source, int) else seed)
        try:
            mel: Tensor | Iterator[Tensor]
            if isinstance(source, int):
                mel = vocoder.no_mel(cfg.seconds)
            elif cfg.stream:
                mel = (chunk.to(vocoder.device) for chunk in mel_chunks(source, vocoder.mel, scale=scale))
            else:
                mel = load_mel(source, vocoder.mel, scale).to(vocoder.device)
            with about("output", "path"):
                if cfg.stream:
                    chunks = vocoder.stream(mel, None, temperature, generator, speaker, passes=passes, dtype=dtype)
                    samples = write_chunks(target, (chunk[0] for chunk in chunks), vocoder.sample_rate)
                else:
                    with warnings.catch_warnings():
                        if scale is not None:  # the user named the scale
                            warnings.filterwarnings("ignore", message="`mel` looks like")
                        assert isinstance(mel, Tensor)
                        audio = vocoder.sample(mel, None, temperature, generator, speaker, passes=passes, dtype=dtype)[0]
                    write_audio(target, audio.float().cpu(), vocoder.sample_rate)
                    samples = len(audio)
            what: dict[str, Any] = {"output": str(target), "seconds": samples / vocoder.sample_rate}
            seconds += what["seconds"]
        except (ValueError, OSError, torch.OutOfMemoryError) as error:  # the other files are none the worse for it
            skipped[source], what = error, {"error": str(error)}
        if manifest is not None:
            manifest.add(source, **what)
    return seconds, skipped


def matrix_dtype(precision: str, vocoder: Vocoder) -> torch.dtype:
    """Returns the dtype of the engine's matrices; for "auto" that of the faster one, measured now."""
    dtype = choose("precision", precision, {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16})
    if dtype == torch.bfloat16:
        with about("precision", "dtype"):
            if vocoder.engine(dtype) is None:
                raise ValueError(
                    f"`precision` must be float32 for this model on {vocoder.device}, got {precision}: leave it out."
                )
    if dtype is not None:
        return dtype
    return fastest_dtype(vocoder) if isinstance(vocoder.engine(), ParallelEngine) else torch.float32


def inputs_and_outputs(sources: Sequence[str | Path], target: Path) -> list[tuple[Path, Path]]:
    """Pairs each input file with the audio file to write: one file with a file or folder, several and folders with a folder."""
    to_file, pairs = names_a_file(target), []
    for source in map(Path, sources):
        if source.is_file():
            pairs.append((source, target if to_file else target / f"{source.stem}.wav"))
        elif source.is_dir():
            pairs += [(path, target / path.relative_to(source).with_suffix(".wav")) for path in find_inputs(source, target)]
        else:
            raise FileNotFoundError(f"`input`: there is no file or folder {source}: name audio, a mel, or a folder of them.")
    if to_file and (len(sources) > 1 or Path(sources[0]).is_dir()):
        raise ValueError(f"`output` must be a folder for several inputs, got {target}: leave out the {target.suffix}.")
    if len({wav for _, wav in pairs}) < len(pairs):  # a.wav beside a.npy
        pairs = [(path, wav.with_name(f"{path.name}.wav")) for path, wav in pairs]
    if len({wav for _, wav in pairs}) < len(pairs):  # a/x.wav and b/x.wav
        top = common_folder([path for path, _ in pairs])
        pairs = [(path, target / f"{path.absolute().relative_to(top)}.wav") for path, _ in pairs]
    if len({wav for _, wav in pairs}) < len(pairs):
        raise ValueError("`input` names a file twice: name each once.")
    inputs = {path.resolve() for path, _ in pairs}
    if overwritten := [wav for _, wav in pairs if wav.resolve() in inputs]:
        raise ValueError(f"`output` would overwrite the input {overwritten[0]}: choose another place.")
    return pairs


def names_a_file(target: Path) -> bool:
    """Returns whether an output is an audio file, and not a folder; raises ValueError for a file of another format."""
    ending = target.suffix[1:].lower()
    if ending not in FORMATS and ending in (*READABLE, *UNREADABLE, *MEL_FORMATS) and not target.is_dir():
        raise ValueError(f"`output` must end in .{' or .'.join(FORMATS)}, or be a folder, got {target}: choose one of these.")
    return ending in FORMATS


def has_input(cfg: DictConfig) -> bool:
    """Returns whether there is an input; raises ValueError unless there is either that or a length."""
    given = not OmegaConf.is_missing(cfg, "input")
    if not given and cfg.seconds is None:
        raise ValueError(
            "`input` is needed and was not given: add input=<value>, or seconds=<value> for a model without a mel."
        )
    if given and cfg.seconds is not None:
        raise ValueError(f"`input` and `seconds` exclude each other, got {cfg.input} and {cfg.seconds}: leave one out.")
    return given


def check_takes(vocoder: Vocoder, cfg: DictConfig) -> None:
    """Raises ValueError unless the model takes what it is given: a mel, or nothing but a length."""
    if vocoder.mel.n_mels and cfg.seconds is not None:
        raise ValueError("`seconds` must be left out, since this model makes audio as long as its mel: name an input=<value>.")
    if not vocoder.mel.n_mels and cfg.seconds is None:
        raise ValueError(f"`input` must be left out, since this model takes no mel, got {cfg.input}: say seconds=5 instead.")


def seeds_and_outputs(cfg: DictConfig, target: Path) -> list[tuple[int, Path]]:
    """Returns the seed of each clip that a model without a mel is to sample, and the audio file to write."""
    number("seconds", cfg.seconds, 0.0, above=True)
    first, count = number("seed", cfg.seed, 0), number("count", cfg.count, 1)
    if not names_a_file(target):
        return [(seed, target / f"seed-{seed}.wav") for seed in range(first, first + count)]
    if count > 1:
        raise ValueError(f"`output` must be a folder for {count} clips, got {target}: leave out the {target.suffix}.")
    return [(first, target)]


def find_inputs(source: Path, target: Path) -> list[Path]:
    """Returns the audio files and mels below a folder, sorted, without hidden ones and those below `target` itself."""
    endings = (*READABLE, *MEL_FORMATS)
    found = files_below(source)
    files = [path for path in found if path.suffix[1:].lower() in endings]
    if target.resolve() != source.resolve():  # what an earlier call made of them is no input
        files = [path for path in files if not path.resolve().is_relative_to(target.resolve())]
    if not files:
        raise ValueError(f"`input`: {source} holds no {', '.join(endings)} file: name another folder.")
    name_unreadable(found)
    return files
