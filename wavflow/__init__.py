"""wavflow: probability density distillation for audio.

A causal WaveNet teacher (a masked autoregressive flow) is trained by maximum likelihood; frozen, it teaches an inverse
autoregressive flow by the reverse KL; that student draws whole waveforms in parallel.
"""

import wavflow.interrupted  # noqa: F401 - before the imports that take long
from wavflow.audio import read_audio
from wavflow.mel import MelSpectrogram
from wavflow.mel_scale import MelScale
from wavflow.models import load_model, save_model
from wavflow.vocoder import Vocoder
from wavflow.writing import write_audio

__version__ = "0.2.0"
__all__ = ["MelScale", "MelSpectrogram", "Vocoder", "__version__", "load_model", "read_audio", "save_model", "write_audio"]
