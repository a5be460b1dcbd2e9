"""Pitch tracks, and metrics of two of them: is the clip voiced where the recording is voiced, and at its pitch?

A track is F0 in Hz per frame, (frames,), `nan` where unvoiced. Compute each signal's track once; all metrics share it. Two
trackers tell two things: pYIN finds a pitch in any periodic waveform; DIO looks for the fundamental's own zero crossings
and loses it when the phases are random, which makes its voicing a metric of phase coherence.

Two tracks must come from the same tracker, at the same rate, from aligned clips; the longer is cut to the shorter. ValueError
where a track is not (frames,), or marks unvoiced frames by 0.
"""

import math

import librosa
import numpy as np

from wavflow.clips import Audio, checked_clip, optional_library

GROSS_ERROR_CENTS = 600
HOP_LENGTH = 256  # samples from frame to frame of `pyin_track`


def pyin_track(audio: Audio, sample_rate: int) -> np.ndarray:
    """F0 by pYIN between 60 and 500 Hz, every 256 samples, over windows of about 90 ms.

    Takes about as long as the audio lasts. Returns (T // 256 + 1,); all `nan` for a clip shorter than a window.

    References:
        pYIN (Mauch and Dixon, 2014)
    """
    frame_length = 2 ** round(math.log2(0.09 * sample_rate))  # 2048 samples at 22.05 kHz
    clip = checked_clip("audio", audio).numpy()
    if len(clip) < frame_length:
        return np.full(len(clip) // HOP_LENGTH + 1, math.nan)
    return librosa.pyin(clip, fmin=60, fmax=500, sr=sample_rate, frame_length=frame_length, hop_length=HOP_LENGTH)[0]


def dio_track(audio: Audio, sample_rate: int) -> np.ndarray:
    """F0 by DIO between 71 and 800 Hz, every 5 ms.

    A pitch may change by 5 % per frame, where WORLD's own setting is 10 %: with that, random phase still counts as voiced
    (voicing F1 of .4 instead of .05), while WORLD's copy synthesis stays at .9.
    MissingLibraryError where pyworld is not installed.

    References:
        DIO (Morise, Kawahara and Katayose, 2009)
    """
    pyworld = optional_library("pyworld", "dio_track")
    f0, _ = pyworld.dio(checked_clip("audio", audio).numpy(), sample_rate, allowed_range=0.05)
    return np.where(f0 > 0, f0, math.nan)


def voicing_f1(found: np.ndarray, wanted: np.ndarray) -> float:
    """F1 of the voiced frames; 1 is perfect. `nan` if neither track has a voiced frame.

    A whisper has about 0 by DIO. By pYIN it varies from 0 to .9: noise that rings in a formant is nearly periodic.

    Args:
        found: (frames,), track of the generated clip.
        wanted: (frames,), track of the recording.

    References:
        Values of other systems: CARGAN (Morrison et al., 2022), https://arxiv.org/abs/2110.10139
    """
    found, wanted = _same_frames(found, wanted)
    found, wanted = np.isfinite(found), np.isfinite(wanted)
    marked = found.sum() + wanted.sum()
    return float(2 * (found & wanted).sum() / marked) if marked else math.nan


def f0_rmse_cents(found: np.ndarray, wanted: np.ndarray) -> float:
    """RMS of the pitch error in cents over frames voiced in both, without gross errors; `nan` if there is no such frame.

    Errors above 600 cents, mostly octaves, would drown the others; `gross_error_fraction` counts them. Arguments as for
    `voicing_f1`.
    """
    cents = _errors(found, wanted)
    fine = cents[cents <= GROSS_ERROR_CENTS]
    return float(np.sqrt(np.mean(fine**2))) if len(fine) else math.nan


def gross_error_fraction(found: np.ndarray, wanted: np.ndarray) -> float:
    """Fraction of the frames voiced in both whose pitch is off by more than 600 cents; `nan` if there is no such frame.

    Arguments as for `voicing_f1`.
    """
    cents = _errors(found, wanted)
    return float(np.mean(cents > GROSS_ERROR_CENTS)) if len(cents) else math.nan


def _errors(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """|error| in cents of the frames voiced in both."""
    found, wanted = _same_frames(found, wanted)
    both = np.isfinite(found) & np.isfinite(wanted)
    return np.abs(1200 * np.log2(found[both] / wanted[both]))


def _same_frames(found: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for name, track in (("found", found), ("wanted", wanted)):
        if track.ndim != 1 or (track <= 0).any():
            raise ValueError(
                f"`{name}` must be a track (frames,) in Hz with `nan` where unvoiced, got shape {track.shape} and a least "
                f"value of {np.nanmin(track, initial=math.inf):g}: take it from `pyin_track` or `dio_track`."
            )
    frames = min(len(found), len(wanted))
    return found[:frames], wanted[:frames]
