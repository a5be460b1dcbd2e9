"""Whitening by the mel: an exact map at the right level, stable for any mel, that looks no further ahead than it may."""

from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch
from helpers import MEL, PRESETS, first_change, preset, random_log_mel, refused, tiny_mel
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from wavflow import MelSpectrogram, read_audio
from wavflow.flows import LinearPrediction
from wavflow.flows.linear_prediction import levinson_durbin
from wavflow.flows.whitening import Whitening


def speech(frames: int, clip: str = "alice-01", start: int = 8000) -> Tensor:
    """Bundled speech at 16 kHz (1, frames * 256)."""
    audio, _ = read_audio(files("wavflow.assets") / "speech" / f"{clip}.flac", 16000)
    return audio[start : start + frames * 256].to(torch.get_default_dtype()).unsqueeze(0)


def autocorrelation(x: Tensor, lags: int) -> Tensor:
    """Of lags 1 ... `lags`, relative to lag 0, for x (T,)."""
    return torch.stack([(x[lag:] * x[:-lag]).mean() for lag in range(1, lags + 1)]) / x.square().mean()


def colored_noise(*poles: complex, std: float, samples: int) -> Tensor:
    """An autoregressive process (1, T) with these poles and their conjugates, driven by Gaussian noise of that `std`."""
    a = np.real(np.poly([*poles, *np.conj(poles)]))
    return torch.from_numpy(scipy.signal.lfilter([1.0], a, std * torch.randn(1, samples).numpy()))


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip_of_every_preset(name: str) -> None:
    mel = preset(name)
    whitening = LinearPrediction(mel)
    audio = colored_noise(0.95 * np.exp(0.1j), 0.9 * np.exp(0.4j), std=0.01, samples=5 * mel.hop_length)

    u, log_det = whitening(audio.unsqueeze(1), mel(audio))
    back, log_det_back = whitening.inverse(u, mel(audio))

    torch.testing.assert_close(back.squeeze(1), audio, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_det, -log_det_back)
    assert log_det.shape == audio.shape
    assert 0.6 < u.std() < 1.6


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 5e-4)])
@pytest.mark.parametrize("mel_of", ["itself", "another clip"])
def test_round_trip_of_speech(dtype: torch.dtype, atol: float, mel_of: str) -> None:
    mel = preset("16k")
    audio = speech(80).to(dtype)
    cond = mel(audio if mel_of == "itself" else speech(80, "alice-07").to(dtype))
    whitening = LinearPrediction(mel)

    u, log_det = whitening(audio.unsqueeze(1), cond)  # 320 blocks: more than one segment of the inverse
    back, _ = whitening.inverse(u, cond)

    assert u.dtype == back.dtype == log_det.dtype == dtype
    torch.testing.assert_close(back.squeeze(1), audio, rtol=0, atol=atol)


def test_speech_is_whitened_to_unit_level() -> None:
    mel, audio = preset("16k"), speech(80)

    u, _ = LinearPrediction(mel)(audio.unsqueeze(1), mel(audio))

    assert 0.7 < u.std() < 1.3
    assert autocorrelation(audio[0], 8).abs().max() > 0.9
    assert autocorrelation(u[0, 0], 8).abs().max() < 0.2


@pytest.mark.parametrize("std", [1e-3, 0.1])
@pytest.mark.parametrize(
    "settings",
    [MEL, {"f_max": 11025.0}, {"f_max": 11025.0, "center": True}, {"sample_rate": 16000, "win_length": 800}],
    ids=["tiny", "22k", "centered", "short window"],
)
def test_gain_is_absolute(settings: dict, std: float) -> None:
    mel = MelSpectrogram(**settings)
    audio = std * torch.randn(2, 60 * mel.hop_length)

    u, log_det = LinearPrediction(mel, order=8)(audio.unsqueeze(1), mel(audio))

    assert 0.92 < u.std() < 1.08
    assert 0.92 < (-log_det).mean().exp() / std < 1.08


def test_autoregressive_process_is_whitened() -> None:
    mel = MelSpectrogram(f_max=11025.0)
    audio = colored_noise(0.95 * np.exp(0.3j), 0.9 * np.exp(1.2j), std=0.01, samples=150 * mel.hop_length)

    u, log_det = LinearPrediction(mel)(audio.unsqueeze(1), mel(audio))

    assert autocorrelation(audio[0], 1) > 0.9
    assert autocorrelation(u[0, 0], 20).abs().max() < 0.03
    innovations = (u.squeeze(1) * (-log_det).exp()).std()
    torch.testing.assert_close(innovations, torch.tensor(0.01), rtol=0.06, atol=0)


def test_floor_is_that_of_digital_silence() -> None:
    whitening = LinearPrediction(tiny_mel(), order=6)
    silence = torch.full((1, 8, 3), -200.0)

    coefficients, log_gain = whitening.predictor(silence)

    torch.testing.assert_close(log_gain, torch.full_like(log_gain, 2.0**-15 / 12**0.5).log(), rtol=0, atol=1e-5)
    assert coefficients.abs().max() < 1e-9


def test_impulse_response_decays() -> None:
    whitening, mel = LinearPrediction(tiny_mel(), order=6), random_log_mel(1).expand(1, 8, 40)
    impulse = torch.zeros(1, 1, 640)
    impulse[..., 0] = 1.0

    response = whitening.inverse(impulse, mel)[0].abs()

    gain = whitening.predictor(mel)[1][0, 0].exp()
    torch.testing.assert_close(response[0, 0, 0], gain)
    assert response[..., 320:].max() < 1e-6 * response.max()


def extreme_mel(name: str, n_mels: int, frames: int = 60) -> Tensor:
    """Mels (1, n_mels, F) that no recording has, between the floor of -11.5 and a loud 2."""
    mel = torch.full((1, n_mels, frames), -11.5)
    match name:
        case "loud":
            mel[:] = 2.0
        case "noise":
            mel = -5.0 + 3.0 * torch.randn(1, n_mels, frames)
        case "jumping level":
            mel[..., ::2] = 2.0
        case "one band":
            mel[:, n_mels // 2] = 2.0
        case "jumping band":
            mel[:, 7 * torch.arange(frames) % n_mels, torch.arange(frames)] = 2.0
        case "band that stays for two frames":
            mel[:, 11 * (torch.arange(frames) // 2) % n_mels, torch.arange(frames)] = 2.0
        case "scattered bands":
            mel[torch.rand_like(mel) < 0.05] = 2.0
    return mel


JUMPING = ["jumping band", "band that stays for two frames", "scattered bands"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("audio", "order"), [("tiny", 1), ("tiny", 6), ("22k", 32), ("tacotron2", 32)])
def test_extreme_mels_are_stable(audio: str, order: int, dtype: torch.dtype) -> None:
    names = ["silence", "loud", "noise", "jumping level", "one band"]
    convention = tiny_mel() if audio == "tiny" else preset(audio)
    whitening = LinearPrediction(convention, order)
    mel = torch.cat([extreme_mel(name, convention.n_mels) for name in names]).to(dtype)
    noise = torch.randn(len(names), 1, 60 * convention.hop_length, dtype=dtype)

    x, log_det = whitening.inverse(noise, mel)
    u, _ = whitening(noise, mel)

    for value in (x, log_det, u):
        assert torch.isfinite(value).all()
    assert (peaks(x) < 1000 * peaks(mel.exp())).all(), f"unstable filters ring far above it: {names}, {peaks(x)}"


@pytest.mark.parametrize("audio", PRESETS)
def test_no_mel_makes_an_unbounded_sound(audio: str) -> None:
    convention = preset(audio)
    mel = torch.cat([extreme_mel(name, convention.n_mels) for name in JUMPING])
    drawn, _ = Whitening(convention).inverse(torch.randn(len(JUMPING), 1, 60 * convention.hop_length), mel)
    assert (peaks(drawn) < 50 * peaks(mel.exp())).all(), f"{JUMPING}, {peaks(drawn)}"


def peaks(x: Tensor) -> Tensor:
    """The largest magnitude of each item."""
    return x.abs().flatten(1).amax(dim=1)


def harsh_audio(name: str, samples: int, hop_length: int) -> Tensor:
    """Sound (1, T) whose spectrum jumps as hard as sound can, a jump in every or every second frame."""
    t = torch.arange(samples)
    part = t // hop_length
    match name:
        case "two tones":
            frequency = torch.where(part % 2 == 0, 0.01, 0.9)  # radians a sample
            return 0.9 * torch.sin(torch.cumsum(frequency, 0)).unsqueeze(0)
        case "random tones":
            frequency = 3.0 * torch.rand(samples // hop_length + 1)[part]
            return 0.9 * torch.sin(torch.cumsum(frequency, 0)).unsqueeze(0)
        case "gated noise":
            return (0.3 * torch.randn(1, samples)).clamp(-1.0, 1.0) * (part // 2 % 2)
        case "clicks":
            return (t % hop_length == 0).to(torch.float64).unsqueeze(0)
        case "square wave":
            return torch.where(part % 2 == 0, 0.9, -0.9).unsqueeze(0)
    raise AssertionError(name)


@pytest.mark.parametrize("audio", ["16k", "22k", "tacotron2"])
def test_mels_of_harsh_audio_are_stable(audio: str) -> None:
    names = ["two tones", "random tones", "gated noise", "clicks", "square wave"]
    mel = preset(audio)
    recordings = torch.cat([harsh_audio(name, 60 * mel.hop_length, mel.hop_length) for name in names])

    drawn, _ = LinearPrediction(mel).inverse(torch.randn(len(names), 1, 60 * mel.hop_length), mel(recordings))

    ratio = drawn.squeeze(1).std(dim=1) / recordings.std(dim=1)
    assert ((ratio > 0.2) & (ratio < 5.0)).all(), f"{names}, {ratio}"


def gliding_audio(name: str, sample_rate: int, seconds: float = 2.0) -> Tensor:
    """A tone (1, T) at half of full scale whose pitch glides, in 16 bits."""
    t = torch.arange(int(seconds * sample_rate)) / sample_rate
    highest = 0.45 * sample_rate
    match name.split():
        case "sweep", rate:  # Hz per second, from 200 Hz on and again
            frequency = 200.0 + (float(rate) * t) % (highest - 200.0)
        case "siren", rate, depth:
            frequency = 1.5 * float(depth) + float(depth) * torch.sin(2.0 * torch.pi * float(rate) * t)
        case ["whistle"]:
            frequency = torch.where(t < 1.0, 800.0 + 1700.0 * t, 4200.0 - 1700.0 * t)
        case ["tone"]:
            frequency = torch.full_like(t, 1000.0)
    tone = 0.5 * torch.sin(2.0 * torch.pi * torch.cumsum(frequency.clamp(50.0, highest) / sample_rate, 0))
    return torch.round(32767.0 * tone).unsqueeze(0) / 32768.0


GLIDES = ["sweep 1000", "sweep 3000", "sweep 8000", "sweep 12000", "siren 1.5 400", "siren 6 1000", "whistle", "tone"]


@pytest.mark.parametrize("audio", PRESETS)
def test_gliding_tones_come_out_at_their_level(audio: str) -> None:
    """Alone, and above a floor of noise."""
    mel = preset(audio)
    clean = torch.cat([gliding_audio(name, mel.sample_rate) for name in GLIDES])
    clean = clean[:, : clean.shape[-1] // mel.hop_length * mel.hop_length]
    recordings = torch.cat([clean, clean + 10 ** (-50 / 20) * torch.randn(clean.shape)])

    drawn, _ = Whitening(mel).inverse(torch.randn(recordings.shape).unsqueeze(1), mel(recordings))

    ratio = drawn.squeeze(1).std(dim=1) / recordings.std(dim=1)
    assert ((ratio > 0.2) & (ratio < 2.0)).all(), f"{GLIDES}, {ratio}"
    assert (peaks(drawn) < 8.0 * peaks(recordings)).all(), f"{GLIDES}, {peaks(drawn)}"


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.float, nn.Module.double])
def test_constants_keep_their_precision_when_the_model_is_cast(cast: Callable[[nn.Module], nn.Module]) -> None:
    convention = preset("22k")
    mel = convention(gliding_audio("tone", 22050)[:, : 40 * 256])
    e = torch.randn(1, 1, mel.shape[-1] * 256)
    whitening = Whitening(convention)
    expected = whitening.inverse(e, mel)[0], whitening(e, mel)[0]

    cast(nn.ModuleList([whitening]))

    assert torch.equal(whitening.inverse(e, mel)[0], expected[0])
    assert torch.equal(whitening(e, mel)[0], expected[1])


def test_gradients_flow_both_ways() -> None:
    mel = tiny_mel(sample_rate=1000, n_fft=16, hop_length=4, win_length=16, n_mels=3, f_max=500.0)
    whitening, cond = LinearPrediction(mel, order=3), random_log_mel(2, batch=2, n_mels=3)
    x = torch.randn(2, 1, 8)

    for direction in (whitening.forward, whitening.inverse):
        assert torch.autograd.gradcheck(direction, (x.requires_grad_(), cond.requires_grad_()))


def test_levinson_durbin_solves_the_normal_equations() -> None:
    power = torch.rand(3, 33) + 0.1
    autocorrelation = torch.fft.irfft(power)[:, :11]

    a, error = levinson_durbin(autocorrelation)

    for item in range(3):
        r = autocorrelation[item].numpy()
        wanted = scipy.linalg.solve_toeplitz(r[:-1], r[1:])
        np.testing.assert_allclose(a[item], wanted, rtol=0, atol=1e-12)
        np.testing.assert_allclose(error[item], r[0] - wanted @ r[1:], rtol=1e-12)


def test_levinson_durbin_sums_no_empty_tensor() -> None:
    """onnxruntime-web 1.30 does not make 0 of it."""
    graph = make_fx(levinson_durbin, tracing_mode="fake")(torch.ones(2, 4)).graph
    summed = [node.args[0].meta["val"].shape for node in graph.nodes if node.target is torch.ops.aten.sum.dim_IntList]
    assert summed == [(2, 1), (2, 2)]


@pytest.mark.parametrize("name", [*PRESETS, "tiny"])
def test_look_ahead_is_within_that_of_the_upsampler(name: str) -> None:
    mel = tiny_mel() if name == "tiny" else preset(name)
    upsampler = 2 * mel.hop_length - mel.frame_center
    whitening, before = LinearPrediction(mel, order=4), random_log_mel(6, n_mels=mel.n_mels)
    after = before.clone()
    after[..., 3] += 1.0
    x = torch.randn(1, 1, 6 * mel.hop_length)

    for map_, log_det_sign in ((whitening.forward, -1), (whitening.inverse, 1)):
        values, log_gains = zip(*(map_(x, cond) for cond in (before, after)), strict=True)
        first = first_change(*values)
        assert first_change(*(log_det_sign * log_gain for log_gain in log_gains)) == first
        assert 3 * mel.hop_length - upsampler <= first < 3 * mel.hop_length + mel.hop_length // 2
        assert first % whitening.block_length == 0


def test_order_must_be_positive() -> None:
    refused(lambda: LinearPrediction(tiny_mel(), order=0), "`order` must be at least 1, got 0")
