"""Tables of results, as Markdown, plain text, HTML and CSV.

A table is a sequence of rows, each a mapping from column to number (also a 0-dim tensor), text or `Interval`. The first column
names the row. What is missing, None or not finite shows as a dash.
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from wavflow.reporting.intervals import Interval

Row = Mapping[str, Any]
MISSING = "–"
WIDTH = 100  # characters of a line of plain text
ARROWS = {"low": ("↓", "lower is better"), "high": ("↑", "higher is better")}
DISTANCES: dict[str, Callable[[float], float]] = {"low": float, "high": lambda x: -x, "zero": abs}
"""How far a value is from the best one, by which way is better."""


def markdown_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Returns the rows as a Markdown table; `columns` chooses and orders them, all that occur by default."""
    columns = _columns(rows) if columns is None else columns
    cells = [[_format(row.get(column)).replace("|", "\\|").replace("\n", " ") for column in columns] for row in rows]
    return tabulate(cells, columns, "pipe", disable_numparse=True, colalign=_align(rows, columns)) + "\n" if rows else ""


def text_table(rows: Sequence[Row], headings: Mapping[str, str] | None = None) -> str:
    """Returns the rows as plain text for a terminal: of an `Interval` the mean, names cut at their front where they are long.

    Args:
        rows: At least one.
        headings: Columns to show, and the heading of each; all that occur by default.
    """
    headings = headings or {column: column for column in _columns(rows)}
    lines = [list(headings.values()), *([_format(_mean(row.get(c))) for c in headings] for row in rows)]
    left = max(12, WIDTH - sum(2 + max(map(len, column)) for column in list(zip(*lines, strict=True))[1:]))
    for line in lines:
        line[0] = line[0] if len(line[0]) <= left else f"…{line[0][len(line[0]) - left + 1 :]}"
    return tabulate(lines, (), "plain", disable_numparse=True, colalign=_align(rows, list(headings))) + "\n"


def _align(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    return ["right" if all(_is_number(row.get(column)) for row in rows) else "left" for column in columns]


def csv_table(rows: Sequence[Row]) -> str:
    """Returns the rows as CSV in full precision; an `Interval` gets a second column, its half-width, named with `±`."""
    plain: list[dict[str, Any]] = []
    for row in rows:
        plain.append({})
        for column, value in row.items():
            if isinstance(value, Interval):
                plain[-1] |= {column: _plain(value.mean), f"{column} ±": _plain(value.half_width)}
            else:
                plain[-1][column] = _plain(value)
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(plain), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns rows of built-in types, fit for JSON."""
    return [{column: _plain(value) for column, value in row.items()} for row in rows]


def html_table(rows: Sequence[Row], better: Mapping[str, str] | None = None, reference: str | None = None) -> str:
    """Returns the rows as a table that scrolls sideways where the screen is narrow.

    Args:
        rows: At least one.
        better: Column to which way is better, a key of `DISTANCES`: gives the column an arrow, and its best row a mark.
        reference: Name of the row that the others are compared with, which is never the best.
    """
    better, columns = better or {}, _columns(rows)
    kinds = {column: ' class="number"' if all(_is_number(row.get(column)) for row in rows) else "" for column in columns}
    best = {column: _best(rows, column, DISTANCES[better[column]], reference) for column in columns if column in better}
    head = "".join(f'<th scope="col"{kinds[c]}>{html.escape(c)}{_arrow(better.get(c))}</th>' for c in columns)
    body = []
    for i, row in enumerate(rows):
        first, *others = ((column, row.get(column)) for column in columns)
        cells = [f'<th scope="row"{_key(first[1])}>{_html_format(first[1])}</th>']
        for column, value in others:
            text = f"<strong>{_html_format(value)}</strong>" if i in best.get(column, ()) else _html_format(value)
            cells.append(f"<td{kinds[column]}{_key(value)}>{text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    lines = "\n".join(body)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def _best(rows: Sequence[Row], column: str, distance_of: Callable[[float], float], reference: str | None) -> set[int]:
    """Returns the indices of the best rows: they show the same value, and its interval is clear of all others; or none."""
    name, distance, spread, shown = _columns(rows)[0], dict[int, float](), dict[int, float](), dict[int, str]()
    for i, row in enumerate(rows):
        value = _number(row.get(column))
        if value is not None and (reference is None or row.get(name) != reference):
            distance[i], shown[i] = distance_of(value), _format(float(value))
            spread[i] = getattr(row[column], "half_width", 0.0)
    if len(distance) < 2:
        return set()
    winner = min(distance, key=lambda i: distance[i])
    others = {i for i in distance if shown[i] != shown[winner]}
    clear = all(distance[i] - spread[i] > distance[winner] + spread[winner] for i in others)  # false for nan: of a single clip
    return distance.keys() - others if others and clear else set()


def _arrow(better: str | None) -> str:
    sign, words = ARROWS.get(better or "", ("", ""))
    return f' <span class="arrow" role="img" aria-label="{words}" title="{words}">{sign}</span>' if sign else ""


def _key(value: Any) -> str:
    """What the page sorts a number by: the cell shows it rounded."""
    number = _number(value)
    return "" if number is None else f' data-value="{number!r}"'


def _html_format(value: Any) -> str:
    mean, sign, spread = _format(value).partition(" ± ") if isinstance(value, Interval) else (_format(value), "", "")
    return html.escape(mean) + (f' <span class="spread">± {spread}</span>' if sign else "")


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _plain(value: Any) -> Any:
    """The value as built-in types: scalars of numpy and torch unpacked, `nan` and infinities as None."""
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(value: Any) -> Any:
    return value.mean if isinstance(value, Interval) else value


def _number(value: Any) -> float | None:
    """The number in a cell, an interval's mean; None for text and what is missing."""
    value = _plain(_mean(value))
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    """True for what goes to the right of its column; what is missing goes there too."""
    return _number(value) is not None or _format(value) == MISSING


def _format(value: Any) -> str:
    if isinstance(value, Interval):
        half_width = _plain(value.half_width)
        return _format(value.mean) + ("" if half_width is None else f" ± {half_width:.{_decimals(value.mean)}f}")
    value = _plain(value)
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{_decimals(value)}f}" if value == 0 or abs(value) >= 1e-4 else f"{value:.2e}"
    return str(value)


def _decimals(value: float) -> int:
    """Decimals for three significant digits, four from 1 on: .957, 4.684, 12.35, 1234."""
    exponent = math.floor(math.log10(abs(value))) if value else -1
    return max(0, (3 if exponent >= 0 else 2) - exponent)
