"""One net, several forms of the same computation: what is compared. The plainest is the baseline, eager convolutions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.flows.autoregressive import Autoregressive
from wavflow.nn.upsampler import Conditioning
from wavflow.nn.wavenet import WaveNet
from wavflow.vocoder import Vocoder


class ConvolutionalWaveNet(nn.Module):
    """A causal WaveNet as it is mostly written: dilated `Conv1d` on (B, C, T), tanh and sigmoid, a 1x1 `Conv1d` after them.

    The same function as the `WaveNet` that it takes its weights from. Its features are projected at frame rate too, which is
    kinder to it than the usual projection at the sample rate.

    Args:
        net: Causal, with features.
    """

    def __init__(self, net: WaveNet) -> None:
        super().__init__()
        channels, skip = net.channels, net.head.in_features
        self.scale = math.sqrt(1.0 / len(net.dilations))
        self.skip_channels = skip
        self.input = convolution(net.input.weight.unsqueeze(-1), net.input.bias)
        # tanh(a) * (1 + tanh(b)) = 2 tanh(a) * sigmoid(2 b): the twos go into the weights.
        twice = torch.cat([torch.ones(channels), torch.full((channels,), 2.0)]).to(net.input.weight)
        self.gates = nn.ModuleList()
        for gate, dilation in zip(net.gates, net.dilations, strict=True):
            weight = gate.weight.unflatten(1, (net.kernel_size, channels)).transpose(1, 2)
            self.gates.append(convolution(twice[:, None, None] * weight, twice * gate.bias, dilation))
        self.outputs = nn.ModuleList(convolution(2.0 * o.weight.unsqueeze(-1), o.bias) for o in net.outputs)
        self.features = convolution(twice.repeat(len(self.gates))[:, None, None] * net.features.weight.unsqueeze(-1), None)
        self.head = convolution(net.head.weight.unsqueeze(-1), net.head.bias)
        self.last = convolution(net.last.weight.unsqueeze(-1), net.last.bias)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Returns parameters (B, out_channels, T) for x (B, in_channels, T) and features."""
        h, skips = self.input(x), 0.0
        projected = self.features(cond.frames).chunk(len(self.gates), dim=1)
        for i, (gate, output) in enumerate(zip(self.gates, self.outputs, strict=True)):
            past = gate.dilation[0] * (gate.kernel_size[0] - 1)
            a, b = (gate(functional.pad(h, (past, 0))) + upsample(projected[i], cond.kernel)).chunk(2, dim=1)
            y = output(torch.tanh(a) * torch.sigmoid(b))
            skips = skips + y[:, : self.skip_channels]
            if i < len(self.gates) - 1:
                h = (h + y[:, self.skip_channels :]) * math.sqrt(0.5)
        return self.last(functional.relu(self.head(functional.relu(skips * self.scale))))


def convolution(weight: Tensor, bias: Tensor | None, dilation: int = 1) -> nn.Conv1d:
    """Returns a `Conv1d` of a weight (out, in, kernel_size) and a bias."""
    layer = nn.Conv1d(*weight.shape[1::-1], weight.shape[2], dilation=dilation, bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def upsample(frames: Tensor, kernel: Tensor) -> Tensor:
    """Interpolates frames (B, C, F) to samples (B, C, F * hop_length); the edge frames are held."""
    return (functional.pad(frames, (1, 1), mode="replicate").unfold(2, 3, 1) @ kernel.to(frames)).flatten(2)


def as_convolutions(vocoder: Vocoder) -> Vocoder:
    """Returns a copy of a teacher or student whose WaveNets are `ConvolutionalWaveNet`s."""
    vocoder = copy.deepcopy(vocoder)
    for module in vocoder.flow.modules():
        if isinstance(module, Autoregressive):
            module.conditioner = ConvolutionalWaveNet(module.conditioner)
    return vocoder


def plain(vocoder: Vocoder) -> Vocoder:
    """Returns a copy whose WaveNets train by torch's own operations alone."""
    vocoder = copy.deepcopy(vocoder)
    for module in vocoder.flow.modules():
        if isinstance(module, WaveNet):
            module.compiled_layers = False
    return vocoder


def compiled(vocoder: Vocoder) -> Vocoder:
    """Returns a copy whose WaveNets are compiled by `torch.compile`, at the first call, for minutes."""
    vocoder = copy.deepcopy(vocoder)
    for module in vocoder.flow.modules():
        if isinstance(module, WaveNet):
            module.compile()
    return vocoder


class Form(NamedTuple):
    """How a net is computed: what is made of it, and the dtype of its matrix products."""

    change: Callable[[Vocoder], Vocoder]
    dtype: str

    def autocast(self, device: torch.device) -> torch.autocast:
        """Returns the context that the net is called in."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == "bfloat16")


def forms(vocoder: Vocoder, compile: bool = False, training: bool = False) -> dict[str, Form]:
    """Returns the forms that a vocoder has, the baseline first; on a CPU some are for training alone."""
    causal = (type(module) is WaveNet and module.causal for module in vocoder.flow.modules() if isinstance(module, WaveNet))
    found = {"eager conv1d, float32": Form(as_convolutions, "float32")} if all(causal) else {}
    found |= {"eager, float32": Form(plain, "float32"), "eager, bfloat16": Form(plain, "bfloat16")}
    if training and vocoder.device.type == "cpu":
        found |= {f"compiled layers, {dtype}": Form(copy.deepcopy, dtype) for dtype in ("float32", "bfloat16")}
    if compile:
        found |= {"compiled, float32": Form(compiled, "float32"), "compiled, bfloat16": Form(compiled, "bfloat16")}
    return found
