"""Phones of any language by the program espeak-ng, where it is installed; it is called, not linked."""

from __future__ import annotations

import re
import subprocess

from wavflow.text import PAUSES


def phones(text: str, voice: str) -> list[str]:
    """Returns the phones and pauses of a text, as espeak-ng's voice reads it; ValueError where that is missing."""
    symbols: list[str] = []
    for part in re.findall(r"[^,.;:!?]+|[,.;:!?]", text):
        if part in PAUSES:
            symbols.append(part)
            continue
        symbols += [" "] if symbols and symbols[-1] not in PAUSES else []
        symbols += re.findall(r"[ˈˌ]?[^ˈˌː]ː?", " ".join(_spoken(part, voice).split()))
    return symbols


def _spoken(text: str, voice: str) -> str:
    try:
        done = subprocess.run(
            ["espeak-ng", "-q", "--ipa", "-v", voice, "--stdin"], input=text, capture_output=True, encoding="utf-8", timeout=60
        )
    except FileNotFoundError as error:
        raise ValueError("`alphabet` espeak needs the program espeak-ng: install it, or take phones or characters.") from error
    if done.returncode:
        raise ValueError(f"`alphabet`: espeak-ng can't read by voice {voice!r}: {done.stderr.strip()[:200]}")
    return re.sub(r"\([a-z-]+\)", "", done.stdout)  # marks where it changes the language
