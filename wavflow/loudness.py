"""How loud a clip is."""

import math

import torch
import torchaudio.functional as F
from torch import Tensor

from wavflow.clips import checked_clip

_BLOCK_SECONDS = 0.4  # BS.1770's gating block


def loudness(audio: Tensor, sample_rate: int) -> float:
    """Integrated loudness of one channel after ITU-R BS.1770-4, in LKFS.

    Unlike the recommendation, the clip is filled up with zeros to whole gating blocks of .4 s, so that short clips and the
    ends of all clips count, and blocks are gated at -70 LKFS below a peak of .25 and not below full scale.

    Args:
        audio: (T,).
        sample_rate: In Hz.

    Raises:
        ValueError: If it is no clip or silent.
    """
    audio = checked_clip("audio", audio)
    peak = audio.abs().max().item()
    if peak == 0:
        raise ValueError("`audio` must not be silent, got zeros alone: nothing can be heard or matched, leave it out.")
    block = round(_BLOCK_SECONDS * sample_rate)
    step = round(block / 4)
    missing = max(block - len(audio), -(len(audio) - block) % step if len(audio) > block else 0)
    # torchaudio's filters clamp to [-1, 1], and the K-weighting amplifies: a quarter leaves 12 dB of room.
    scaled = torch.nn.functional.pad(audio * (0.25 / peak), (0, missing))
    return F.loudness(scaled[None], sample_rate).item() + 20 * math.log10(peak / 0.25)
