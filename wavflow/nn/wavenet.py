"""WaveNet: a causal, gated, dilated convolution stack, the conditioner of teacher and student alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.nn.upsampler import Conditioning


class WaveNet(nn.Module):
    """Maps x (B, in_channels, T), and features at frame rate, to parameters (B, out_channels, T); output t sees x[<=t].

        x -> 1x1 -> [ layer 1 ] -> ... -> [ layer n ]            layer, dilation d:  taps h[t - 2d], h[t - d], h[t]
                       | skip                | skip                   \\      |      /
                       +------- sum ---------+                      conv (2 x channels) + features
                                 |                                    tanh * sigmoid
                         relu, 1x1, relu, 1x1 -> parameters         1x1 residual   1x1 skip

    The last convolution starts at zero: an untrained conditioner yields loc 0 and log_scale 0.

    Args:
        in_channels: Channels of x; 1 for audio.
        out_channels: Parameters per sample.
        layers: Gated layers in all.
        channels: Width of the residual path.
        kernel_size: Taps of each dilated convolution.
        dilation_cycle: Dilations double from 1 for so many layers, then start again.
        skip_channels: Width of the skip path; `channels` if not given.
        cond_channels: Channels of the features, 0 for none.

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
    ) -> None:
        super().__init__()
        for name, value, least in (("layers", layers, 1), ("channels", channels, 1), ("kernel_size", kernel_size, 2), ("dilation_cycle", dilation_cycle, 1)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        skip = skip_channels or channels
        self.channels, self.cond_channels = channels, cond_channels
        # The one list of dilations: layers, cached steps and the receptive field are all made from it.
        self.dilations = [2 ** (i % dilation_cycle) for i in range(layers)]
        self.kernel_size = kernel_size
        self.input = nn.Conv1d(in_channels, channels, 1)
        self.gates = nn.ModuleList(nn.Conv1d(channels, 2 * channels, kernel_size, dilation=d) for d in self.dilations)
        # The last layer's residual would go nowhere.
        self.outputs = nn.ModuleList(
            nn.Conv1d(channels, skip + (channels if i < layers - 1 else 0), 1) for i in range(layers)
        )
        self.features = nn.Conv1d(cond_channels, 2 * channels * layers, 1, bias=False) if cond_channels else None
        self.head = nn.Conv1d(skip, skip, 1)
        self.last = nn.Conv1d(skip, out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.last.weight)

    @property
    def receptive_field(self) -> int:
        """Input samples that an output sees, itself included."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)

    def forward(self, x: Tensor, cond: Conditioning | Tensor | None = None) -> Tensor:
        """Returns parameters (B, out_channels, T) for x (B, in_channels, T) and features."""
        cond, projected = self._project(cond)
        h, skip = self.input(x), 0.0
        for i, (dilation, gate, output) in enumerate(zip(self.dilations, self.gates, self.outputs, strict=True)):
            # causal: all the padding on the left
            y = gate(functional.pad(h, ((self.kernel_size - 1) * dilation, 0)))
            if projected is not None:
                y = y + cond.to_samples(projected[i], x.shape[-1])
            a, b = y.chunk(2, dim=1)
            y = output(torch.tanh(a) * torch.sigmoid(b))
            skip = skip + y[:, : self.head.in_channels]
            if i < len(self.gates) - 1:
                h = (h + y[:, self.head.in_channels :]) * math.sqrt(0.5)
        skip = functional.relu(skip * math.sqrt(1.0 / len(self.gates)))
        return self.last(functional.relu(self.head(skip)))

    def stepper(self, cond: Conditioning | Tensor | None = None, batch: int = 1) -> Callable[[Tensor], Tensor]:
        """Returns `step(x (B, in_channels)) -> parameters (B, out_channels)`: forward, one sample a call, from cached layers.

        The cache of a layer is a ring of the last (kernel_size - 1) * dilation of its inputs; it starts as the zeros that
        forward pads with, so the two paths are one.
        """
        cond, projected = self._project(cond)
        taps = self.kernel_size - 1
        sizes = [taps * d for d in self.dilations]
        zeros = self.input.weight.new_zeros(batch, self.channels)
        rings = [[zeros] * size for size in sizes]
        # oldest tap first, as in the convolution
        gates = [(gate.weight.permute(2, 1, 0).flatten(0, 1), gate.bias) for gate in self.gates]
        outputs = [(output.weight[..., 0].T, output.bias) for output in self.outputs]
        n_skip, scale, final = self.head.in_channels, math.sqrt(0.5), math.sqrt(1.0 / len(self.gates))
        state = {"t": 0, "features": None}

        def step(x: Tensor) -> Tensor:
            t = state["t"]
            if projected is not None:
                frame, offset = divmod(t, cond.hop_length)
                if offset == 0:  # a frame of features at a time: (hop, layers, B, 2 * channels)
                    state["features"] = cond.frame_to_samples(projected, frame).permute(3, 0, 1, 2)
                features = state["features"][offset]
            h = functional.linear(x, self.input.weight[..., 0], self.input.bias)
            skip = 0.0
            for i, (dilation, ring, size, gate, output) in enumerate(
                zip(self.dilations, rings, sizes, gates, outputs, strict=True)
            ):
                # ring[t % size] is the oldest input, (kernel_size - 1) * dilation ago
                past = torch.cat([*(ring[(t + k * dilation) % size] for k in range(taps)), h], dim=1)
                ring[t % size] = h
                y = torch.addmm(gate[1] if projected is None else features[i] + gate[1], past, gate[0])
                a, b = y.chunk(2, dim=1)
                y = torch.addmm(output[1], torch.tanh(a) * torch.sigmoid(b), output[0])
                skip = skip + y[:, :n_skip]
                h = (h + y[:, n_skip:]) * scale if y.shape[1] > n_skip else h
            skip = functional.relu(skip * final)
            skip = functional.relu(functional.linear(skip, self.head.weight[..., 0], self.head.bias))
            state["t"] = t + 1
            return functional.linear(skip, self.last.weight[..., 0], self.last.bias)

        return step

    def _project(self, cond: Conditioning | Tensor | None) -> tuple[Conditioning | None, Tensor | None]:
        """Projects the features for all layers at frame rate: (layers, B, 2 * channels, F)."""
        if self.features is None:
            return None, None
        if cond is None:
            raise ValueError(f"`cond` is needed: this WaveNet was built with {self.cond_channels} conditioning channels.")
        cond = cond if isinstance(cond, Conditioning) else Conditioning(cond)
        projected = self.features(cond.frames)
        batch, _, frames = projected.shape
        return cond, projected.reshape(batch, len(self.gates), -1, frames).transpose(0, 1)
