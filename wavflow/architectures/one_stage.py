"""Flows that are trained by maximum likelihood in one stage and draw in parallel."""

from __future__ import annotations

from typing import Any

from wavflow.architectures.assembly import assemble, full_config
from wavflow.arguments import at_least
from wavflow.distributions import Gaussian
from wavflow.flows.autoregressive import MaskedAutoregressive
from wavflow.flows.base import Chain, Flow, Transform
from wavflow.flows.coupling import Coupling
from wavflow.flows.elementwise import Affine
from wavflow.flows.linear import InvertibleLinear, Reverse
from wavflow.flows.reshape import Folded, Partial
from wavflow.flows.static import ActNorm
from wavflow.nn.wavenet import WaveNet
from wavflow.nn.wavenet2d import WaveNet2d
from wavflow.vocoder import Vocoder


def waveglow(
    mel: dict[str, Any] | None = None,
    flows: int = 12,
    group: int = 8,
    early_every: int = 4,
    early_channels: int = 2,
    layers: int = 8,
    channels: int = 256,
    kernel_size: int = 3,
    dilation_cycle: int = 8,
    skip_channels: int | None = None,
    features: int = 80,
    upsampling: str = "linear",
    whitening: int = 32,
    pitch: bool = True,
    n_speakers: int = 0,
) -> Vocoder:
    """Builds a WaveGlow: groups of samples as channels, mixed by invertible 1x1 maps between affine couplings.

    Args:
        mel: Arguments of `MelSpectrogram`.
        flows: Pairs of a 1x1 map and a coupling, each coupling with its own WaveNet, which is not causal.
        group: Samples to a time step ("squeeze"); must divide the hop length.
        early_every: Flows after which some channels are taken out as noise ("early outputs").
        early_channels: How many channels.
        layers: Of each WaveNet. All others: see `teacher`; but `kernel_size` must be odd.

    References:
        WaveGlow (Prenger et al., 2018), section 2, https://arxiv.org/abs/1811.00002
    """
    config = full_config("waveglow", locals())
    at_least(1, flows=flows, early_every=early_every)
    if group - (flows - 1) // early_every * early_channels < 2:
        raise ValueError(
            f"`group` {group} leaves fewer than 2 channels after {(flows - 1) // early_every} early outputs of "
            f"{early_channels}: raise `group` or `early_every`."
        )

    def stage(remaining: int, width: int) -> Chain:
        steps: list[Transform] = []
        for _ in range(min(early_every, remaining)):
            kept, changed = Coupling.halves(width)
            net = WaveNet(kept, 2 * changed, layers, channels, kernel_size, dilation_cycle, skip_channels, features, False)
            steps += [InvertibleLinear(width), Coupling(Affine(), net, width)]
        if remaining > early_every:
            steps.append(Partial(stage(remaining - early_every, width - early_channels), width - early_channels))
        return Chain(steps)

    return assemble(config, Flow(Folded(stage(flows, group), group), Gaussian()), "group", group)


def flowavenet(
    mel: dict[str, Any] | None = None,
    scales: int = 8,
    flows: int = 6,
    factor_out: int = 4,
    layers: int = 2,
    channels: int = 256,
    kernel_size: int = 3,
    dilation_cycle: int = 8,
    skip_channels: int | None = None,
    features: int = 80,
    upsampling: str = "linear",
    whitening: int = 32,
    pitch: bool = True,
    n_speakers: int = 0,
) -> Vocoder:
    """Builds a FloWaveNet: a multi-scale Real-NVP on audio; each scale folds pairs of samples into channels.

    Args:
        mel: Arguments of `MelSpectrogram`.
        scales: How often the signal is folded by 2; 2^scales must divide the hop length.
        flows: Pairs of an ActNorm and a coupling, at each scale; the halves change places from one to the next.
        factor_out: Scales after which half of the channels are taken out as noise.
        layers: Of each WaveNet. This and all others: see `waveglow`.

    References:
        FloWaveNet (Kim et al., 2018), section 3, https://arxiv.org/abs/1811.02155; Real-NVP (Dinh et al., 2016)
    """
    config = full_config("flowavenet", locals())
    at_least(1, scales=scales, flows=flows, factor_out=factor_out)

    def scale(number: int, width: int) -> Transform:
        half, steps = width, []
        for i in range(flows):
            net = WaveNet(half, 2 * half, layers, channels, kernel_size, dilation_cycle, skip_channels, features, False)
            steps += [ActNorm(2 * width), Coupling(Affine(), net, 2 * width, swap=bool(i % 2))]
        if number < scales:
            leaves = number % factor_out == 0
            rest = scale(number + 1, width if leaves else 2 * width)
            steps.append(Partial(rest, width) if leaves else rest)
        return Folded(Chain(steps), 2)

    return assemble(config, Flow(scale(1, 1), Gaussian()), "scales", 2**scales)


def waveflow(
    mel: dict[str, Any] | None = None,
    height: int = 16,
    flows: int = 8,
    layers: int = 8,
    channels: int = 64,
    kernel_size: int = 3,
    height_kernel_size: int = 3,
    dilation_cycle: int = 8,
    skip_channels: int | None = None,
    features: int = 80,
    upsampling: str = "linear",
    whitening: int = 32,
    pitch: bool = True,
    n_speakers: int = 0,
) -> Vocoder:
    """Builds a WaveFlow: audio folded into rows, autoregressive from row to row and parallel along each.

    Args:
        mel: Arguments of `MelSpectrogram`.
        height: Rows, and steps of a draw per flow; must divide the hop length.
        flows: Autoregressive maps, each with its own two-dimensional WaveNet; the rows are reversed between them.
        layers: Of each WaveNet, see `WaveNet2d`.
        channels: Residual width.
        kernel_size: Taps along a row, an odd number.
        height_kernel_size: Taps across rows.
        dilation_cycle: Layers until the dilation along a row restarts. All others: see `teacher`.

    References:
        WaveFlow (Ping et al., 2020), section 3, https://arxiv.org/abs/1912.01219
    """
    config = full_config("waveflow", locals())
    at_least(1, flows=flows)
    steps: list[Transform] = []
    for _ in range(flows):
        net = WaveNet2d(
            2,
            height_kernel_size,
            layers=layers,
            channels=channels,
            kernel_size=kernel_size,
            dilation_cycle=dilation_cycle,
            skip_channels=skip_channels,
            cond_channels=features,
        )
        steps += [MaskedAutoregressive(Affine(), net, height), Reverse()]
    return assemble(config, Flow(Folded(Chain(steps), height), Gaussian()), "height", height)
