"""Whitening by the mel's pitch: it hears the period, takes it out exactly, stays stable, and makes noise hum."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from flow_checks import assert_round_trip
from helpers import (
    PRESETS,
    assert_log_det_is_exact,
    first_change,
    jacobian,
    preset,
    random_log_mel,
    refused,
    tiny_mel,
    tiny_student,
    tiny_teacher,
)
from torch import Tensor

from wavflow import MelSpectrogram, read_audio
from wavflow.audio_density import check_pair
from wavflow.data import bundled_speech
from wavflow.evaluation import level_db, pyin_track, voicing_f1
from wavflow.flows import LinearPrediction, MelPitch, PitchPrediction
from wavflow.flows.base import Transform
from wavflow.flows.whitening import Whitening

# The smallest mel that resolves harmonics: 8 kHz, windows of 64 ms, 30 bands below 1.2 kHz, frames of 8 ms.
VOICE = {"sample_rate": 8000, "n_fft": 512, "hop_length": 64, "win_length": 512, "n_mels": 60, "f_max": 4000.0}


def fine_mel(**changes: Any) -> MelSpectrogram:
    return MelSpectrogram(**VOICE | changes)


def comb(strongest: float = 0.95) -> PitchPrediction:
    return PitchPrediction(fine_mel(), MelPitch(fine_mel(), strongest))


MAPS: dict[str, Callable[[], Transform]] = {
    "comb": comb,
    "linear": lambda: LinearPrediction(fine_mel(), order=4),
    "whitening": lambda: Whitening(fine_mel()),
}


def voice(pitch: Tensor, sample_rate: int = 8000, noise: float = 3e-4) -> Tensor:
    """Pulses (1, T) at a pitch (T,) in Hz through three formants, level 0.05, and a little noise."""
    phase = 2.0 * math.pi * torch.cumsum(pitch / sample_rate, dim=-1)
    harmonics = torch.arange(1, int(min(4000.0, sample_rate / 2) / pitch.max()))
    pulses = torch.cos(harmonics.unsqueeze(1) * phase).sum(dim=0)
    poles = [
        radius * np.exp(sign * 2j * np.pi * formant / sample_rate)
        for formant, radius in ((600, 0.96), (1200, 0.93), (2500, 0.9))
        for sign in (1, -1)
    ]
    x = torch.from_numpy(scipy.signal.lfilter([1.0], np.real(np.poly(poles)), pulses.numpy()))
    return (0.05 * x / x.std() + noise * torch.randn_like(x)).unsqueeze(0)


def steady(hertz: float, frames: int = 60, **changes: Any) -> Tensor:
    return voice(torch.full((frames * 64,), hertz), **changes)


def voiced_mel(*hertz: float) -> Tensor:
    """One frame (1, n_mels, F) from the middle of a steady voice, for each pitch."""
    return torch.cat([fine_mel()(steady(pitch, 24))[..., 12:13] for pitch in hertz], dim=-1)


def periodicity(x: Tensor, lag: int) -> float:
    """Normalized autocorrelation at a lag, of (T,)."""
    late, early = x[lag:], x[:-lag]
    return float((late * early).sum() / (late.square().sum() * early.square().sum()).sqrt())


def nats(whitening: Whitening, x: Tensor, mel: Tensor) -> Tensor:
    """Mean Gaussian log-density of audio (1, T) after the whitening alone, without the first and last tenth."""
    e, log_det = whitening(x.unsqueeze(1), mel)
    log_prob = log_det - 0.5 * e[:, 0].square() - 0.5 * math.log(2.0 * math.pi)
    edge = x.shape[-1] // 10
    return log_prob[:, edge:-edge].mean()


# The pitch


def heard_pitch(pitch: Tensor) -> tuple[Tensor, Tensor]:
    """The relative error of the period and the strength, of the frames whose window holds nothing but the voice."""
    mel = fine_mel()
    period, strength = MelPitch(mel)(mel(voice(pitch)).transpose(1, 2))
    true = 8000.0 / pitch.unflatten(0, (-1, 64)).mean(dim=-1)
    return (period[0] / true - 1.0)[8:-8].abs(), strength[0, 8:-8]


@pytest.mark.parametrize("glide", [0.9, 1.0, 1.15])
@pytest.mark.parametrize("hertz", [100.0, 130.0, 170.0, 220.0, 280.0, 340.0])
def test_pitch_of_a_voice(hertz: float, glide: float) -> None:
    error, strength = heard_pitch(hertz * torch.linspace(1.0, glide, 60 * 64))
    assert error.max() < 0.015
    assert strength.min() > 0.85


@pytest.mark.parametrize(("hertz", "glide"), [(80.0, 1.0), (80.0, 1.15), (88.0, 0.9), (400.0, 1.0)])
def test_pitch_at_the_ends_of_the_range(hertz: float, glide: float) -> None:
    error, strength = heard_pitch(hertz * torch.linspace(1.0, glide, 60 * 64))
    assert (error < 0.015).double().mean() > 0.9, "harmonics 80 Hz apart all but merge in 64 ms: some frames may slip"
    assert strength.mean() > 0.7


def test_pitch_is_finer_than_its_grid() -> None:
    error, _ = heard_pitch(torch.linspace(140.0, 210.0, 400 * 64))
    assert error.mean() < 0.0013  # the grid alone, of steps of 0.7 %, leaves 0.0019


@pytest.mark.parametrize("name", ["noise", "silence", "low sine", "high sine", "DC", "click"])
def test_sounds_without_pitch_are_not_voiced(name: str) -> None:
    mel, t = fine_mel(), torch.arange(60 * 64)
    sound = {
        "noise": 0.1 * torch.randn(t.shape),
        "silence": torch.zeros(t.shape),
        "low sine": 0.3 * torch.sin(2.0 * math.pi * 150.0 / 8000.0 * t),
        "high sine": 0.3 * torch.sin(2.0 * math.pi * 1000.0 / 8000.0 * t),
        "DC": torch.full(t.shape, 0.3),
        "click": (t == 2000).double(),
    }[name]
    _, strength = MelPitch(mel)(mel(sound.unsqueeze(0)).transpose(1, 2))
    assert strength.mean() < 0.3


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("name", ["16k", "22k", "48k", "fine"])
def test_pitch_of_any_mel_is_within_its_bounds(name: str, spread: float) -> None:
    mel = fine_mel() if name == "fine" else preset(name)
    pitch = MelPitch(mel, strongest=0.8)
    period, strength = pitch(spread * torch.randn(4, 50, mel.n_mels))
    lags, kernel = pitch.taps(period)
    assert torch.isfinite(period).all()
    assert (strength >= 0.0).all()
    assert (strength <= 0.8).all()
    assert (strength > 0.0).any() == (spread > 0.0)
    assert lags.min() >= pitch.shortest_lag > 0
    assert lags.max() <= pitch.longest_lag
    assert (lags.diff() == 1).all()
    assert (kernel >= 0.0).all()
    torch.testing.assert_close(kernel.sum(dim=-1), torch.ones_like(period))
    assert ((lags * kernel).sum(dim=-1) - period).abs().max() < 0.2, "the kernel sits on the period"


def test_innovation_share_is_that_of_the_comb() -> None:
    pitch = MelPitch(fine_mel())
    _, kernel = pitch.taps(torch.tensor(50.0))
    response = torch.fft.rfft(kernel, 2048).abs()
    strength = torch.tensor([[0.0, 0.5, 0.95]])
    share = pitch.innovation_share(strength, 1025)
    torch.testing.assert_close(share, 1.0 - (strength.unsqueeze(-1) * response).square())
    assert (share > 0.0).all()
    assert (share <= 1.0).all()
    # What it is for: the comb's inverse, 1 / (1 - b H e^(-i phase)), multiplies the power by one over it, mean over phases.
    phase = torch.linspace(0.0, 2.0 * math.pi, 513)[:-1]
    comb_response = 1.0 - (strength.unsqueeze(-1) * response).unsqueeze(-1) * torch.exp(1j * phase)
    torch.testing.assert_close(1.0 / share, comb_response.abs().square().reciprocal().mean(dim=-1))


# The map


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("name", ["comb", "whitening"])
def test_log_det_and_jacobian(name: str, direction: str) -> None:
    map_, mel, x = MAPS[name](), voiced_mel(130.0, 220.0, 340.0), torch.randn(1, 1, 192)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return getattr(map_, direction)(x, mel)

    assert_log_det_is_exact(function, x)
    if name == "comb":
        matrix = jacobian(lambda x: function(x)[0], x)[:, 0, :, 0]
        assert (function(x)[1] == 0.0).all()
        assert (matrix.diagonal() == 1.0).all()
        sign = -1.0 if direction == "forward" else 1.0
        assert (sign * matrix[150].flip(0)[40:65]).max() > 0.2, "220 Hz: row 150 looks back by 36 samples and more"


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-9), (torch.float32, 5e-4)])
@pytest.mark.parametrize("name", ["comb", "whitening"])
def test_round_trip(name: str, dtype: torch.dtype, atol: float) -> None:
    map_ = MAPS[name]()
    audio = torch.cat([steady(120.0), steady(260.0)]).to(dtype)
    mel = fine_mel()(audio)
    for cond in (mel, mel.flip(0)):  # its own, and somebody else's
        assert_round_trip(map_, audio.unsqueeze(1), cond, least=0.01, atol=atol)
    assert map_.inverse(audio.unsqueeze(1), mel)[0].dtype == dtype


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip_of_every_preset(name: str) -> None:
    mel = preset(name)
    audio = voice(torch.full((24 * mel.hop_length,), 180.0), mel.sample_rate)
    assert_round_trip(PitchPrediction(mel, MelPitch(mel)), audio.unsqueeze(1), mel(audio), least=0.01)


def test_gradients_flow_both_ways() -> None:
    map_, mel, weight = comb(), voiced_mel(130.0, 220.0, 340.0), torch.randn(192)
    z = torch.randn(1, 1, 192, requires_grad=True)
    matrix = jacobian(lambda x: map_(x, mel)[0], torch.zeros(1, 1, 192))[:, 0, :, 0]
    x, _ = map_.inverse(z, mel)
    (x.flatten() @ weight).backward()
    torch.testing.assert_close(x.flatten(), torch.linalg.solve(matrix, z.flatten()))
    torch.testing.assert_close(z.grad.flatten(), torch.linalg.solve(matrix.T, weight))
    cond = mel.requires_grad_()
    for direction in (map_.forward, map_.inverse):
        assert torch.autograd.gradcheck(direction, (z, cond), fast_mode=True)


def test_items_of_a_batch_are_apart() -> None:
    map_, mel, x = comb(), torch.cat([voiced_mel(130.0, 220.0), voiced_mel(340.0, 110.0)]), torch.randn(2, 1, 128)
    for direction in (map_.forward, map_.inverse):
        together = direction(x, mel)[0]
        for item in range(2):
            torch.testing.assert_close(together[item], direction(x[item : item + 1], mel[item : item + 1])[0][0])
        torch.testing.assert_close(direction(x, mel[:1])[0], direction(x, mel[:1].expand(2, -1, -1))[0])


@pytest.mark.parametrize(
    ("x_shape", "frames", "message"),
    [
        ((1, 192), 3, r"`x` must be \(B, 1, T\), got \(1, 192\)"),
        ((1, 2, 192), 3, r"`x` must be \(B, 1, T\), got \(1, 2, 192\)"),
        ((1, 1, 191), 3, "`cond` must be a mel with one frame per 64 samples, got 3 frames for 191 samples: cut or pad"),
        ((1, 1, 256), 3, "got 3 frames for 256 samples"),
        ((1, 1, 192), None, "got no mel"),
    ],
)
@pytest.mark.parametrize("name", MAPS)
def test_wrong_shapes_are_refused(name: str, x_shape: tuple[int, ...], frames: int | None, message: str) -> None:
    map_, mel = MAPS[name](), None if frames is None else random_log_mel(frames, n_mels=60)
    for direction in (map_.forward, map_.inverse):
        refused(partial(direction, torch.zeros(x_shape), mel), message)


@pytest.mark.parametrize("name", MAPS)
def test_bfloat16_autocast_leaves_it_exact(name: str) -> None:
    torch.set_default_dtype(torch.float32)
    audio, map_ = steady(150.0).float(), MAPS[name]()
    mel = fine_mel()(audio)
    wanted = [direction(audio.unsqueeze(1), mel) for direction in (map_.forward, map_.inverse)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        came = [direction(audio.unsqueeze(1), mel) for direction in (map_.forward, map_.inverse)]
    torch.testing.assert_close(came, wanted)
    assert {value.dtype for pair in came for value in pair} == {torch.float32}


@pytest.mark.parametrize("name", ["fine", "centered", "16k", "tacotron2"])
def test_look_ahead_is_within_that_of_the_upsampler(name: str) -> None:
    mel = preset(name) if name in PRESETS else fine_mel(center=name == "centered")
    audio = torch.cat([voice(torch.full((16 * mel.hop_length,), hertz), mel.sample_rate) for hertz in (150.0, 200.0)])
    before, other = mel(audio)[..., 5:11].split(1)
    after = torch.where(torch.arange(6) == 3, other, before)
    x = torch.randn(1, 1, 6 * mel.hop_length)
    for map_ in (PitchPrediction(mel, MelPitch(mel)), Whitening(mel, order=4)):
        for direction in (map_.forward, map_.inverse):
            first = first_change(direction(x, before)[0], direction(x, after)[0])
            reach = mel.hop_length - mel.frame_center  # of the interpolation between frames: less than the upsampler's
            assert 3 * mel.hop_length - reach <= first < 3 * mel.hop_length + mel.hop_length // 2


# Stability


@pytest.mark.parametrize("strongest", [0.5, 0.95])
@pytest.mark.parametrize("name", ["steady", "jumping", "random"])
def test_impulse_response_decays(name: str, strongest: float) -> None:
    map_, frames = comb(strongest), 120
    if name == "random":
        mel = 5.0 * torch.randn(1, 60, frames)
    else:
        voices = voiced_mel(150.0) if name == "steady" else voiced_mel(110.0, 150.0, 210.0, 290.0, 370.0)
        mel = voices[..., torch.randint(voices.shape[-1], (frames,))]
        assert map_.pitch(mel.transpose(1, 2))[1].min() > 0.99 * strongest
    impulse = torch.zeros(1, 1, frames * 64)
    impulse[..., 0] = 1.0
    response = map_.inverse(impulse, mel)[0][0, 0].abs()

    # Each sample is at most b times the largest of the longest lag before it: no sequence of frames can beat that.
    periods = torch.arange(frames * 64) // map_.pitch.longest_lag
    assert (response <= strongest**periods + 1e-12).all()
    assert (response[1:] > 0.1 * strongest).any() == (name != "random")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_mels_stay_finite(dtype: torch.dtype) -> None:
    frames = 24
    mels = {
        "silence": torch.full((1, 60, frames), -11.5),
        "loud": torch.full((1, 60, frames), 2.0),
        "noise": -5.0 + 3.0 * torch.randn(1, 60, frames),
        "jumping level": (13.5 * (torch.arange(frames) % 2) - 11.5).expand(1, 60, -1),
        "one band": torch.where(torch.arange(60) == 10, 2.0, -11.5).unsqueeze(1).expand(1, 60, frames),
        "voices": 5.0 + voiced_mel(*torch.linspace(90.0, 400.0, frames)[torch.randperm(frames)].tolist()),
    }
    mel = torch.cat(list(mels.values())).to(dtype)
    whitening, noise = Whitening(fine_mel()), torch.randn(len(mels), 1, frames * 64, dtype=dtype)
    for direction, level in ((whitening.forward, math.inf), (whitening.inverse, 1000.0)):
        value, log_det = direction(noise, mel)
        assert torch.isfinite(value).all()
        assert torch.isfinite(log_det).all()
        ratio = value.abs().amax(dim=(1, 2)) / mel.exp().amax(dim=(1, 2))
        assert (ratio < level).all(), f"unstable filters ring far above the mel's level: {list(mels)}, {ratio}"


# The gain


@pytest.mark.parametrize("hertz", [100.0, 125.0, 160.0, 200.0])
def test_voice_is_predicted_and_noise_becomes_voiced(hertz: float) -> None:
    audio, noise = steady(hertz, 100), torch.randn(1, 1, 6400)
    mel = fine_mel()(audio)
    both, envelope = (Whitening(fine_mel(), order=16, pitch=pitch) for pitch in (True, False))
    residuals = [whitening(audio.unsqueeze(1), mel)[0][..., 640:-640].var() for whitening in (both, envelope)]
    hummed, whispered = (whitening.inverse(noise, mel)[0][0, 0, 640:] for whitening in (both, envelope))
    assert residuals[0] < 0.6 * residuals[1]
    assert nats(both, audio, mel) > nats(envelope, audio, mel) + 0.5
    lag = round(8000.0 / hertz)
    assert periodicity(audio[0], lag) > 0.95
    assert periodicity(hummed, lag) > 0.7
    assert abs(periodicity(whispered, lag)) < 0.4


def test_level_is_kept() -> None:
    audio = voice(torch.linspace(100.0, 220.0, 400 * 64))  # a glide, so that harmonics meet the formants and miss them
    audio = audio.expand(4, -1)
    mel, noise = fine_mel()(audio), torch.randn(4, 1, 400 * 64)
    whitening, share_forgotten = Whitening(fine_mel()), Whitening(fine_mel())
    share_forgotten.transforms[0].pitch = None
    drawn = [map_.inverse(noise, mel)[0] for map_ in (whitening, share_forgotten)]
    levels = [level_db(sound.flatten(), audio.flatten()) for sound in drawn]
    assert abs(levels[0]) < 3.5  # the lag window takes 3 dB of it: smoothed, the envelope meets the comb's harmonics less
    assert levels[1] > levels[0] + 3.0, "the comb adds power that the envelope holds already"


# Where there is no pitch to read, and who shares it


@pytest.mark.parametrize("name", PRESETS)
def test_presets_resolve_pitch(name: str) -> None:
    assert MelPitch.resolves(preset(name))
    assert Whitening(preset(name)).pitch


@pytest.mark.parametrize("changes", [{}, {"n_mels": 8, "n_fft": 512, "win_length": 512}, {"n_fft": 512, "n_mels": 60}])
def test_coarse_mels_do_without(changes: dict[str, int]) -> None:
    mel = tiny_mel() if not changes else fine_mel(**{"win_length": 256} | changes)
    assert not MelPitch.resolves(mel)
    refused(lambda: MelPitch(mel), "`mel` does not resolve the harmonics of a voice: it needs longer windows")
    whitening = Whitening(mel, order=4)
    assert not whitening.pitch
    assert [type(map_) for map_ in whitening.transforms] == [LinearPrediction]


def test_models_share_it_or_are_refused() -> None:
    with_pitch, without = {"mel": VOICE, "pitch": True}, {"mel": VOICE, "pitch": False}
    for make in (tiny_teacher, tiny_student):
        assert make(**with_pitch).config["pitch"] is True
        assert make(**with_pitch).whitening.pitch
        assert make(**without).config["pitch"] is False
        assert not make(**without).whitening.pitch
    check_pair(tiny_student(**with_pitch), tiny_teacher(**with_pitch))
    check_pair(tiny_student(**without), tiny_teacher(**without))
    with pytest.raises(ValueError, match=r"`teacher` whitens by .*'pitch': False.*, the student by .*'pitch': True"):
        check_pair(tiny_student(**with_pitch), tiny_teacher(**without))


@pytest.mark.slow
def test_bundled_speech() -> None:
    mel = preset("16k")
    audio, _ = read_audio(sorted(bundled_speech().glob("*.flac"))[13], 16000)
    audio = audio[: 200 * 256].double() + (torch.rand(200 * 256) - 0.5) / 32768.0
    cond, noise = mel(audio.unsqueeze(0)), torch.randn(1, 1, 200 * 256)
    both, envelope = (Whitening(mel, pitch=pitch) for pitch in (True, False))
    hummed, whispered = (whitening.inverse(noise, cond)[0].flatten() for whitening in (both, envelope))
    period, strength = MelPitch(mel)(cond.transpose(1, 2))
    hertz, voiced, _ = librosa.pyin(audio.numpy(), fmin=65, fmax=420, sr=16000, frame_length=1024, hop_length=256)
    voiced = torch.from_numpy(voiced[:200]) & (strength[0] > 0)
    cents = 1200.0 * torch.log2(16000.0 / period[0, voiced] / torch.from_numpy(hertz[:200])[voiced])
    assert voiced.sum() > 80
    assert cents.abs().median() < 40.0
    assert nats(both, audio.unsqueeze(0), cond) > nats(envelope, audio.unsqueeze(0), cond) + 0.08
    wanted = pyin_track(audio, 16000)
    hummed_f1, whispered_f1 = (voicing_f1(pyin_track(sound, 16000), wanted) for sound in (hummed, whispered))
    assert hummed_f1 > max(0.8, whispered_f1 + 0.1)
    assert abs(level_db(hummed, audio)) < 5.0
