"""From text to symbols: English phones by a lexicon, characters, or the phones of espeak-ng for other languages."""

from __future__ import annotations

import re
import unicodedata

PAUSES = ",.;:!?"
"""Punctuation that is heard; a symbol each."""

LONGEST = 200
"""Characters of a sentence that is spoken at once."""

_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "…": ".", "—": ",", "–": "-", "(": ",", ")": ",", "\u00a0": " "}
)


def symbols_of(text: str, alphabet: str) -> list[str]:
    """Returns the symbols of a text: a space, those of the words and pauses, a pause at the end; none for an empty text.

    Args:
        text: Some sentences.
        alphabet: "phones" for English phones, "characters" for any language as it is written, "espeak:<voice>" for the
            phones of espeak-ng, such as "espeak:de".

    Raises:
        ValueError: There is no such alphabet, or what it needs is not installed.

    Examples:
        >>> symbols_of("Hi, Ann!", "characters")
        [' ', 'h', 'i', ',', ' ', 'a', 'n', 'n', '!']
    """
    if alphabet == "characters":
        symbols = list(plain(text).casefold())
    elif alphabet == "phones":
        from wavflow.text.english import phones

        symbols = phones(plain(text))
    elif alphabet.startswith("espeak:"):
        from wavflow.text.espeak import phones as espeak_phones

        symbols = espeak_phones(plain(text), alphabet.removeprefix("espeak:"))
    else:
        raise ValueError(f"`alphabet` must be phones, characters or espeak:<voice>, got {alphabet!r}.")
    while symbols and symbols[-1] == " ":
        symbols.pop()
    if not symbols:
        return []
    return [" ", *symbols, *([] if symbols[-1] in PAUSES else ["."])]


def plain(text: str) -> str:
    """Returns a text composed (NFC), with plain quotes and dashes, single spaces, and no invisible characters."""
    text = unicodedata.normalize("NFC", text).translate(_PLAIN)
    text = "".join(" " if char.isspace() else char for char in text if char.isspace() or char.isprintable())
    return re.sub(" +", " ", re.sub(r" *([,.;:!?])[,.;:!? ]*", r"\1 ", text)).strip(" ,;:")


def sentences(text: str) -> list[str]:
    """Splits a text at the ends of sentences and lines, and what is still longer at pauses, words, or anywhere.

    Examples:
        >>> sentences("So it is. Is it?")
        ['So it is.', 'Is it?']
    """
    parts = []
    for sentence in re.split(r"(?<=[.!?])[\"')\]]*\s+|\n\s*\n", text):
        while len(sentence) > LONGEST:
            head = sentence[:LONGEST]
            cut = max(head.rfind(mark) + 1 for mark in (", ", "; ", ": ")) or head.rfind(" ") + 1 or LONGEST
            parts.append(sentence[:cut])
            sentence = sentence[cut:]
        parts.append(sentence)
    return [part.strip() for part in parts if any(char.isalnum() for char in part)]
