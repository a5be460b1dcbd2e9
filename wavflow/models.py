"""The two configurations: teacher (MAF) and student (IAF), from flat, plain arguments; and the files they live in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from wavflow.distributions import Gaussian, Logistic
from wavflow.files import aside
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Chain, Flow, Inverse
from wavflow.flows.elementwise import Affine, Inverted, MixtureCDF
from wavflow.flows.whitening import Whitening
from wavflow.mel import MelSpectrogram
from wavflow.nn.upsampler import Upsampler
from wavflow.nn.wavenet import WaveNet
from wavflow.vocoder import Vocoder

FORMAT = "wavflow"
FORMAT_VERSION = 1


def teacher(
    mel: dict[str, Any] | None = None,
    density: str = "gaussian",
    n_components: int = 10,
    layers: int = 24,
    channels: int = 128,
    kernel_size: int = 3,
    dilation_cycle: int = 8,
    skip_channels: int | None = None,
    features: int = 80,
    upsampling: str = "linear",
    whitening: int = 32,
    pitch: bool = True,
    n_speakers: int = 0,
) -> Vocoder:
    """Builds a teacher: a masked autoregressive flow with one causal WaveNet; scores in one pass, samples step by step.

    Args:
        mel: Arguments of `MelSpectrogram`.
        density: Of a sample given its past: "gaussian", "logistic", "mixture_of_gaussians" or "mixture_of_logistics".
        n_components: Of a mixture.
        layers: See `WaveNet`, as the next four.
        channels: Residual width.
        kernel_size: Taps.
        dilation_cycle: Layers until the dilation restarts.
        skip_channels: `channels` if not given.
        features: Width of the upsampler.
        upsampling: "linear" or "smoothing", see `Upsampler`.
        whitening: Order of the linear prediction by the mel; 0 for no whitening at all.
        pitch: Whether to whiten by the mel's pitch too.
        n_speakers: Size of the speaker embedding; 0 for none.

    Returns:
        An untrained `Vocoder`. Its flow is the identity for a Gaussian or logistic density.
    """
    config = _config("teacher", locals())
    base = Gaussian() if density == "gaussian" else Logistic()
    taus = {
        "gaussian": Affine,
        "logistic": Affine,
        "mixture_of_gaussians": lambda: MixtureCDF(Gaussian, base, n_components),
        "mixture_of_logistics": lambda: MixtureCDF(Logistic, base, n_components),
    }
    tau = _choose("density", density, taus)()
    net = WaveNet(1, tau.n_params, layers, channels, kernel_size, dilation_cycle, skip_channels, features)
    return _vocoder(config, Flow(Autoregressive(tau, net), base))


def student(
    mel: dict[str, Any] | None = None,
    base: str = "gaussian",
    flows: int = 6,
    layers: int = 10,
    channels: int = 64,
    kernel_size: int = 3,
    dilation_cycle: int = 10,
    skip_channels: int | None = None,
    features: int = 80,
    upsampling: str = "linear",
    whitening: int = 32,
    pitch: bool = True,
    n_speakers: int = 0,
) -> Vocoder:
    """Builds a student: inverse autoregressive flows in a row; draws in one pass and knows the density of what it drew.

    Time order is kept between the flows, so that x[t] given z[<t] stays base-distributed (Parallel WaveNet, section 3).

    Args:
        mel: Arguments of `MelSpectrogram`; those of the teacher.
        base: "gaussian" or "logistic".
        flows: Inverse autoregressive flows, each with its own WaveNet.
        layers: Of each flow, see `WaveNet`, as the next four.
        channels: Residual width.
        kernel_size: Taps.
        dilation_cycle: Layers until the dilation restarts.
        skip_channels: `channels` if not given.
        features: Width of the upsampler.
        upsampling: "linear" or "smoothing", see `Upsampler`.
        whitening: Order of the linear prediction by the mel; that of the teacher. 0 for no whitening at all.
        pitch: Whether to whiten by the mel's pitch too; as the teacher.
        n_speakers: Size of the speaker embedding; 0 for none.

    Returns:
        An untrained `Vocoder`; its flow is the identity.

    References:
        Parallel WaveNet (van den Oord et al., 2017), https://arxiv.org/abs/1711.10433; ClariNet (Ping et al., 2018),
        https://arxiv.org/abs/1807.07281
    """
    config = _config("student", locals())
    bases = {"gaussian": Gaussian, "logistic": Logistic}
    density = _choose("base", base, bases)()
    if flows < 1:
        raise ValueError(f"`flows` must be at least 1, got {flows}.")

    def flow() -> Inverse:
        net = WaveNet(1, 2, layers, channels, kernel_size, dilation_cycle, skip_channels, features)
        return Inverse(Autoregressive(Inverted(Affine()), net))  # z * scale + loc, parameters from z

    return _vocoder(config, Flow(Chain([flow() for _ in range(flows)]), density))


MODELS = {f"{__name__}.{build.__name__}": build for build in (teacher, student)}


def build(config: dict[str, Any]) -> Vocoder:
    """Builds a model from `{"_target_": "wavflow.models.teacher", **arguments}`; only what this module makes.

    Raises:
        ValueError: On another target or an argument that the target does not take.
    """
    arguments = dict(config)
    make = _choose("_target_", arguments.pop("_target_", None), MODELS)
    try:
        return make(**arguments)
    except TypeError as error:
        raise ValueError(f"`config` does not fit {make.__name__}: {error}.") from error


def save_model(vocoder: Vocoder, path: str | os.PathLike[str], info: dict[str, Any] | None = None) -> None:
    """Writes weights, configuration and mel convention to one .safetensors file, aside first and then renamed.

    Args:
        vocoder: A model from this module.
        path: The file.
        info: JSON-able facts to keep with it (steps, data, commit ...).
    """
    if vocoder.config is None:
        raise ValueError("`vocoder` has no config: build it with wavflow.models.teacher or student.")
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(vocoder.config),
        "info": json.dumps(info or {}),
    }
    with aside(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in vocoder.state_dict().items()}, part, metadata)


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Vocoder:
    """Loads a model written by `save_model`, in eval mode. Nothing is unpickled and only our own classes are built.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is not a whole wavflow model, or is of a newer format.
    """
    path = Path(path)
    metadata, weights = _read(path)
    version = metadata.get("format_version", "")
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"`path`: {path} is of model format {version!r}, this wavflow reads up to {FORMAT_VERSION}: update wavflow."
        )
    try:
        vocoder = build(json.loads(metadata["config"]))
        vocoder.load_state_dict(weights)
        vocoder.info = json.loads(metadata.get("info", "{}"))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:  # JSON's own errors are ValueErrors
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"`path`: {path} does not hold what its configuration says ({reason}): get it again.") from error
    return vocoder.to(device).eval().requires_grad_(False)


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"`path`: there is no model file {path}: train one with `python -m wavflow.train`.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"`path`: {path} is a safetensors file, but not a wavflow model.")
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"`path`: {path} is not a whole .safetensors model file ({error}): get it again.") from error


def _config(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration that builds a model again, its mel spelled out in full."""
    arguments = dict(arguments)
    arguments["mel"] = MelSpectrogram(**(arguments["mel"] or {})).spec
    return {"_target_": f"{__name__}.{name}", **arguments}


def _vocoder(config: dict[str, Any], flow: Flow) -> Vocoder:
    mel = MelSpectrogram(**config["mel"])
    upsampler = Upsampler(mel.n_mels, config["features"], mel.hop_length, mel.frame_centre, config["upsampling"])
    whitening = Whitening(mel, config["whitening"], config["pitch"]) if config["whitening"] else None
    vocoder = Vocoder(mel, upsampler, flow, whitening, config["n_speakers"])
    vocoder.config = config
    return vocoder


def _choose(name: str, value: Any, options: dict[str, Any]) -> Any:
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, options))}, got {value!r}.")
    return options[value]
