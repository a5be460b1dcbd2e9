"""English phones: a lexicon, rules for endings that it lacks, and letter-to-sound rules for unknown names.

The lexicon is that of the package misaki (US English, Apache-2.0): its word lists are read as data, its code is not imported.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from wavflow.text import PAUSES
from wavflow.text.numbers import spelled_out

VOWELS = "AIOQWYaeiouæɑɔəɛɜɪʊʌᵊᵻ"
WEAK = {"a": "ə", "an": "ən", "the": "ðə"}  # as they are said in a sentence
LETTERS = {  # letter-to-sound rules for unknown words, longest first
    "tion": "ʃən", "sion": "ʒən", "ough": "O", "augh": "ɔ", "eigh": "A", "igh": "I", "tch": "ʧ", "sch": "sk", "dge": "ʤ",
    "ch": "ʧ", "sh": "ʃ", "th": "θ", "ph": "f", "gh": "ɡ", "wh": "w", "ck": "k", "ng": "ŋ", "qu": "kw", "kn": "n", "wr": "ɹ",
    "ee": "i", "ea": "i", "oo": "u", "ou": "W", "ow": "O", "oa": "O", "ai": "A", "ay": "A", "ei": "A", "ey": "i", "ie": "i",
    "au": "ɔ", "aw": "ɔ", "oi": "Y", "oy": "Y", "ew": "u", "ue": "u", "er": "əɹ", "ir": "ɜɹ", "ur": "ɜɹ", "ar": "ɑɹ",
    "or": "ɔɹ",
    "a": "æ", "b": "b", "c": "k", "d": "d", "e": "ɛ", "f": "f", "g": "ɡ", "h": "h", "i": "ɪ", "j": "ʤ", "k": "k", "l": "l",
    "m": "m", "n": "n", "o": "ɑ", "p": "p", "q": "k", "r": "ɹ", "s": "s", "t": "t", "u": "ʌ", "v": "v", "w": "w", "x": "ks",
    "y": "i", "z": "z",
}  # fmt: skip


def phones(text: str) -> list[str]:
    """Returns the phones of an English text: a vowel with its stress is one symbol, words are parted by a space or a pause."""
    symbols: list[str] = []
    tokens = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*|[,.;:!?]", spelled_out(text))
    for i, token in enumerate(tokens):
        if token in PAUSES:
            if symbols and symbols[-1] not in PAUSES:
                symbols.append(token)
            continue
        said = pronounce(token)
        if token.lower() in WEAK and not (token == "A" and i > 0):
            said = WEAK[token.lower()]
        if token.lower() == "the" and i + 1 < len(tokens) and re.match(f"[ˈˌ]?[{VOWELS}]", pronounce(tokens[i + 1])):
            said = "ði"
        symbols += [" "] if symbols and symbols[-1] not in PAUSES else []
        symbols += re.findall(r"[ˈˌ]?[^ˈˌ]", said)
    return symbols


def pronounce(word: str) -> str:
    """Returns the phones of one word, with a mark of stress before a stressed vowel."""
    if word in PAUSES:
        return ""
    if said := _listed(word) or _derived(word):
        return said
    if word.isupper() and (len(word) <= 4 or not set(word) & set("AEIOUY")):
        return "".join(_listed(letter) for letter in word)
    for cut in range(len(word) - 3, 2, -1):  # a compound
        first, last = _listed(word[:cut]), _listed(word[cut:].lower())
        if first and last:
            return first + last.replace("ˈ", "ˌ")
    return _read(word)


@cache
def _lexicon() -> dict[str, str]:
    place = importlib.util.find_spec("misaki")  # finds it, without running it
    if place is None or not place.submodule_search_locations:
        raise ValueError("`alphabet` phones needs the lexicon of misaki: pip install 'wavflow[tts]', or take characters.")
    folder, words = Path(place.submodule_search_locations[0]) / "data", {}
    for name in ("us_silver.json", "us_gold.json"):  # the better one last
        for word, said in json.loads((folder / name).read_text(encoding="utf-8")).items():
            words[word] = said if isinstance(said, str) else said["DEFAULT"]
    return {word: said for word, said in words.items() if said}


def _listed(word: str) -> str:
    words = _lexicon()
    return words.get(word) or words.get(word.lower()) or words.get(word.capitalize()) or words.get(word.upper()) or ""


def _derived(word: str) -> str:
    """Returns the phones of a listed word with an ending; "" for none."""
    lower = word.lower()
    if lower.endswith(("'s", "s'")):
        return _with_s(pronounce(word[:-2])) if len(word) > 2 else ""
    for ending, add in ENDINGS.items():
        stem = word[: -len(ending)]
        if len(stem) < 2 or not lower.endswith(ending):
            continue
        stems = (
            [stem, stem + "e"] + ([stem[:-1]] if stem[-1] == stem[-2] else []) + ([stem[:-1] + "y"] if stem[-1] == "i" else [])
        )
        for known in stems:
            if said := _listed(known):
                return said + add if isinstance(add, str) else add(said)
    return ""


def _with_s(said: str) -> str:
    return said + ("ᵻz" if said[-1] in "szʃʒʧʤ" else "s" if said[-1] in "ptkfθ" else "z")


def _with_d(said: str) -> str:
    return said + ("ᵻd" if said[-1] in "td" else "t" if said[-1] in "pkfθsʃʧ" else "d")


ENDINGS: dict[str, str | Callable[[str], str]] = {
    **{"s": _with_s, "es": _with_s, "ed": _with_d, "d": _with_d},
    **{"ing": "ɪŋ", "ly": "li", "er": "əɹ", "ness": "nəs", "in'": "ɪn"},
}


def _read(word: str) -> str:
    letters = word.lower()
    if len(letters) > 3 and letters[-1] == "e" and letters[-2] not in "aeiouy":
        letters = letters[:-1]
    letters = re.sub(r"([^eo])\1", r"\1", letters)
    said = "".join(LETTERS[match[0]] for match in re.finditer("|".join(LETTERS), letters))
    return re.sub(f"([{VOWELS}])", r"ˈ\1", said, count=1)
