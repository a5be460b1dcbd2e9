"""Networks: conditioners and the upsampler."""

from wavflow.nn.upsampler import Conditioning, Upsampler, interpolate
from wavflow.nn.wavenet import WaveNet

__all__ = ["Conditioning", "Upsampler", "WaveNet", "interpolate"]
