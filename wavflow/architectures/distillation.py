"""Teacher and student, the two halves of distillation."""

from __future__ import annotations

from typing import Any

from wavflow.architectures.assembly import assemble, full_config
from wavflow.arguments import at_least, choose
from wavflow.distributions import Gaussian, Logistic
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.base import Chain, Flow, Inverse
from wavflow.flows.elementwise import Affine, Inverted, MixtureCDF
from wavflow.flows.triangular import TriangularAffine
from wavflow.nn.wavenet import WaveNet
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
    config = full_config("teacher", locals())
    base = Gaussian() if density == "gaussian" else Logistic()
    taus = {
        "gaussian": Affine,
        "logistic": Affine,
        "mixture_of_gaussians": lambda: MixtureCDF(Gaussian, base, n_components),
        "mixture_of_logistics": lambda: MixtureCDF(Logistic, base, n_components),
    }
    tau = choose("density", density, taus)()
    net = WaveNet(1, tau.n_params, layers, channels, kernel_size, dilation_cycle, skip_channels, features)
    return assemble(config, Flow(Autoregressive(tau, net), base))


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
        group: Samples to a step of the WaveNets: divides their cost, and multiplies how far they look back;
            must divide the hop length. Densities stay exact for each sample, see `TriangularAffine`.
        layers: Of each flow. This and all others: see `teacher`, whose `whitening`, `pitch` and `n_speakers` must be the same.
        pulses: Share of a voice's power that pulses at its pitch make up, below 1; 0 for noise alone. See `HarmonicSource`.
            It needs the pitch, of a mel that resolves it.

    Returns:
        An untrained `Vocoder`; its flow is the identity.

    References:
        Parallel WaveNet (van den Oord et al., 2017), https://arxiv.org/abs/1711.10433; ClariNet (Ping et al., 2018),
        https://arxiv.org/abs/1807.07281
    """
    config = full_config("student", locals())
    bases = {"gaussian": Gaussian, "logistic": Logistic}
    density = choose("base", base, bases)()
    at_least(1, flows=flows, group=group)
    tau = Inverted(TriangularAffine(group))  # L z + loc, parameters from z; z * scale + loc for a group of 1

    def flow() -> Inverse:
        net = WaveNet(group, tau.n_params, layers, channels, kernel_size, dilation_cycle, skip_channels, features)
        return Inverse(Autoregressive(tau, net, group))

    return assemble(config, Flow(Chain([flow() for _ in range(flows)]), density), "group", group)
