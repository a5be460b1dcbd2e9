"""Monotonic alignment search: the best way to spread symbols over frames in order."""

from __future__ import annotations

import numpy as np

from wavflow.kernels.compiling import compiled


@compiled
def align_monotonically(scores: np.ndarray, symbols: np.ndarray, frames: np.ndarray, durations: np.ndarray) -> None:
    """Finds, for each item, the durations of the symbols that have the greatest sum of scores.

    Each frame belongs to one symbol, in order, and each symbol has a frame at least.

    Args:
        scores: (B, T, S), overwritten by the best sums: [b, t, s] over all paths that end with frame t at symbol s.
        symbols: (B,) how many symbols each item has; the rest is padding.
        frames: (B,) how many frames, no fewer than symbols.
        durations: (B, S) zeros, where the frames of each symbol are written to.

    References:
        Glow-TTS (Kim et al., 2020), section 3.2 and algorithm 1, https://arxiv.org/abs/2005.11129
    """
    for b in range(len(scores)):
        best, last = scores[b], symbols[b] - 1
        for t in range(1, frames[b]):
            for s in range(min(t, last), max(0, last - (frames[b] - 1 - t)) - 1, -1):
                stay = best[t - 1, s] if s < t else -np.inf
                move = best[t - 1, s - 1] if s > 0 else -np.inf
                best[t, s] += max(stay, move)
        s = last
        for t in range(frames[b] - 1, -1, -1):
            durations[b, s] += 1
            if s > 0 and (s == t or best[t - 1, s - 1] > best[t - 1, s]):
                s -= 1
