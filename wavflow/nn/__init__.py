"""Networks: conditioners and the upsampler."""

from wavflow.nn.mlp import MADE, MLP
from wavflow.nn.upsampler import Conditioning, Upsampler, interpolate
from wavflow.nn.wavenet import WaveNet

__all__ = ["MADE", "MLP", "Conditioning", "Upsampler", "WaveNet", "interpolate"]
