"""`python -m wavflow.evaluate`: figures and a report of teacher and student on held-out clips; see conf/evaluate.yaml."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from wavflow.audio import write_audio
from wavflow.cli import command, newest_model, number, output_folder, quiet
from wavflow.data import ClipDataset
from wavflow.devices import pick_device
from wavflow.evaluation import compare
from wavflow.evaluation.pictures import curves_picture, spectrogram_picture
from wavflow.evaluation.report import write_report
from wavflow.evaluation.resources import synthesis_costs
from wavflow.models import load_model
from wavflow.vocoder import check_pair


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluates and writes the report folder."""
    quiet()
    device, temperature = pick_device(cfg.device), number("temperature", cfg.temperature, 0.0)
    lengths = [number("memory", seconds, 0.0) for seconds in cfg.memory]
    paths = {name: Path(cfg[name] or newest_model(name)) for name in (compare.TEACHER, compare.STUDENT)}
    teacher, student = (load_model(path, device) for path in paths.values())
    for role, model, parallel in ((compare.TEACHER, teacher, False), (compare.STUDENT, student, True)):
        if model.draws_in_parallel != parallel:
            raise ValueError(f"`{role}`: {paths[role]} is no {role}: name a model of stage={role}.")
    check_pair(student, teacher)
    clips = test_clips(cfg, teacher.mel, device)
    folder = output_folder(cfg.output)

    tqdm.write(f"drawing {len(clips)} clips; the teacher draws sample by sample and takes the longest", file=sys.stderr)
    renderings = compare.render(clips, teacher, student, temperature, lambda items: tqdm(items, unit="clip"))
    rows = compare.judge(tqdm(clips, desc="judging", unit="clip"), renderings, teacher, cfg.voicing)
    summary = [*compare.summarise(rows, renderings)]
    tables = {
        "Likelihood of the recordings": compare.likelihoods(clips, teacher),
        "Divergence of the student from the teacher, nats/sample": compare.divergences(clips, teacher, student),
    }
    if lengths:
        tables["Cost of synthesis"] = synthesis_costs(paths[compare.STUDENT], lengths, str(device))

    wavs, pictures = write_clips(folder, clips, renderings, teacher.sample_rate)
    logs = {name: path.parent / "logs" / "metrics.csv" for name, path in paths.items()}
    if curves := {name: path for name, path in logs.items() if path.is_file()}:
        curves_picture(folder / "curves.png", curves)
        pictures["Training"] = folder / "curves.png"
    notes = [f"{name}: {path}, {model.info}" for (name, path), model in zip(paths.items(), (teacher, student), strict=True)]
    notes.append("whitening alone: noise through the envelope and pitch of the mel, which is the untrained student")
    notes.append(f"{len(clips)} test clips of at most {cfg.seconds} s, temperature {cfg.temperature}, on {device.type}")
    write_report(
        folder,
        "Teacher and student",
        summary=summary,
        tables=tables,
        clips=rows,
        pictures=pictures,
        wavs=wavs,
        notes=notes,
    )
    print((folder / "report.md").read_text().split("## Listen")[0])
    print(f"Open {folder / 'index.html'} to see and hear it.")


def test_clips(cfg: DictConfig, mel: torch.nn.Module, device: torch.device) -> list[compare.Clip]:
    """Reads the first test clips of the configured data."""
    data = instantiate(cfg.data, mel=mel)
    items = ClipDataset(data.test_files[: number("clips", cfg.clips, 1)], mel, cfg.seconds, cfg.seed)
    return [compare.Clip(i["name"], i["audio"][None].to(device), i["mel"][None].to(device)) for i in items]


def write_clips(
    folder: Path, clips: list[compare.Clip], renderings: dict[str, compare.Rendering], sample_rate: int
) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """Writes each rendering as a wav file and each clip's spectrograms as a picture."""
    wavs: dict[str, dict[str, Path]] = {}
    pictures: dict[str, Path] = {}
    (folder / "clips").mkdir(exist_ok=True)
    for i, clip in enumerate(tqdm(clips, desc="pictures", unit="clip")):
        signals = {name: rendering.audio[i] for name, rendering in renderings.items()}
        wavs[clip.name] = {}
        for name, audio in signals.items():
            wavs[clip.name][name] = folder / "clips" / f"{clip.name}-{name.replace(' ', '-')}.wav"
            write_audio(wavs[clip.name][name], audio, sample_rate)
        pictures[clip.name] = folder / "clips" / f"{clip.name}.png"
        spectrogram_picture(pictures[clip.name], signals, sample_rate, clip.name)
    return wavs, pictures


if __name__ == "__main__":
    main()
