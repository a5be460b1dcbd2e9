"""WaveNet: a causal, gated, dilated convolution stack, the conditioner of teacher and student alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.arguments import at_least
from wavflow.nn.containers import module_list
from wavflow.nn.gated_layers import fits, gated_layers
from wavflow.nn.upsampler import Conditioning


class WaveNet(nn.Module):
    r"""Maps x (B, in_channels, T), and features at frame rate, to parameters (B, out_channels, T); output t sees x[<=t].

    Without `causal` the taps lie around t: a coupling may see all of the half that it keeps.

        x -> 1x1 -> [ layer 1 ] -> ... -> [ layer n ]            layer, dilation d:  taps h[t - 2d], h[t - d], h[t]
                       | skip                | skip                   \      |      /
                       +------- sum ---------+                      conv (2 x channels) + features
                                 |                                    tanh * sigmoid
                         relu, 1x1, relu, 1x1 -> parameters         1x1 residual   1x1 skip

    The last layer starts at zero: an untrained conditioner yields loc 0 and log_scale 0. Inside, the layout is (B, T, C) and a
    convolution is the matrix product of its gathered taps: the same weights serve a whole signal and a single step, and in
    bfloat16 a processor multiplies matrices several times faster than it convolves.

    Args:
        in_channels: Channels of x; 1 for audio.
        out_channels: Parameters per sample.
        layers: Gated layers in all.
        channels: Width of the residual path.
        kernel_size: Taps of each dilated convolution.
        dilation_cycle: Layers over which the dilations double, from 1 on; then they start again.
        skip_channels: Width of the skip path; `channels` if not given.
        cond_channels: Channels of the features, 0 for none.
        causal: Whether output t sees nothing after t; if not, `kernel_size` must be odd.
        rows: Rows that a layer takes its taps from, see `WaveNet2d`.
        dropout: Share of x that `forward` leaves out in training.

    References:
        WaveNet (van den Oord et al., 2016), sections 2.1 to 2.5, https://arxiv.org/abs/1609.03499
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        layers: int = 20,
        channels: int = 64,
        kernel_size: int = 3,
        dilation_cycle: int = 10,
        skip_channels: int | None = None,
        cond_channels: int = 0,
        causal: bool = True,
        rows: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not causal and kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd for taps on both sides, got {kernel_size}.")
        at_least(1, layers=layers, channels=channels, dilation_cycle=dilation_cycle)
        at_least(2, kernel_size=kernel_size)
        skip = skip_channels or channels
        self.channels, self.cond_channels = channels, cond_channels
        # The one list of dilations: layers, cached steps and the receptive field are all made from it.
        self.dilations = [2 ** (i % dilation_cycle) for i in range(layers)]
        self.kernel_size = kernel_size
        self.causal = causal
        self.compiled_layers = True  # on a CPU, where `fits` says so; false for the plain layers
        self.dropout = nn.Dropout(dropout)
        self.input = nn.Linear(in_channels, channels)
        self.gates = module_list(nn.Linear(rows * kernel_size * channels, 2 * channels) for _ in self.dilations)
        # The last layer's residual would go nowhere.
        self.outputs = module_list(nn.Linear(channels, skip + (channels if i < layers - 1 else 0)) for i in range(layers))
        self.features = nn.Linear(cond_channels, 2 * channels * layers, bias=False) if cond_channels else None
        self.head = nn.Linear(skip, skip)
        self.last = nn.Linear(skip, out_channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.last.weight)

    @property
    def receptive_field(self) -> int:
        """Input samples that an output sees, itself included."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)

    @property
    def context(self) -> tuple[int, int]:
        """How many samples before and after its own time an output sees."""
        span = self.receptive_field - 1
        return (span, 0) if self.causal else (span // 2, span // 2)

    def forward(self, x: Tensor, cond: Conditioning | Tensor | None = None) -> Tensor:
        """Returns parameters (B, out_channels, T) for x (B, in_channels, T) and features."""
        cond = self._project(cond)
        h, kernel = self._enter(self.dropout(x).transpose(1, 2)), None if cond is None else cond.kernel_over(x.shape[-1])
        if self.compiled_layers and cond is not None and kernel is not None and fits(h, kernel, [*self.gates, *self.outputs]):
            cond.to_samples(cond.frames[0, ..., :0], x.shape[-1])  # checks the length
            ahead = 0 if self.causal else self.kernel_size // 2
            skip = gated_layers(h, cond.frames, kernel, self.gates, self.outputs, self.dilations, ahead, cond.lengths)
        else:
            skip, _ = self._layers(h, cond, None)
        return self._params(skip).transpose(1, 2)

    def initial(self, batch: int) -> list[Tensor]:
        """Returns the past before the first sample, zeros: of each layer its last (kernel_size - 1) * dilation inputs."""
        spans = ((self.kernel_size - 1) * dilation for dilation in self.dilations)
        return [self.input.weight.new_zeros(batch, span, self.channels) for span in spans]

    def push(self, x: Tensor, cond: Conditioning | Tensor | None, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Returns the parameters of a causal net for the next samples x of a signal, and the past after them.

        Args:
            x: (B, in_channels, T).
            cond: The features of these samples.
            past: Of the samples before, from `initial` or the last call: (B, ..., channels) for each layer.
        """
        skip, past = self._layers(self._enter(x.transpose(1, 2)), self._project(cond), past)
        return self._params(skip).transpose(1, 2), past

    def _layers(self, h: Tensor, cond: Conditioning | None, past: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Returns the summed skips of all layers, and their past after h (B, T, C); without a past, zeros lie around h."""
        length, after = h.shape[1], []
        mask = None if cond is None or cond.mask is None else cond.mask.unsqueeze(-1)
        skip: Any = 0.0
        for i, dilation in enumerate(self.dilations):
            h = h if mask is None else h * mask
            span = (self.kernel_size - 1) * dilation
            ahead = 0 if self.causal else span // 2
            inputs = functional.pad(h, (0, 0, span - ahead, ahead)) if past is None else torch.cat([past[i], h], dim=1)
            taps = torch.cat([inputs[:, k * dilation : k * dilation + length] for k in range(self.kernel_size)], dim=-1)
            after.append(inputs[:, length:])
            features = None if cond is None else cond.to_samples(cond.frames[i], length)
            h, skip = self._layer(i, h, taps, features, skip)
        return skip, after

    def stepper(self, cond: Conditioning | Tensor | None = None, batch: int = 1) -> Callable[[Tensor], Tensor]:
        """Returns `step(x (B, in_channels)) -> parameters (B, out_channels)`: forward, one sample a call, from cached layers.

        The cache of a layer is a ring of the last (kernel_size - 1) * dilation of its inputs; it starts as the zeros that
        forward pads with, so the two paths are one.

        Raises:
            ValueError: Where this WaveNet is not causal.
        """
        if not self.causal:
            raise ValueError("`causal` must be true for a step by step pass: build this WaveNet with causal=True.")
        cond = self._project(cond)
        zeros = self.input.weight.new_zeros(batch, self.channels)
        rings = [[zeros] * ((self.kernel_size - 1) * dilation) for dilation in self.dilations]
        clock, samples = itertools.count(), zeros

        def step(x: Tensor) -> Tensor:
            nonlocal samples
            t = next(clock)
            if cond is not None and t % cond.hop_length == 0:  # a frame at a time: (hop_length, layers, B, 2 C)
                samples = cond.frame_to_samples(cond.frames, t // cond.hop_length).permute(2, 0, 1, 3)
            h = self._enter(x)
            skip: Any = 0.0
            for i, (dilation, ring) in enumerate(zip(self.dilations, rings, strict=True)):
                # ring[t % size] is the oldest input, size = (kernel_size - 1) * dilation samples ago
                size = len(ring)
                taps = torch.cat([*(ring[(t + k * dilation) % size] for k in range(self.kernel_size - 1)), h], dim=-1)
                ring[t % size] = h
                features = None if cond is None else samples[t % cond.hop_length, i]
                h, skip = self._layer(i, h, taps, features, skip)
            return self._params(skip)

        return step

    def _enter(self, x: Tensor) -> Tensor:
        """The input layer, for x (..., in_channels) of any float type: a net of half precision stands among float32 maps."""
        return self.input(x.to(self.input.weight.dtype))

    def _layer(self, i: int, h: Tensor, taps: Tensor, features: Tensor | None, skip: Any) -> tuple[Tensor, Tensor]:
        """Layer i on its input h (..., C) and taps (..., kernel_size * C), the oldest first; returns the next h and skip."""
        y = self.gates[i](taps)
        if features is not None:
            y = y + features
        # tanh(a) * sigmoid(2 b), as sigmoid(2 b) = (1 + tanh(b)) / 2: one tanh does both; the half is left to the weights
        a, b = torch.tanh(y).chunk(2, dim=-1)
        y = self.outputs[i](a * (1.0 + b))
        skip = skip + y[..., : self.head.in_features]
        if i < len(self.gates) - 1:
            h = (h + y[..., self.head.in_features :]) * math.sqrt(0.5)
        return h, skip

    def _params(self, skip: Tensor) -> Tensor:
        """The head, kept in float32 under autocast: parameters of a density want more than 8 bits."""
        with torch.autocast(skip.device.type, enabled=False):
            skip = functional.relu(skip.to(self.head.weight.dtype) * math.sqrt(1.0 / len(self.gates)))
            return self.last(functional.relu(self.head(skip)))

    def _project(self, cond: Conditioning | Tensor | None) -> Conditioning | None:
        """Returns the conditioning, its frames projected for all layers: (layers, B, F, 2 * channels)."""
        if self.features is None:
            return None
        if cond is None:
            raise ValueError(f"`cond` is needed: this WaveNet was built with {self.cond_channels} conditioning channels.")
        cond = cond if isinstance(cond, Conditioning) else Conditioning(cond)
        projected = self.features(cond.frames.transpose(1, 2)).unflatten(-1, (len(self.gates), -1))
        return replace(cond, frames=projected.permute(2, 0, 1, 3))
