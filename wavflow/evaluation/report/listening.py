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

from wavflow.clips import checked_clip
from wavflow.files import write_text
from wavflow.loudness import loudness
from wavflow.reporting.assets import asset
from wavflow.writing import encode_audio

LOW_ANCHOR = "low anchor"
LOWEST_RATE = 9000  # Hz, above which there is one
MOST_STIMULI = 9  # on one screen: the keys 1 to 9 play them
MOST_TRIALS = 100
PEAK = 0.95  # the rest is for what the browser's resampler overshoots


def write_listening_test(
    path: str | Path,
    sounds: Mapping[str, Mapping[str, Tensor]],
    sample_rate: int,
    reference: str = "recording",
    *,
    low_anchor: bool = True,
    pairs: Sequence[tuple[str, str]] | None = None,
    trials: int = 10,
    seed: int = 0,
    title: str = "Listening test",
) -> None:
    """Writes a self-contained page with an ABX and a MUSHRA test of the same sounds.

    The page draws its own random orders, new ones for each listener. It does not show the systems' names before the end;
    who reads its source can still find them out.

    Args:
        path: The page, an .html file.
        sounds: Clip to system to audio (T,) in [-1, 1); each clip in the same systems, aligned and equally long.
        sample_rate: In Hz.
        reference: The system that the others are held against: MUSHRA's reference, also hidden among the stimuli.
        low_anchor: Adds the reference, low-passed at 3.5 kHz, to MUSHRA's stimuli; needs more than 9 kHz sample rate.
        pairs: What ABX compares; by default the reference with each other system.
        trials: ABX trials of each pair. Ten, all correct, have p = .001; nine of ten p = .011.
        seed: Of the order in which the page holds its sounds.
        title: Heading of the page.

    Raises:
        ValueError: If there is nothing to compare, a clip lacks a system, a sound is no clip, silent or of another length,
            or an option is out of its range.
    """
    clips, systems = list(sounds), _systems(sounds, reference)
    if not 1 <= trials <= MOST_TRIALS:
        raise ValueError(f"`trials` must be 1 to {MOST_TRIALS} for each pair, got {trials}: ten are usual.")
    pairs = [(reference, system) for system in systems if system != reference] if pairs is None else list(pairs)
    for pair in pairs:
        if len(set(pair)) != 2 or not set(pair) <= set(systems):
            raise ValueError(f"`pairs` must name two of {', '.join(systems)} each, got {pair!r}: choose two of these.")
    if low_anchor:
        sounds = {clip: {**row, LOW_ANCHOR: low_pass(row[reference], sample_rate)} for clip, row in sounds.items()}
        systems.append(LOW_ANCHOR)
    if len(systems) > MOST_STIMULI:
        raise ValueError(
            f"`sounds` must hold at most {MOST_STIMULI} stimuli a clip, low anchor included, got {len(systems)}: "
            "leave systems out."
        )

    order = random.Random(seed)
    rows, orders = [], []
    for clip in clips:
        matched = match_loudness(sounds[clip], sample_rate, reference, clip)
        orders.append(order.sample(range(len(systems)), len(systems)))
        rows.append([base64.b64encode(encode_audio(matched[systems[i]], sample_rate)).decode() for i in orders[-1]])
    key = {
        "clips": clips,
        "systems": systems,
        "reference": systems.index(reference),
        "pairs": [[systems.index(system) for system in pair] for pair in pairs],
        "orders": orders,
    }
    # Hidden from the eye alone: whoever decodes this knows the systems, as does whoever looks at the spectra.
    hidden = base64.b64encode(json.dumps(key).encode()).decode()
    data = {"trials": trials, "key": hidden, "sounds": rows}
    data["page"] = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12]
    write_text(path, _page(title, sample_rate, data))


def match_loudness(
    sounds: Mapping[str, Tensor], sample_rate: int, reference: str = "recording", clip: str = "a clip"
) -> dict[str, Tensor]:
    """Brings versions of a clip to the loudness of one; where one would pass a peak of .95, all are turned down alike.

    Args:
        sounds: System to audio (T,).
        sample_rate: In Hz.
        reference: The system whose loudness the others get.
        clip: Its name in messages.

    Returns:
        System to audio (T,), float64.

    Raises:
        ValueError: If a sound is no clip or silent.
    """
    levels = {}
    for system, audio in sounds.items():
        try:
            levels[system] = loudness(audio, sample_rate)
        except ValueError as error:
            raise ValueError(f"`sounds`: {system!r} of {clip!r}: {error}") from None
    matched = {
        system: checked_clip(system, audio) * 10 ** ((levels[reference] - levels[system]) / 20)
        for system, audio in sounds.items()
    }
    peak = max(audio.abs().max().item() for audio in matched.values())
    return {system: audio * min(1.0, PEAK / peak) for system, audio in matched.items()}


def low_pass(audio: Tensor, sample_rate: int) -> Tensor:
    """MUSHRA's low anchor: flat within .1 dB to 3.5 kHz, at least 60 dB down from 4 kHz on, no delay.

    The recommendation asks for 25 dB at 4 kHz and 50 dB at 4.5 kHz.

    Args:
        audio: (T,).
        sample_rate: In Hz.

    Returns:
        Audio (T,), float64.

    Raises:
        ValueError: If the sample rate is too low for the filter to take much away.
    """
    audio = checked_clip("audio", audio)
    if sample_rate <= LOWEST_RATE:
        raise ValueError(
            f"`low_anchor` needs a sample rate of more than {LOWEST_RATE} Hz, got {sample_rate}: a low-pass at 3.5 kHz would "
            "hardly be heard, pass low_anchor=False."
        )
    taps, beta = signal.kaiserord(65.0, 500.0 / (sample_rate / 2))
    kernel = signal.firwin(taps | 1, 3750.0, window=("kaiser", beta), fs=sample_rate)
    full = signal.fftconvolve(audio.numpy(), kernel)
    return torch.from_numpy(full[len(kernel) // 2 :][: len(audio)].copy())


def _systems(sounds: Mapping[str, Mapping[str, Tensor]], reference: str) -> list[str]:
    """The systems that all clips come in, the reference first."""
    if not sounds:
        raise ValueError("`sounds` must hold at least one clip, got none: nothing to listen to.")
    every = list(dict.fromkeys(system for row in sounds.values() for system in row))
    if reference not in every or len(every) < 2:
        raise ValueError(
            f"`sounds` must hold the reference {reference!r} and at least one other system, got {', '.join(every) or 'none'}."
        )
    if LOW_ANCHOR in every:
        raise ValueError(f"`sounds` must leave the name {LOW_ANCHOR!r} to the anchor made here: rename that system.")
    for clip, row in sounds.items():
        if lacking := [system for system in every if system not in row]:
            raise ValueError(f"`sounds` must hold each clip in all systems, {clip!r} lacks {', '.join(lacking)}: leave it out.")
        if len(lengths := {len(audio) for audio in row.values()}) > 1:
            raise ValueError(
                f"`sounds` must be equally long within a clip, {clip!r} has {sorted(lengths)} samples: align them and cut."
            )
    return [reference, *(system for system in every if system != reference)]


def _page(title: str, sample_rate: int, data: Mapping[str, object]) -> str:
    return Template(asset("listen.html")).substitute(
        title=html.escape(title),
        sample_rate=sample_rate,
        style=asset("page.css") + asset("listen.css"),
        theme=asset("theme.js"),
        player=asset("player.js"),
        session=asset("listen-session.js"),
        script=asset("listen.js"),
        data=json.dumps(data).replace("<", "\\u003c"),  # no name may end the script element
    )
