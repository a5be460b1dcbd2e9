"""A student as a graph that runs without wavflow: by `torch.export`, and as ONNX in one pass or frame by frame.

Both graphs hold the whole model, from mel and noise to audio. Everything that goes over a length is a dynamic dimension; the
whitening's inverse, a recursion, is a loop in the graph (`Scan`).
"""

from __future__ import annotations

import importlib
import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim, ExportedProgram

from wavflow.distributions import Logistic
from wavflow.files import atomic_write
from wavflow.mel import MEL_FLOOR
from wavflow.synthesis.student import CONTEXT, StudentStep, outside

if TYPE_CHECKING:
    from wavflow.vocoder import Vocoder

OPSET = 20
SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes, with each node, the module that it comes from


class WholeDraw(nn.Module):
    """`Vocoder.sample_and_log_prob` as a graph: mel (B, n_mels, F) and noise (B, F * hop_length) to audio and log_prob (B, T).

    Args:
        vocoder: A student.
        passes: Of the `MelEqualizer`, which the audio goes through; the density stays that of the draw before it.

    Raises:
        ValueError: For another model.
    """

    def __init__(self, vocoder: Vocoder, passes: int = 0) -> None:
        super().__init__()
        self.step = StudentStep(vocoder, scan)
        self.equalizer, self.passes = vocoder.equalizer, passes

    def forward(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns audio and the exact log-density of the draw, both (B, F * hop_length)."""
        audio, log_prob, _ = self.step(outside(mel), noise, self.step.initial(mel.shape[0]), speaker)
        return self.equalizer(audio, mel, self.passes), log_prob


class NoiseInside(nn.Module):
    """`WholeDraw` that draws its own noise, anew with each call: a mel (B, n_mels, F) to audio (B, F * hop_length)."""

    def __init__(self, vocoder: Vocoder, passes: int = 0) -> None:
        super().__init__()
        self.whole = WholeDraw(vocoder, passes)
        self.hop_length, self.logistic = vocoder.hop_length, isinstance(vocoder.flow.base, Logistic)

    def forward(self, mel: Tensor) -> Tensor:
        shape = mel.shape[0], mel.shape[-1] * self.hop_length
        if self.logistic:  # by its quantiles, whose tails end at 16 scales
            uniform = torch.rand_like(mel.new_zeros(shape)).clamp(2.0**-24, 1 - 2.0**-24)
            return self.whole(mel, torch.log(uniform) - torch.log1p(-uniform))[0]
        return self.whole(mel, torch.randn_like(mel.new_zeros(shape)))[0]


def whole_program(vocoder: Vocoder, passes: int = 0) -> ExportedProgram:
    """Returns a student as torch.export has it: `program.module()(mel, noise)`, or with speakers `(mel, noise, speaker)`.

    Batch and frames are dynamic; with passes there are `fewest_frames` at least. See `WholeDraw`.
    """
    least, hop_length = fewest_frames(vocoder, passes), vocoder.hop_length
    batch, frames = Dim("batch"), Dim("frames", min=least)
    # torch.export holds a size fixed that equals another by chance: few are as large as this one.
    mel, speaker = _mel(vocoder, 2, least + 40), _speaker(vocoder, 2)
    noise = mel.new_zeros(2, mel.shape[-1] * hop_length)
    shapes = ({0: batch, 2: frames}, {0: batch, 1: hop_length * frames}, *({0: batch} for _ in speaker))
    return _exported(WholeDraw(vocoder, passes), (mel, noise, *speaker), shapes)


def fewest_frames(vocoder: Vocoder, passes: int) -> int:
    """Returns how many frames a mel of the whole graph has at least: the audio of fewer is not padded by reflection."""
    return vocoder.mel.shortest_reflected // vocoder.hop_length + 1 if passes and vocoder.mel.n_mels else 1


def step_program(vocoder: Vocoder) -> ExportedProgram:
    """Returns a student's `StudentStep` of one frame as torch.export has it; the batch is dynamic."""
    step, batch = StudentStep(vocoder), Dim("batch")
    state, mel, speaker = step.initial(2), _mel(vocoder, 2, 1 + 2 * CONTEXT), _speaker(vocoder, 2)
    noise = mel.new_zeros(2, vocoder.hop_length)
    shapes = ({0: batch}, {0: batch}, {name: {0: batch} for name in state}, *({0: batch} for _ in speaker))
    return _exported(step, (mel, noise, state, *speaker), shapes)


def export_whole(vocoder: Vocoder, path: str | os.PathLike[str], passes: int = 0) -> None:
    """Writes a student as one ONNX graph: mel (B, n_mels, F), noise (B, F * hop_length) -> audio, log_prob.

    The audio goes through `passes` passes of the `MelEqualizer`; log_prob is that of the draw before them.

    Raises:
        ValueError: For another model, or where the libraries are missing.
    """
    names = ["mel", "noise", *(["speaker"] if vocoder.speakers is not None else [])]
    usage = (
        f"mel (B, n_mels, F), F at least {fewest_frames(vocoder, passes)}, noise "
        f"(B, F * hop_length){_speaker_usage(vocoder)} -> audio (B, F * hop_length), after {passes} passes of the mel "
        "equalizer; log_prob: nats per sample, of the draw before them."
    )
    _write_onnx(whole_program(vocoder, passes), path, names, ["audio", "log_prob"], _facts(vocoder, "whole", usage))


def export_step(vocoder: Vocoder, path: str | os.PathLike[str]) -> None:
    """Writes a student's `StudentStep` of one frame as an ONNX graph; each state `name` comes out as `name.next`.

    Raises:
        ValueError: For another model, or where the libraries are missing.
    """
    state = list(StudentStep(vocoder).initial())
    names = ["mel", "noise", *state, *(["speaker"] if vocoder.speakers is not None else [])]
    usage = (
        f"mel (B, n_mels, {1 + 2 * CONTEXT}): a frame with the two before and after it, NaN where the mel has none; "
        f"noise (B, hop_length){_speaker_usage(vocoder)} -> audio (B, hop_length): the draw, which no mel equalizer has "
        "touched; log_prob: nats per sample. "
        "All other inputs are the state: zeros at first, then the outputs of that name with .next."
    )
    outputs = ["audio", "log_prob", *(f"{name}.next" for name in state)]
    _write_onnx(step_program(vocoder), path, names, outputs, _facts(vocoder, "step", usage))


def export_sherpa(vocoder: Vocoder, path: str | os.PathLike[str], passes: int = 0) -> None:
    """Writes a student as the ONNX graph that sherpa-onnx takes for a vocoder: mel (B, n_mels, F) -> audio, see `NoiseInside`.

    Raises:
        ValueError: For another model, one with speakers, or where the libraries are missing.
    """
    if vocoder.speakers is not None:
        raise ValueError("`contract` sherpa must have a model without speakers: a graph of that contract takes a mel alone.")
    least = fewest_frames(vocoder, passes)
    shapes = ({0: Dim("batch"), 2: Dim("frames", min=least)},)
    program = _exported(NoiseInside(vocoder, passes), (_mel(vocoder, 2, least + 4),), shapes)
    usage = f"mel (B, n_mels, F), F at least {least} -> audio (B, F * hop_length), another draw with each call."
    facts = _facts(vocoder, "sherpa", usage) | {"model_type": "hifigan", "num_mels": str(vocoder.mel.n_mels)}
    _write_onnx(program, path, ["mel"], ["audio"], facts)


def quantize(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Writes an exported graph with the matrices of the WaveNets' layers in int8, its activations quantized as they come.

    Inputs, features, heads and the whitening stay as they are: there the rounding would be heard.

    Raises:
        ValueError: Where the libraries are missing.
    """
    onnx, quantization = export_library("onnx"), export_library("onnxruntime.quantization")
    model = onnx.load(source)
    quantization.quant_utils.add_pre_process_metadata(model)  # else it advises to, on stderr
    layers = [node.name for node in model.graph.node if node.op_type == "MatMul" and _is_of_a_layer(node)]
    with atomic_write(target) as part:
        quantization.quantize_dynamic(model, part, op_types_to_quantize=["MatMul"], nodes_to_quantize=layers)


def export_library(name: str) -> ModuleType:
    """Imports a library of the extra `export`.

    Raises:
        ValueError: When it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"`export` needs {name.split('.')[0]}: pip install 'wavflow[export]'.") from error


@contextmanager
def inference() -> Iterator[None]:
    """Without gradients, which would make another graph of the loop, and without torch 2.11's warnings of itself."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
        yield


def _mel(vocoder: Vocoder, batch: int, frames: int) -> Tensor:
    return vocoder.upsampler.mix.weight.new_zeros(batch, vocoder.mel.n_mels, frames)


def _speaker(vocoder: Vocoder, batch: int) -> tuple[Tensor, ...]:
    return () if vocoder.speakers is None else (torch.zeros(batch, dtype=torch.long, device=vocoder.device),)


def _speaker_usage(vocoder: Vocoder) -> str:
    return "" if vocoder.speakers is None else f", speaker (B,), int64 below {vocoder.n_speakers}, in the order of wavflow.info"


def _exported(module: nn.Module, inputs: tuple[Any, ...], shapes: tuple[Any, ...]) -> ExportedProgram:
    with inference():
        return torch.export.export(module.eval(), inputs, dynamic_shapes=shapes)


def _write_onnx(program: ExportedProgram, path: str | os.PathLike[str], inputs: list, outputs: list, facts: dict) -> None:
    export_library("onnx")
    optimizer = export_library("onnxscript.optimizer")
    with inference():
        # Not its whole optimizer, which takes "+ floor", 1e-10 in the whitening, for "+ 0": runtimes bring their own.
        graph: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table={torch.ops.aten.cos.default: _cosine},
            optimize=False,
            verbose=False,
        )
    optimizer.fold_constants(graph.model)
    optimizer.remove_unused_nodes(graph.model)
    # What the exporter notes with each node would be a third of the file, and tells the paths of this machine.
    graph.model.graph.metadata_props.clear()
    for node in graph.model.graph.all_nodes():
        for noted in (node, *node.outputs):
            for key in noted.metadata_props.keys() - {SCOPES}:
                del noted.metadata_props[key]
    graph.model.metadata_props.update(facts)
    with atomic_write(path) as part:
        graph.save(part, external_data=False)


def _cosine(angle: Any) -> Any:
    """As a sine: onnxruntime 1.28, which sherpa-onnx 2.0 brings, has no cosine in float64."""
    op: Any = export_library("onnxscript").opset20
    onnx = export_library("onnx")
    quarter = onnx.helper.make_tensor("quarter", onnx.TensorProto.DOUBLE, (), [math.pi / 2])
    return op.Sin(op.Add(angle, op.CastLike(op.Constant(value=quarter), angle)))


def _facts(vocoder: Vocoder, form: str, usage: str) -> dict[str, str]:
    """Returns what a user without wavflow has to know, for the metadata of a graph: all values are text, some of it JSON."""
    mel = vocoder.mel
    before, after = mel.padding
    return {
        "wavflow.form": form,
        "wavflow.config": json.dumps(vocoder.config),
        "wavflow.info": json.dumps(vocoder.info),
        "usage": usage,
        "sample_rate": str(mel.sample_rate),
        "hop_length": str(mel.hop_length),
        "noise": f"standard {type(vocoder.flow.base).__name__.lower()}, times a temperature of 0 to 1",
        "mel": json.dumps(mel.spec),
        "mel.made_by": (
            f"audio in [-1, 1], padded by {before} samples before and {after} after by reflection; "
            "STFT with a periodic Hann window, not centered further, T // hop_length frames; magnitude sqrt(|S|^2 + 1e-9); "
            f"Slaney mel filters with Slaney norm (librosa.filters.mel); natural log of at least {MEL_FLOOR}"
        ),
    }


def _is_of_a_layer(node: Any) -> bool:
    scopes = next((prop.value for prop in node.metadata_props if prop.key == SCOPES), "")
    return "conditioner.gates." in scopes or "conditioner.outputs." in scopes
