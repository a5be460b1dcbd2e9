"""Draws on a GPU in which nothing waits for Python: what a draw launches is captured once in a CUDA graph and replayed.

    student    pieces of one length through all flows: one graph to a piece, in bfloat16 if you like
    teacher    a few steps to a graph; the past of the layers lies in rings whose places the graph itself counts on

Not measured: on a CPU both run without a graph, which is how they are tested, and `Vocoder.sample` doesn't use them yet. The
whitening is undone on the CPU, by the recursion that Numba compiles: one sample after another is no work for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wavflow.arguments import at_least
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Flow
from wavflow.flows.reshape import fold, fold_cond, unfold
from wavflow.nn.upsampler import Conditioning
from wavflow.nn.wavenet import WaveNet
from wavflow.vocoder import Vocoder

STEPS = 16  # of a teacher in one graph, at most


def captured(function: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Returns a call that does what `function` does, by a graph on CUDA; elsewhere `function` itself.

    It must work in place on tensors that stay, and never look at their values. It runs three times first.
    """
    if device.type != "cuda":
        return function
    beside, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    beside.wait_stream(current)
    with torch.cuda.stream(beside):
        for _ in range(3):  # libraries set themselves up, the compiler compiles
            function()
    current.wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class StudentDraw:
    """Draws audio from mels and noise for a student, in pieces of one length, each a replay of one graph.

    Args:
        vocoder: A model that draws in parallel and whose samples depend on no later noise.
        batch: Items that are drawn at once.
        frames: Length of a piece, what it sees before itself included.
        dtype: Of the layers, by autocast; the whitening is undone in float32 or better.
        compiled: Whether torch.compile makes the flow's kernels; takes minutes.
    """

    def __init__(
        self,
        vocoder: Vocoder,
        batch: int = 1,
        frames: int = 512,
        dtype: torch.dtype = torch.bfloat16,
        compiled: bool = False,
    ) -> None:
        before, after = vocoder.flow.transform.reach
        if after or math.isinf(before):
            raise ValueError("`vocoder` must be a student, as wavflow.models.student makes: use its own `sample`.")
        hop = vocoder.hop_length
        self.run_up = -(-int(before) // hop) + 1  # a frame more: interpolation needs the one before
        at_least(self.run_up + 2, frames=frames)
        self.vocoder, self.frames, self.dtype = vocoder, frames, dtype
        weight = vocoder.upsampler.refine.weight
        self.z = weight.new_zeros(batch, 1, frames * hop)
        self.features = weight.new_zeros(batch, vocoder.upsampler.channels, frames)
        self.u = torch.zeros_like(self.z)
        self._flow = torch.compile(vocoder.flow.sample, dynamic=False) if compiled else vocoder.flow.sample
        self._replay: Callable[[], object] | None = None

    @torch.no_grad()
    def sample(self, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> Tensor:
        """Returns audio (B, F * hop_length) of a mel (B, n_mels, F) and noise (B, F * hop_length), temperature included.

        Pieces overlap by what a sample depends on; the last one is moved back to end where the mel does. A shorter mel is
        filled up with its last frame, as is held at the end of any mel: nothing looks back from there.
        """
        vocoder, hop = self.vocoder, self.vocoder.hop_length
        samples = mel.shape[-1] * hop
        if len(mel) != len(self.z) or noise.shape != (len(self.z), samples):
            needed = f"of {len(self.z)} items, {hop} samples a frame, got {tuple(mel.shape)} and {tuple(noise.shape)}"
            raise ValueError(f"`mel` and `noise` must be {needed}: make another `StudentDraw` for another batch.")
        features, z = vocoder.conditioning(mel, speaker).frames, vocoder.excite(noise.unsqueeze(1), mel)[0]
        missing = max(0, self.frames - mel.shape[-1])
        features = torch.cat([features, features[..., -1:].expand(-1, -1, missing)], dim=-1)
        z = torch.nn.functional.pad(z, (0, missing * hop))
        self._replay = self._replay or captured(self._draw, vocoder.device)
        whole, pieces, drawn = features.shape[-1], [], 0
        while drawn < whole:
            start = min(max(0, drawn - self.run_up), whole - self.frames)
            stop = start + self.frames
            self.features.copy_(features[..., start:stop])
            self.z.copy_(z[..., start * hop : stop * hop])
            self._replay()
            last = stop if stop == whole else stop - 1  # interpolation needs the frame after, too
            pieces.append(self.u[..., (drawn - start) * hop : (last - start) * hop].clone())
            drawn = last
        return colour(vocoder, torch.cat(pieces, dim=-1)[..., :samples], mel)

    def _draw(self) -> None:
        # no cache of casts: a graph would go on with the weights of when it was captured
        reduced = self.dtype != torch.float32
        with torch.autocast(self.z.device.type, self.dtype, enabled=reduced, cache_enabled=False):
            self.u.copy_(self._flow(self.z, Conditioning(self.features, self.vocoder.upsampler.kernel)))


class StaticStepper:
    """`WaveNet.stepper` on tensors that stay in place: no Python number changes from step to step, so a graph can hold it.

    Args:
        net: A causal WaveNet.
        batch: Items at once.
        hop_length: Steps to a `load`.

    Attributes:
        time: Steps so far, a tensor (1,).
    """

    def __init__(self, net: WaveNet, batch: int = 1, hop_length: int = 1) -> None:
        if not net.causal:
            raise ValueError("`net` must be causal for a step by step pass: build this WaveNet with causal=True.")
        zeros = net.input.weight.new_zeros
        self.net = net
        self.rings = [zeros(batch, (net.kernel_size - 1) * dilation, net.channels) for dilation in net.dilations]
        # ring[t % size] is the oldest input, size = (kernel_size - 1) * dilation samples ago
        self.offsets = [
            torch.arange(0, ring.shape[1], d, device=ring.device) for ring, d in zip(self.rings, net.dilations, strict=True)
        ]
        self.samples = None if net.features is None else zeros(hop_length, len(net.dilations), batch, 2 * net.channels)
        self.hop_length = hop_length
        self.time = torch.zeros(1, dtype=torch.long, device=net.input.weight.device)

    def reset(self) -> None:
        """Starts again, from silence."""
        for tensor in (*self.rings, self.time):
            tensor.zero_()

    def load(self, cond: Conditioning | None, projected: Tensor | None, frame: int) -> None:
        """Takes the features of the next `hop_length` steps, a frame; `cond` and `projected` as `WaveNet._project` gives."""
        if self.samples is not None:
            self.samples.copy_(cond.frame_to_samples(projected, frame).permute(2, 0, 1, 3))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Returns parameters (B, out_channels) for x (B, in_channels), one step a call."""
        net, h, skip = self.net, self.net.input(x), 0.0
        features = None if self.samples is None else self.samples.index_select(0, self.time % self.hop_length)[0]
        for i, (ring, offsets) in enumerate(zip(self.rings, self.offsets, strict=True)):
            past = ring.index_select(1, (self.time + offsets) % ring.shape[1])
            taps = torch.cat([past.flatten(1), h], dim=-1)
            ring.index_copy_(1, self.time % ring.shape[1], h.unsqueeze(1))
            h, skip = net._layer(i, h, taps, None if features is None else features[i], skip)
        self.time += 1
        return net._params(skip)


class TeacherDraw:
    """Draws whitened audio for a teacher, step by step, several steps to a replay of one graph; as `flow.sample`, in float32.

    Args:
        flow: One causal WaveNet over time, with any density.
        batch: Items that are drawn at once.
        hop_length: Samples per frame of the conditioning.
    """

    def __init__(self, flow: Flow, batch: int, hop_length: int) -> None:
        step = flow.transform
        if type(step) is not Autoregressive or type(step.conditioner) is not WaveNet:
            raise ValueError("`flow` must be one causal WaveNet, as wavflow.models.teacher makes: use its own `sample`.")
        self.step, self.steps = step, hop_length // step.group
        self.at_once = math.gcd(self.steps, STEPS)
        self.stepper = StaticStepper(step.conditioner, batch, self.steps)
        like = step.conditioner.input.weight
        self.x = like.new_zeros(batch, step.conditioner.input.in_features)
        self.z = like.new_zeros(*self.x.shape, self.steps)
        self.drawn = torch.zeros_like(self.z)
        self._replay: Callable[[], object] | None = None

    @torch.no_grad()
    def sample(self, z: Tensor, cond: Conditioning | None = None) -> Tensor:
        """Returns u (B, 1, T) of noise z (B, 1, T), T a whole number of frames."""
        step = self.step
        self._replay = self._replay or captured(self._draw, z.device)
        z = fold(z, step.group)
        if z.shape[:2] != self.x.shape or z.shape[-1] % self.steps:
            needed = f"{len(self.x)} items of whole frames, {self.steps} steps, got {len(z)} of {z.shape[-1]}"
            raise ValueError(f"`z` must be noise of {needed}: make another `TeacherDraw`, or pad.")
        cond, projected = step.conditioner._project(fold_cond(cond, step.group))
        self.stepper.reset()
        self.x.zero_()
        frames = []
        for frame, noise in enumerate(z.split(self.steps, dim=-1)):
            self.stepper.load(cond, projected, frame)
            self.z.copy_(noise)
            for _ in range(self.steps // self.at_once):
                self._replay()
            frames.append(self.drawn.clone())
        return unfold(torch.cat(frames, dim=-1), step.group)

    def _draw(self) -> None:
        for _ in range(self.at_once):
            now = self.stepper.time % self.steps
            x, _ = self.step.tau.inverse(self.z.index_select(2, now), self.stepper(self.x).unsqueeze(-1))
            self.drawn.index_copy_(2, now, x.to(self.drawn))
            self.x.copy_(x.squeeze(-1))


def colour(vocoder: Vocoder, u: Tensor, mel: Tensor) -> Tensor:
    """Undoes a model's whitening of u (B, 1, T) by its mel on the CPU; returns audio (B, T) where u was."""
    from wavflow.synthesis import colouring  # Numba takes a second to import

    if vocoder.whitening is None:
        return u[:, 0]
    filters = colouring.filters(vocoder.whitening)
    frames = torch.cat([mel[..., :1], mel, mel[..., -1:]], dim=-1).transpose(1, 2).float().cpu().contiguous().numpy()
    e = u[:, 0].float().cpu().contiguous().numpy()
    audio, log_gain = np.empty_like(e), np.empty_like(e)
    for item in range(len(e)):
        comb, past = np.zeros(filters.longest_lag), np.zeros(filters.to_autocorrelation.shape[1] - 1)
        colouring.colour(filters, frames[item], e[item], comb, past, audio[item], log_gain[item])
    return torch.from_numpy(audio).to(u)
