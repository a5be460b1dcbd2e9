"""wavflow: probability density distillation for audio.

A causal WaveNet teacher (a masked autoregressive flow) is trained by maximum likelihood; frozen, it teaches an inverse
autoregressive flow by the reverse KL; that student draws whole waveforms in parallel.
"""

import importlib
from typing import TYPE_CHECKING, Any

from wavflow import threads

if TYPE_CHECKING:
    from wavflow.audio import read_audio
    from wavflow.mel import MelSpectrogram
    from wavflow.mel_scale import MelScale
    from wavflow.models import load_model, save_model
    from wavflow.vocoder import Vocoder
    from wavflow.writing import write_audio

__version__ = "0.2.0"
__all__ = ["MelScale", "MelSpectrogram", "Vocoder", "__version__", "load_model", "read_audio", "save_model", "write_audio"]

_HOMES = {
    "MelScale": "mel_scale",
    "MelSpectrogram": "mel",
    "Vocoder": "vocoder",
    "load_model": "models",
    "read_audio": "audio",
    "save_model": "models",
    "write_audio": "writing",
}

threads.set_defaults()


def __getattr__(name: str) -> Any:
    """Imports what is asked for: torch takes seconds, and `--help` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wavflow' has no attribute {name!r}")
    return getattr(importlib.import_module(f"wavflow.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
