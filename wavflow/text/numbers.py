"""English text with all that is not a word written out: numbers, money, dates, times, abbreviations."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

ABBREVIATIONS = {
    "Mr": "mister", "Mrs": "missis", "Ms": "miz", "Dr": "doctor", "St": "saint", "Jr": "junior", "Sr": "senior",
    "Prof": "professor", "Capt": "captain", "Col": "colonel", "Gen": "general", "Lieut": "lieutenant", "Lt": "lieutenant",
    "Sgt": "sergeant", "Rev": "reverend", "Hon": "honorable", "Gov": "governor", "Co": "company", "Inc": "incorporated",
    "Ltd": "limited", "vs": "versus", "etc": "et cetera", "No": "number", "Jan": "January", "Feb": "February", "Mar": "March",
    "Apr": "April", "Jun": "June", "Jul": "July", "Aug": "August", "Sept": "September", "Sep": "September", "Oct": "October",
    "Nov": "November", "Dec": "December", "e.g": "for example", "i.e": "that is", "a.m": "A M", "p.m": "P M",
}  # fmt: skip
UNITS = {"km": "kilometers", "cm": "centimeters", "mm": "millimeters", "kg": "kilograms", "mph": "miles per hour", "ft": "feet",
         "lb": "pounds", "lbs": "pounds", "oz": "ounces", "kHz": "kilohertz", "Hz": "hertz"}  # fmt: skip
MONEY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
SIGNS = {"&": " and ", "%": " percent ", "+": " plus ", "=": " equals ", "@": " at ", "#": " number ", "°": " degrees "}
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"


def spelled_out(text: str) -> str:
    """Returns an English text in words and punctuation alone.

    >>> spelled_out("Dr. Ames paid $3.50 at 7:15.")
    'doctor Ames paid three dollars and fifty cents at seven fifteen.'
    """
    names = "|".join(sorted(map(re.escape, ABBREVIATIONS), key=len, reverse=True))
    text = re.sub(rf"\b({names})\.(?!\w)", lambda m: ABBREVIATIONS[m[1]], text)
    for pattern, words in RULES:
        text = re.sub(pattern, words, text)
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    return text


def _money(match: re.Match[str]) -> str:
    (unit, small), whole, cents, scale = MONEY[match[1]], match[2].replace(",", ""), match[3], match[4]
    if scale:  # $1.5 million
        return f"{_decimal(whole, cents)} {scale} {_plural(unit, 2)}"
    said = [f"{_words(whole)} {_plural(unit, int(whole))}"] if int(whole) or not cents else []
    if cents and int(cents):
        cents = int(cents.ljust(2, "0")[:2])
        said.append(f"{_words(cents)} {_plural(small, cents)}")
    return " and ".join(said) or f"{_words(0)} {_plural(unit, 0)}"


def _time(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    half = " ".join(match[3].upper().replace(".", "")) if match[3] else ""
    full = "hundred" if hour > 12 else "" if half else "o'clock"
    return " ".join(filter(None, (_words(hour), _two_digits(minute) if minute else full, half)))


def _year(match: re.Match[str]) -> str:
    century, rest = divmod(int(match[1]), 100)
    said = f"{_words(century)} {_two_digits(rest) if rest else 'hundred'}"
    if century == 20 and rest < 10:  # two thousand four
        said = _words(match[1])
    return re.sub("y$", "ie", said) + "s" if match[2] else said


def _two_digits(number: int) -> str:
    return f"{'oh ' * (number < 10)}{_words(number)}"


def _decimal(whole: str, fraction: str | None) -> str:
    digits = f" point {' '.join(_words(digit) for digit in fraction)}" if fraction else ""
    return _words(whole.replace(",", "")) + digits


def _number(match: re.Match[str]) -> str:
    minus, whole, fraction = match[1], match[2], match[3]
    if (len(whole) > 1 and whole[0] == "0") or len(whole.replace(",", "")) > 15:  # a code
        return " ".join(_words(digit) for digit in whole + (fraction or "") if digit.isdigit())
    return f"{'minus ' * bool(minus)}{_decimal(whole, fraction)}"


def _fraction(match: re.Match[str]) -> str:
    top, bottom = int(match[1]), int(match[2])
    if not 2 <= bottom <= 100:
        return f"{_words(top)} over {_words(bottom)}"
    name = {2: "half", 4: "quarter"}.get(bottom) or _ordinal(bottom)
    return f"{_words(top)} {name if top == 1 else 'halves' if bottom == 2 else f'{name}s'}"


RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"([$£€])\s?(\d[\d,]*)(?:\.(\d+))?(?:\s(million|billion|trillion|thousand)\b)?", _money),
    (r"\b([01]?\d|2[0-3]):([0-5]\d)(?:\s?([AaPp]\.?[Mm])\b\.?)?", _time),
    (r"\b\d{3}-\d{4}\b", lambda m: " ".join(_words(digit) for digit in m[0] if digit.isdigit())),  # a telephone's number
    (r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: _ordinal(m[1])),
    (rf"\b({MONTHS})\s(\d\d?)\b(?!\.\d|:|,\d)", lambda m: f"{m[1]} {_ordinal(m[2])}"),
    (rf"\b(\d\d?)\s({MONTHS})\b", lambda m: f"{_ordinal(m[1])} of {m[2]}"),
    (r"(?<![\d.,])(1[1-9]\d\d|20\d\d)(s)?\b(?![.,]\d)", _year),
    (r"\b(\d+)/(\d+)\b", _fraction),
    (rf"\b(\d[\d,.]*)\s?({'|'.join(UNITS)})\b", lambda m: f"{m[1]} {UNITS[m[2]]}"),
    (r"(?<=\d)-(?=\d)", " to "),
    (r"(?<!\w)(-)?(\d+(?:,\d{3})*)(?:\.(\d+))?", _number),
    (r"\d", lambda m: f" {_words(m[0])} "),  # what stands in a word, as in A4
]


@cache
def _engine() -> Any:
    try:
        import inflect
    except ImportError as error:
        raise ValueError("`alphabet` phones needs inflect to read numbers: pip install 'wavflow[tts]'.") from error
    return inflect.engine()


def _words(number: int | str) -> str:
    return _engine().number_to_words(number, andword="").replace(",", "")


def _ordinal(number: int | str) -> str:
    return _words(_engine().ordinal(int(number)))


def _plural(noun: str, count: int) -> str:
    return _engine().plural_noun(noun, count) if count != 1 else noun
