"""The listening test: one page that holds its sounds, to be opened from disk in a browser, ABX or MUSHRA.

Versions of a clip are compared at one loudness (ITU-R BS.1770-4, gated), that of the recording, since the louder of two
sounds is easily taken for the better one. Results come as CSV files, which `wavflow.evaluation.report.listening_results` reads.

References:
    MUSHRA and its low anchor: ITU-R BS.1534-3 (2015). Loudness: ITU-R BS.1770-4 (2015), annex 1.
"""

import base64
import hashlib
import html
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import torch
from scipy import signal
from torch import Tensor

from wavflow.files import write_text
from wavflow.loudness import loudness
from wavflow.reporting.assets import asset
from wavflow.writing import encode_audio

LOW_ANCHOR = "low anchor"
LOWEST_RATE = 9000  # Hz, above which there is one
TRIALS = 10  # of each pair in ABX: all correct have p = .001, nine of ten p = .011
PEAK = 0.95  # the rest is for what the browser's resampler overshoots


def write_listening_test(
    path: str | Path,
    sounds: Mapping[str, Mapping[str, Tensor]],
    sample_rate: int,
    pairs: Sequence[tuple[str, str]],
    title: str = "Listening test",
) -> None:
    """Writes a self-contained page with an ABX and a MUSHRA test of the same sounds.

    The page draws its own random orders, new ones for each listener. It does not show the systems' names before the end;
    who reads its source can still find them out. Where the sample rate allows it, MUSHRA's stimuli include a low anchor.

    Args:
        path: The page, an .html file.
        sounds: Clip to system to audio (T,) in [-1, 1); each clip in the same systems, at most 8, aligned and equally long.
            The first is the reference, which is also hidden among the stimuli.
        sample_rate: In Hz.
        pairs: The systems that ABX compares.
        title: Heading of the page.

    Raises:
        ValueError: If there is no clip, a system has the anchor's name, or a sound is silent.
    """
    if not sounds:
        raise ValueError("`sounds` must hold at least one clip, got none: nothing to listen to.")
    clips, systems = list(sounds), list(next(iter(sounds.values())))
    if LOW_ANCHOR in systems:
        raise ValueError(f"`sounds` must leave the name {LOW_ANCHOR!r} to the anchor made here: rename that system.")
    if sample_rate > LOWEST_RATE:
        sounds = {clip: {**row, LOW_ANCHOR: low_pass(row[systems[0]], sample_rate)} for clip, row in sounds.items()}
        systems.append(LOW_ANCHOR)

    order = random.Random(0)
    rows, orders = [], []
    for clip in clips:
        matched = match_loudness(sounds[clip], sample_rate, clip)
        orders.append(order.sample(range(len(systems)), len(systems)))
        rows.append([base64.b64encode(encode_audio(matched[systems[i]], sample_rate)).decode() for i in orders[-1]])
    key = {
        "clips": clips,
        "systems": systems,
        "reference": 0,
        "pairs": [[systems.index(system) for system in pair] for pair in pairs],
        "orders": orders,
    }
    # Hidden from the eye alone: whoever decodes this knows the systems, as does whoever looks at the spectra.
    hidden = base64.b64encode(json.dumps(key).encode()).decode()
    data = {"trials": TRIALS, "key": hidden, "sounds": rows}
    data["page"] = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12]
    write_text(path, _page(title, sample_rate, data))


def match_loudness(sounds: Mapping[str, Tensor], sample_rate: int, clip: str) -> dict[str, Tensor]:
    """Brings versions of a clip to the loudness of the first; where one would pass a peak of .95, all are turned down alike.

    Returns:
        System to audio (T,), float64.

    Raises:
        ValueError: If a sound is silent; the message names it and the clip.
    """
    levels = {}
    for system, audio in sounds.items():
        try:
            levels[system] = loudness(audio, sample_rate)
        except ValueError as error:
            raise ValueError(f"`sounds`: {system!r} of {clip!r}: {error}") from None
    wanted = next(iter(levels.values()))
    matched = {name: audio.double() * 10 ** ((wanted - levels[name]) / 20) for name, audio in sounds.items()}
    peak = max(audio.abs().max().item() for audio in matched.values())
    return {system: audio * min(1.0, PEAK / peak) for system, audio in matched.items()}


def low_pass(audio: Tensor, sample_rate: int) -> Tensor:
    """MUSHRA's low anchor (T,): flat within .1 dB to 3.5 kHz, at least 60 dB down from 4 kHz on, no delay.

    The recommendation asks for 25 dB at 4 kHz and 50 dB at 4.5 kHz. The sample rate must be above `LOWEST_RATE`.
    """
    taps, beta = signal.kaiserord(65.0, 500.0 / (sample_rate / 2))
    kernel = signal.firwin(taps | 1, 3750.0, window=("kaiser", beta), fs=sample_rate)
    full = signal.fftconvolve(audio.double().numpy(), kernel)
    return torch.from_numpy(full[len(kernel) // 2 :][: len(audio)].copy())


def _page(title: str, sample_rate: int, data: Mapping[str, object]) -> str:
    return Template(asset("listen.html")).substitute(
        title=html.escape(title),
        sample_rate=sample_rate,
        style=asset("page.css") + asset("listen.css"),
        script="\n".join(asset(name) for name in ("theme.js", "player.js", "listen-session.js", "listen.js")),
        data=json.dumps(data).replace("<", "\\u003c"),  # no name may end the script element
    )
