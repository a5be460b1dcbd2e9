"""What `python -m wavflow.export` does: a student for other runtimes."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from wavflow.arguments import about, at_least, choose
from wavflow.browser.page import runtime_files, write_page
from wavflow.cli import newest_model
from wavflow.evaluation.exported import check
from wavflow.models import load_model
from wavflow.speakers import first_speaker
from wavflow.synthesis.export import export_library, export_sherpa, export_step, export_whole, quantize
from wavflow.synthesis.student import inverse_flows

FORMS = {"whole": ["whole"], "step": ["step"], "both": ["whole", "step"]}


def run(cfg: DictConfig) -> None:
    """Writes the graphs, compares each with the model on some noise, and prints speed and differences."""
    forms, output = choose("form", cfg.form, FORMS), Path(cfg.output)
    sherpa = choose("contract", cfg.contract, {"wavflow": False, "sherpa": True})
    if sherpa and forms != ["whole"]:
        raise ValueError(f"`form` must be whole where contract=sherpa, got {cfg.form}: leave it out.")
    at_least(0, passes=cfg.passes)
    if cfg.page:
        if sherpa or forms != ["whole"]:
            raise ValueError("`page` must be false where form=step or both, or contract=sherpa: leave them out, or the page.")
        if output.suffix == ".onnx":
            raise ValueError(f"`output` must be a folder where page=true, got {output}: leave the ending out.")
        output = output / "student.onnx"
    if output.suffix != ".onnx":
        raise ValueError(f"`output` must be an .onnx file, got {output}: add the ending.")
    for library in ("onnx", "onnxscript", "onnxruntime"):  # before minutes of work
        export_library(library)
    runtime = runtime_files(cfg.runtime) if cfg.page else {}
    with about("model", "path", "vocoder"):
        vocoder = load_model(cfg.model or newest_model("student", key="model")).float()
        inverse_flows(vocoder)
        if cfg.page and not vocoder.mel.n_mels:
            raise ValueError("`vocoder` must take a mel where page=true, and this one takes none: take another model.")
    # Half a second of noise, whose mel is one of real audio.
    length = vocoder.sample_rate // 2 // vocoder.hop_length * vocoder.hop_length
    mel = vocoder.mel(0.05 * torch.randn(1, length, generator=torch.Generator().manual_seed(0)))
    noise = vocoder.noise(mel, torch.Generator().manual_seed(0))
    speaker = first_speaker(vocoder)
    for form in forms:
        path = output if forms == [form] or form == "whole" else output.with_suffix(".step.onnx")
        passes = 0
        if form == "whole":
            passes = cfg.passes
            (export_sherpa if sherpa else export_whole)(vocoder, path, passes)
        else:
            export_step(vocoder, path)
        paths = [path]
        if cfg.int8:
            paths.append(path.with_suffix(".int8.onnx"))
            quantize(*paths)
        for written in paths:
            found = check(written, vocoder, mel, noise, speaker, passes)
            off = f"{found.difference:.1g} at most, {found.distance:.3f} dB of log-spectral distance"
            print(
                f"{written}: {found.megabytes:.1f} MB, {found.speed:.1f} x real time on one thread; "
                + ("draws its own noise" if sherpa else f"differs from the model by {off}")
            )
    if cfg.page:
        write_page(output.parent, vocoder, paths[-1], runtime, cfg.passes)
        print(f"{output.with_name('index.html')}: open it in a browser, from disk or from any host of static files")
