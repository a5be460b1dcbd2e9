"""Model files: one .safetensors with the weights and, as JSON, the configuration that builds the model again.

Some come with the package, under names: `load_model("lj-student")`; see wavflow/assets/models/README.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encoded
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from wavflow.architectures import flowavenet, student, teacher, waveflow, waveglow
from wavflow.arguments import choose, reason
from wavflow.devices import pick_device
from wavflow.files import write_bytes
from wavflow.mel import MelSpectrogram
from wavflow.text_to_mel import TextToMel, text_to_mel
from wavflow.vocoder import Vocoder

FORMAT = "wavflow"
FORMAT_VERSION = "1"
LARGEST_FFT = 2**15
RELEASED = Path(__file__).parent / "assets" / "models"
HALVES = (torch.float16, torch.bfloat16)

MODELS = {f"{__name__}.{make.__name__}": make for make in (teacher, student, waveglow, flowavenet, waveflow, text_to_mel)}
Model = Vocoder | TextToMel
M = TypeVar("M", Vocoder, TextToMel)
KINDS = {Vocoder: "a vocoder", TextToMel: "a text model"}


def build(config: dict[str, Any]) -> Any:
    """Builds a model from `{"_target_": "wavflow.models.teacher", **arguments}`; only what this module makes.

    Raises:
        ValueError: On another target or an argument that the target does not take.
    """
    arguments = dict(config)
    make = choose("_target_", arguments.pop("_target_", None), MODELS)
    try:
        return make(**arguments)
    except TypeError as error:
        raise ValueError(f"`config` does not fit {make.__name__}: {error}.") from error


def fingerprint(module: nn.Module) -> str:
    """Returns the SHA-256 of a module's weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def released_models() -> dict[str, Path]:
    """Returns the models that come with the package, file by name."""
    return {path.stem: path for path in sorted(RELEASED.glob("*.safetensors"))}


def save_model(
    model: Model,
    path: str | os.PathLike[str],
    info: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes weights, configuration and mel convention to one .safetensors file, aside first and then renamed.

    Args:
        model: A model from this module.
        path: The file.
        info: JSON-able facts to keep with it (steps, data, commit ...), beside those of `model.info`.
        dtype: float16 or bfloat16 halves the file; what is loaded is in float32 again, but rounded. None: as they are.

    Raises:
        ValueError: For a model that has no configuration, another dtype, or weights that are beyond the dtype's range.
    """
    if getattr(model, "config", None) is None:
        raise ValueError("`model` has no config: build it with wavflow.models.teacher or another function there.")
    if dtype is not None and dtype not in HALVES:
        raise ValueError(f"`dtype` must be torch.float16, torch.bfloat16 or None, got {dtype}.")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if dtype is not None:
        rounded = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        if lost := [name for name, tensor in rounded.items() if (tensor.isfinite() != weights[name].isfinite()).any()]:
            raise ValueError(f"`dtype` {dtype} can't hold {lost[0]}, whose values are too large: take torch.bfloat16 or None.")
        weights = rounded
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": json.dumps(model.config),
        "info": json.dumps(model.info | (info or {})),
    }
    write_bytes(path, encoded(weights, metadata))  # encoded in memory, since safetensors' errors are no OSErrors


@torch.inference_mode(False)  # of its parameters, for a caller that has it on: they could never be trained
def load_model(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    kind: type[M] = Vocoder,  # type: ignore[assignment]  # a default of a type variable comes with Python 3.13
) -> M:
    """Loads a model written by `save_model`, in eval mode. Nothing is unpickled and only our own classes are built.

    It is in float32, whatever torch's default dtype, or in float64 where its file is.

    Args:
        path: A file, or the name of a model that comes with the package; a file of that name goes first.
        device: Where to; "auto" is a GPU where there is one.
        kind: What is needed: `Vocoder`, or `TextToMel`.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is not a whole wavflow model, is of a newer format, or holds another kind of model, or when
            torch can't use the device.
    """
    place = pick_device(device) if isinstance(device, str) else device
    path = Path(path) if Path(path).is_file() else released_models().get(os.fspath(path), Path(path))
    metadata, weights = _read(path)
    version = metadata.get("format_version", "")
    if version != FORMAT_VERSION:
        raise ValueError(f"`path`: {path} is of model format {version!r}, this wavflow reads {FORMAT_VERSION}: update wavflow.")
    try:
        config, info = json.loads(metadata["config"]), json.loads(metadata.get("info", "{}"))
        _check_numbers(config, info, len(weights))
        double = any(tensor.dtype == torch.float64 for tensor in weights.values())
        with (
            _default_dtype(torch.float64 if double else torch.float32),
            _no_larger_than(sum(map(torch.numel, weights.values()))),
        ):
            model = build(config)
        model.load_state_dict(weights)
        model.info = info
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"`path`: {path} does not hold what its configuration says ({reason(error)}): get it again."
        ) from error
    if not isinstance(model, kind):
        raise ValueError(f"`path`: {path} holds {KINDS[type(model)]}, and {KINDS[kind]} is needed: name one.")
    return model.to(place).eval().requires_grad_(False)


def _check_numbers(config: dict[str, Any], info: dict[str, Any], tensors: int) -> None:
    """Raises unless what the sizes of the weights do not bound is sensible: counts, the mel, the whitening, the speakers."""
    for name in ("layers", "scales"):
        if config.get(name, 0) > tensors:
            raise ValueError(f"`{name}` {config[name]} for {tensors} tensors")
    mel = (MelSpectrogram.__init__.__kwdefaults__ or {}) | (config.get("mel") or {})
    if not mel["n_mels"] <= mel["n_fft"] <= LARGEST_FFT or config.get("whitening", 0) > mel["n_fft"]:
        raise ValueError(f"a mel of {mel['n_mels']} bands, whitened by {config.get('whitening')}, by an FFT of {mel['n_fft']}")
    names = info.get("speakers", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`speakers` are no names, but {names!r}")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _no_larger_than(numbers: int) -> Iterator[None]:
    """Raises when a model is built that has far more weights than `numbers`, before they take any memory."""
    left, thread = 4 * numbers + 2**16, threading.get_ident()  # a weight counts anew when its norm is taken out of it

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is not None and threading.get_ident() == thread:
            left -= parameter.numel()
            if left < 0:
                raise ValueError(f"its configuration asks for more than the {numbers} numbers that it holds")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        names = ", ".join(released_models())
        raise FileNotFoundError(
            f"`path`: there is no model file {path}: train one with `python -m wavflow.train`, or take one of {names}."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"`path`: {path} is a safetensors file, but not a wavflow model.")
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"`path`: {path} is not a whole .safetensors model file ({error}): get it again.") from error
