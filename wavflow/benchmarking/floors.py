"""How much work a model is: its operations and the weights it has to read, counted from its modules.

What is counted is what grows with the net: the matrix products of WaveNets and upsampler, and the interpolation of the
features. Gates, the whitening and the small maps that mix channels are left out, so a floor made of it is one.
"""

from __future__ import annotations

from torch import nn

from wavflow.flows.reshape import Folded
from wavflow.nn.wavenet import WaveNet
from wavflow.nn.wavenet2d import WaveNet2d
from wavflow.vocoder import Vocoder


def operations_per_sample(vocoder: Vocoder) -> float:
    """Returns the multiplications and additions of one pass, per sample of audio; a training step takes three such passes."""
    upsampler = vocoder.upsampler
    at_frame_rate = 2.0 * (upsampler.mix.weight.numel() + upsampler.refine.weight.numel())
    return at_frame_rate / vocoder.hop_length + _operations(vocoder.flow.transform, vocoder.hop_length, 1)


def _operations(module: nn.Module, hop_length: int, fold: int) -> float:
    """The same of all WaveNets in a module; a frame is `hop_length` samples, a time step `fold` of them."""
    fold *= module.factor if isinstance(module, Folded) else getattr(module, "group", 1)  # of an `Autoregressive`
    if not isinstance(module, WaveNet):
        return sum(_operations(child, hop_length, fold) for child in module.children())
    points = 1 if isinstance(module, WaveNet2d) else fold  # rows are no channels there: each sample passes the net
    matrices = [module.input, *module.gates, *module.outputs, module.head, module.last]
    operations = sum(2.0 * matrix.weight.numel() for matrix in matrices) / points
    if module.features is not None:
        taps = 3  # of the interpolation
        operations += 2.0 * module.features.weight.numel() / hop_length + 2.0 * taps * module.features.out_features / fold
    return operations


def weights_per_step(vocoder: Vocoder) -> int:
    """Returns how many weights a teacher has to read for each sample that it draws.

    Those that wait for the sample before: of a convolution only the current tap, since the older ones can be multiplied for
    many steps at once.
    """
    nets = [module for module in vocoder.flow.modules() if isinstance(module, WaveNet)]
    gates = sum(gate.weight.numel() // net.kernel_size for net in nets for gate in net.gates)
    others = (matrix for net in nets for matrix in [net.input, *net.outputs, net.head, net.last])
    return gates + sum(matrix.weight.numel() for matrix in others)
