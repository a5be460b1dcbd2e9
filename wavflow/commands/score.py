"""What `python -m wavflow.score` does: likelihood of recordings, ranked by surprise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from wavflow.arguments import about
from wavflow.audio_files import common_folder, counted, find_audio
from wavflow.cli import listed, newest_model, number, output_folder
from wavflow.devices import nth_device
from wavflow.files import IDLE, printable, sweep, write_text
from wavflow.likelihood.bits import bits_per_sample
from wavflow.likelihood.pictures import score_picture
from wavflow.likelihood.scoring import Scores, check_scores, overall, read, score
from wavflow.mel import MelSpectrogram
from wavflow.models import load_model
from wavflow.reporting.tables import csv_table, markdown_table
from wavflow.shares import Manifest, end_share, share_of
from wavflow.speakers import speaker_id
from wavflow.vocoder import Vocoder

SHOWN = 20  # rows that are printed


def run(cfg: DictConfig) -> None:
    """Scores every file, writes the tables and pictures, and prints the most surprising files."""
    pictures, files = number("pictures", cfg.pictures, 0), named_files(listed(cfg.input))
    path, share = cfg.model or newest_model("teacher", key="model"), share_of(cfg.share)
    with about("model", "path"):
        model = load_model(path, nth_device(cfg.device, share.local))
    speaker = speaker_id(cfg.speaker, model)
    check_scores(model)
    folder = output_folder(cfg.output, shared=share.count > 1)
    sweep(*{folder, *((folder / kind / name).parent for name in files for kind in ("frames", "pictures"))}, idle=IDLE)
    settings = {"model": str(path), "input": listed(cfg.input), "speaker": cfg.speaker, "frames": cfg.frames}
    manifest = Manifest(folder, "scores", share, settings, cfg.skip_done)
    done = {name for name, line in manifest.read().items() if "error" not in line} if cfg.skip_done else set()
    scores: dict[str, Scores] = {}
    skipped: dict[str, Exception] = {}
    part = share.rest(list(files), done.__contains__)
    for name in tqdm(part, desc="scoring", unit="file", disable=None):
        try:
            scores[name] = score_file(files[name], model, speaker)
            if cfg.frames:
                write_text(folder / "frames" / f"{name}.csv", csv_table(frame_rows(scores[name], model)))
            what = row_of(scores[name], model)
        except (ValueError, OSError, torch.OutOfMemoryError) as error:  # the other files are none the worse for it
            skipped[name], what = error, {"error": str(error)}
        manifest.add(name, **what)
    lines = manifest.read()
    rows = [lines[name] for name in files if "error" not in lines.get(name, {"error": ""})]
    rows.sort(key=lambda row: row["surprise"], reverse=True)
    if left := len(files.keys() - lines.keys()):
        print(
            f"{counted(len(part) - len(skipped), 'file')} scored, {left} left to other processes; the last writes scores.csv."
        )
    elif rows:
        write_text(folder / "scores.csv", csv_table(rows))
        bands = model.mel.n_mels or min(80, model.mel.n_fft // 8)  # a model without a mel is shown one all the same
        shown = MelSpectrogram(**model.mel.spec | {"n_mels": bands}).to(model.device)
        for row in rows[:pictures]:
            name = row["file"]
            title = f"{name}: {row['bits/sample']:.2f} bits/sample, surprise {row['surprise']:.1f}"
            log_mel = read(files[name], model, shown)[1][0]
            own = scores[name] if name in scores else score_file(files[name], model, speaker)  # another process's
            score_picture(folder / "pictures" / f"{name}.png", own, log_mel, shown, title)
        print(printable(markdown_table(rows[:SHOWN])))
        print(f"{counted(len(rows), 'file')}, the most surprising first: {folder / 'scores.csv'}")
    end_share(skipped, len(part))


def score_file(path: Path, model: Vocoder, speaker: Tensor | None) -> Scores:
    """Returns the scores of a file."""
    with about("input", "path"):
        audio, mel = read(path, model)
    return score(model, audio, mel, speaker)


def named_files(sources: Sequence[str]) -> dict[str, Path]:
    """Returns the audio files that sources name and those below them, by the names that the results give them."""
    files: list[tuple[str, Path]] = []
    for source in map(Path, sources):
        if not source.exists():
            raise FileNotFoundError(f"`input`: there is no file or folder {source}: name audio, or a folder of it.")
        if source.is_file():
            files.append((source.name, source))
        else:
            with about("input", "folder"):
                files += [(path.relative_to(source).as_posix(), path) for path in find_audio(source)]
    if len(dict(files)) < len(files):  # a/x.wav and b/x.wav
        top = common_folder([path for _, path in files])
        files = [(path.absolute().relative_to(top).as_posix(), path) for _, path in files]
    return dict(files)


def row_of(scores: Scores, model: Vocoder) -> dict[str, Any]:
    """Returns the row of a file, but for its name."""
    strangest = int(scores.surprise.abs().argmax())
    nats, hop = float(scores.log_prob.mean()), model.hop_length / model.sample_rate
    return {
        "surprise": overall(scores.surprise),
        "nats/sample": nats,
        "bits/sample": bits_per_sample(nats),
        "strangest frame": float(scores.surprise[strangest]),
        "at second": strangest * hop,
        "seconds": len(scores.surprise) * hop,
    }


def frame_rows(scores: Scores, model: Vocoder) -> list[dict[str, float]]:
    """Returns the rows of a file's frames."""
    hop = model.hop_length / model.sample_rate
    columns = zip(scores.log_prob.tolist(), scores.surprise.tolist(), strict=True)
    return [
        {"second": i * hop, "nats/sample": nats, "bits/sample": bits_per_sample(nats), "surprise": surprise}
        for i, (nats, surprise) in enumerate(columns)
    ]
