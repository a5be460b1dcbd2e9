"""The configurations of the one model class: flat, plain arguments in, an untrained `Vocoder` out.

Teacher and student are the two halves of distillation; `waveglow`, `flowavenet` and `waveflow` are flows that are trained by
maximum likelihood in one stage *and* draw in parallel, of the same parts. All whiten the audio by its mel first, and
all start as the identity behind that.
"""

from __future__ import annotations

from typing import Any

from wavflow.arguments import at_least, choose
from wavflow.distributions import Gaussian, Logistic
from wavflow.flows.autoregressive import Autoregressive, MaskedAutoregressive
from wavflow.flows.base import Chain, Flow, Inverse, Transform
from wavflow.flows.coupling import Coupling
from wavflow.flows.elementwise import Affine, Inverted, MixtureCDF
from wavflow.flows.harmonic_source import HarmonicSource
from wavflow.flows.linear import InvertibleLinear, Reverse
from wavflow.flows.reshape import Folded, Partial
from wavflow.flows.static import ActNorm
from wavflow.flows.triangular import TriangularAffine
from wavflow.flows.whitening import Whitening
from wavflow.mel import MelSpectrogram
from wavflow.nn.upsampler import Upsampler
from wavflow.nn.wavenet import WaveNet
from wavflow.nn.wavenet2d import WaveNet2d
from wavflow.vocoder import Vocoder


def teacher(
    mel: dict[str, Any] | None = None,
    density: str = "gaussian",
    n_components: int = 10,
    layers: int = 24,
    channels: int = 128,
    kernel_size: int = 3,
    dilation_cycle: int = 8,
    skip_channels: int | None = None,
    features: int = 80,
    upsampling: str = "linear",
    whitening: int = 32,
    pitch: bool = True,
    n_speakers: int = 0,
) -> Vocoder:
    """Builds a teacher: a masked autoregressive flow with one causal WaveNet; scores in one pass, samples step by step.

    Args:
        mel: Arguments of `MelSpectrogram`; with `n_mels` 0, here as in all others, the model takes no mel.
        density: Of a sample given its past: "gaussian", "logistic", "mixture_of_gaussians" or "mixture_of_logistics".
        n_components: Of a mixture.
        layers: See `WaveNet`, as the next four.
        channels: Residual width.
        kernel_size: Taps.
        dilation_cycle: Layers until the dilation restarts.
        skip_channels: `channels` if not given.
        features: Width of the upsampler.
        upsampling: "linear" or "smoothing", see `Upsampler`.
        whitening: Order of the linear prediction by the mel; 0 for no whitening at all.
        pitch: Whether to whiten by the mel's pitch too.
        n_speakers: Size of the speaker embedding; 0 for none.

    Returns:
        An untrained `Vocoder`. Its flow is the identity for a Gaussian or logistic density.
    """
    config = _config("teacher", locals())
    base = Gaussian() if density == "gaussian" else Logistic()
    taus = {
        "gaussian": Affine,
        "logistic": Affine,
        "mixture_of_gaussians": lambda: MixtureCDF(Gaussian, base, n_components),
        "mixture_of_logistics": lambda: MixtureCDF(Logistic, base, n_components),
    }
    tau = choose("density", density, taus)()
    net = WaveNet(1, tau.n_params, layers, channels, kernel_size, dilation_cycle, skip_channels, features)
    return _vocoder(config, Flow(Autoregressive(tau, net), base))


def student(
    mel: dict[str, Any] | None = None,
    base: str = "gaussian",
    flows: int = 6,
    group: int = 1,
    layers: int = 10,
    channels: int = 64,
    kernel_size: int = 3,
    dilation_cycle: int = 10,
    skip_channels: int | None = None,
    features: int = 80,
    upsampling: str = "linear",
    whitening: int = 32,
    pitch: bool = True,
    pulses: float = 0.0,
    n_speakers: int = 0,
) -> Vocoder:
    """Builds a student: inverse autoregressive flows in a row; draws in one pass and knows the density of what it drew.

    Time order is kept between the flows, so that x[t] given z[<t] stays base-distributed (Parallel WaveNet, section 3).

    Args:
        mel: Arguments of `MelSpectrogram`; those of the teacher.
        base: "gaussian" or "logistic".
        flows: Inverse autoregressive flows, each with its own WaveNet.
        group: Samples to a step of the WaveNets, which then cost so many times less and look so many times further back;
            must divide the hop length. Densities stay exact for each sample, see `TriangularAffine`.
        layers: Of each flow, see `WaveNet`, as the next four.
        channels: Residual width.
        kernel_size: Taps.
        dilation_cycle: Layers until the dilation restarts.
        skip_channels: `channels` if not given.
        features: Width of the upsampler.
        upsampling: "linear" or "smoothing", see `Upsampler`.
        whitening: Order of the linear prediction by the mel; that of the teacher. 0 for no whitening at all.
        pitch: Whether to whiten by the mel's pitch too; as the teacher.
        pulses: Share of a voice's power that pulses at its pitch make up, below 1; 0 for noise alone. See `HarmonicSource`.
            It needs the pitch, of a mel that resolves it.
        n_speakers: Size of the speaker embedding; 0 for none.

    Returns:
        An untrained `Vocoder`; its flow is the identity.

    References:
        Parallel WaveNet (van den Oord et al., 2017), https://arxiv.org/abs/1711.10433; ClariNet (Ping et al., 2018),
        https://arxiv.org/abs/1807.07281
    """
    config = _config("student", locals())
    bases = {"gaussian": Gaussian, "logistic": Logistic}
    density = choose("base", base, bases)()
    at_least(1, flows=flows, group=group)
    tau = Inverted(TriangularAffine(group))  # L z + loc, parameters from z; z * scale + loc for a group of 1

    def flow() -> Inverse:
        net = WaveNet(group, tau.n_params, layers, channels, kernel_size, dilation_cycle, skip_channels, features)
        return Inverse(Autoregressive(tau, net, group))

    return _vocoder(config, Flow(Chain([flow() for _ in range(flows)]), density), "group", group)


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
        early_every: After so many flows, some channels are noise already and leave ("early outputs").
        early_channels: How many.
        layers: Of each WaveNet, see there, as the next four.
        channels: Residual width.
        kernel_size: Taps, an odd number.
        dilation_cycle: Layers until the dilation restarts.
        skip_channels: `channels` if not given.
        features: Width of the upsampler.
        upsampling: "linear" or "smoothing", see `Upsampler`.
        whitening: Order of the linear prediction by the mel; 0 for no whitening at all.
        pitch: Whether to whiten by the mel's pitch too.
        n_speakers: Size of the speaker embedding; 0 for none.

    References:
        WaveGlow (Prenger et al., 2018), section 2, https://arxiv.org/abs/1811.00002
    """
    config = _config("waveglow", locals())
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

    return _vocoder(config, Flow(Folded(stage(flows, group), group), Gaussian()), "group", group)


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
        factor_out: After so many scales, half of the channels are noise already and leave.
        layers: Of each WaveNet. This and all others: see `waveglow`.

    References:
        FloWaveNet (Kim et al., 2018), section 3, https://arxiv.org/abs/1811.02155; Real-NVP (Dinh et al., 2016)
    """
    config = _config("flowavenet", locals())
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

    return _vocoder(config, Flow(scale(1, 1), Gaussian()), "scales", 2**scales)


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
        dilation_cycle: Layers until the dilation along a row restarts. All others: see `waveglow`.

    References:
        WaveFlow (Ping et al., 2020), section 3, https://arxiv.org/abs/1912.01219
    """
    config = _config("waveflow", locals())
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
    return _vocoder(config, Flow(Folded(Chain(steps), height), Gaussian()), "height", height)


def _config(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration that builds a model again, its mel spelled out in full."""
    arguments = dict(arguments)
    arguments["mel"] = MelSpectrogram(**(arguments["mel"] or {})).spec
    return {"_target_": f"wavflow.models.{name}", **arguments}


def _vocoder(config: dict[str, Any], flow: Flow, name: str = "", fold: int = 1) -> Vocoder:
    """Puts a model together; `fold` samples, of the argument `name`, are one time step of its flow."""
    mel = MelSpectrogram(**config["mel"])
    if mel.hop_length % fold:
        raise ValueError(f"`{name}` {config[name]} folds {fold} samples, which must divide a frame's {mel.hop_length}.")
    upsampler = Upsampler(mel.n_mels, config["features"], mel.hop_length, mel.frame_center, config["upsampling"])
    whitening = Whitening(mel, config["whitening"], config["pitch"]) if config["whitening"] else None
    source = None
    if config.get("pulses") and whitening is not None and whitening.pitch:
        source = HarmonicSource(mel, whitening.transforms[1].pitch, config["pulses"])
    vocoder = Vocoder(mel, upsampler, flow, whitening, config["n_speakers"], source)
    vocoder.config = config
    return vocoder
