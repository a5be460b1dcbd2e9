"""Models of a listener: intelligibility (ESTOI) and quality (PESQ), by the libraries that everybody uses for them.

Arguments as in `wavflow.evaluation.metrics`. MissingLibraryError where the library is not installed.
"""

import contextlib
import math
import warnings

import librosa
import numpy as np

from wavflow.clips import Audio, checked_pair, optional_library

PESQ_RATE = 16000
PESQ_SECONDS = 20  # what it was made for; the library has room for 50 utterances, and writes beyond it


def estoi(generated: Audio, reference: Audio, sample_rate: int) -> float:
    """Extended short-time objective intelligibility: 1 for identical clips, about 0 for unrelated ones.

    Correlates third-octave envelopes below 4.3 kHz over windows of .4 s; pystoi resamples to 10 kHz and drops frames in
    which the recording is silent. Level does not matter to it, and fine structure within a frame hardly does.

    Returns:
        At most 1; `nan` where a clip is silent, or under .4 s of the recording are not.

    References:
        Jensen and Taal, 2016, "An algorithm for predicting the intelligibility of speech masked by modulated noise maskers"
    """
    generated, reference = checked_pair(generated, reference)
    stoi = optional_library("pystoi", "estoi").stoi
    if not (generated.any() and reference.any()):
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # "not enough frames", or what follows from none at all
        try:
            return float(stoi(reference.numpy(), generated.numpy(), sample_rate, extended=True))
        except (RuntimeWarning, ValueError):
            return math.nan


def pesq_wb(generated: Audio, reference: Audio, sample_rate: int) -> float:
    """Wide-band PESQ (P.862.2) at 16 kHz, a predicted opinion score of 1.04 to 4.64.

    Levels and aligns the clips by itself, up to a delay per utterance. Saturated for poor audio: trust it above about 1.2.
    Clips longer than 20 s are measured in equal segments, and the mean is taken: on long ones the library crashes.

    Returns:
        `nan` where a clip is silent or shorter than a quarter of a second, or PESQ finds no utterance in any segment.

    References:
        ITU-T P.862.2 (2007)
    """
    generated, reference = checked_pair(generated, reference)
    pesq = optional_library("pesq", "pesq_wb")
    clips = (librosa.resample(clip.numpy(), orig_sr=sample_rate, target_sr=PESQ_RATE) for clip in (reference, generated))
    segments = math.ceil(len(reference) / sample_rate / PESQ_SECONDS)
    scores = []
    for clean, degraded in zip(*(np.array_split(clip, segments) for clip in clips), strict=True):
        if clean.any() and degraded.any():
            with contextlib.suppress(pesq.PesqError):
                scores.append(pesq.pesq(PESQ_RATE, clean, degraded, "wb"))
    return float(np.mean(scores)) if scores else math.nan
