"""What all architectures share: the full configuration, and how a model is put together around its flow."""

from __future__ import annotations

from typing import Any

from wavflow.flows.base import Flow
from wavflow.flows.harmonic_source import HarmonicSource
from wavflow.flows.whitening import Whitening
from wavflow.mel import MelSpectrogram
from wavflow.nn.upsampler import Upsampler
from wavflow.vocoder import Vocoder


def full_config(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration that builds a model again, its mel spelled out in full."""
    arguments = dict(arguments)
    arguments["mel"] = MelSpectrogram(**(arguments["mel"] or {})).spec
    return {"_target_": f"wavflow.models.{name}", **arguments}


def assemble(config: dict[str, Any], flow: Flow, name: str = "", fold: int = 1) -> Vocoder:
    """Puts a model together; `fold` samples, of the argument `name`, are one time step of its flow."""
    mel = MelSpectrogram(**config["mel"])
    if mel.hop_length % fold:
        raise ValueError(f"`{name}` {config[name]} folds {fold} samples, which must divide a frame's {mel.hop_length}.")
    upsampler = Upsampler(mel.n_mels, config["features"], mel.hop_length, mel.frame_center, config["upsampling"])
    whitening = Whitening(mel, config["whitening"], config["pitch"]) if config["whitening"] else None
    source = None
    if config.get("pulses") and whitening is not None and whitening.pitch:
        source = HarmonicSource(mel, whitening.transforms[1].pitch, config["pulses"])
    vocoder = Vocoder(mel, upsampler, flow, whitening, config["n_speakers"], source)
    vocoder.config = config
    return vocoder
