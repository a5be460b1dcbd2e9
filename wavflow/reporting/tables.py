"""Tables of a report, as Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wavflow.reporting.intervals import Interval

if TYPE_CHECKING:
    from wavflow.evaluation.judging import Metric

Row = Mapping[str, Any]
MISSING = "–"


def _plain(value: Any) -> Any:
    """The value as built-in types: scalars of numpy and torch unpacked, `nan` and infinities as None."""
    if isinstance(value, Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns rows of built-in types, fit for JSON."""
    return [{column: _plain(value) for column, value in row.items()} for row in rows]


def _decimals(value: float) -> int:
    """Decimals for three significant digits, four from 1 on: .957, 4.684, 12.35, 1234."""
    exponent = math.floor(math.log10(abs(value))) if value else -1
    return max(0, (3 if exponent >= 0 else 2) - exponent)


def _format(value: Any) -> str:
    if isinstance(value, Interval):
        half_width = _plain(value.half_width)
        spread = "" if half_width is None else f" ± {half_width:.{_decimals(value.mean)}f}"
        return _format(value.mean) + spread
    value = _plain(value)
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{_decimals(value)}f}" if value == 0 or abs(value) >= 1e-4 else f"{value:.2e}"
    return str(value)


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _is_number(value: Any) -> bool:
    """True for what goes to the right of its column; what is missing goes there too."""
    value = value.mean if isinstance(value, Interval) else _plain(value)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def markdown_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Renders rows as a Markdown table, numbers with sensible digits and to the right.

    Args:
        rows: Column name to value: numbers (also 0-dim tensors), text, or an `Interval`, shown as `mean ± half-width`.
            What is missing, None or not finite shows as a dash.
        columns: Names and order of the columns; all that occur by default.
    """
    if not rows:
        return ""
    columns = _columns(rows) if columns is None else list(columns)
    right = [all(_is_number(row.get(column)) for row in rows) for column in columns]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "|".join("---:" if is_number else "---" for is_number in right) + "|"
    body = [line([_format(row.get(column)) for column in columns]) for row in rows]
    return "\n".join([line(columns), rule, *body]) + "\n"


def text_table(rows: Sequence[Row], headings: Mapping[str, str], width: int = 100) -> str:
    """Renders the means of rows as plain text for a terminal.

    Args:
        rows: As for `markdown_table`.
        headings: Columns to show, and the heading of each; the first names the row.
        width: In characters; names that would make a line longer are cut at their front.
    """
    cells = [list(headings.values())]
    for row in rows:
        values = map(row.get, headings)
        cells.append([_format(value.mean if isinstance(value, Interval) else value) for value in values])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = min(widths[0], max(12, width - sum(2 + other for other in widths[1:])))
    lines = []
    for name, *figures in cells:
        name = name if len(name) <= widths[0] else f"…{name[len(name) - widths[0] + 1 :]}"
        lines.append("  ".join([name.ljust(widths[0]), *map(str.rjust, figures, widths[1:])]).rstrip())
    return "\n".join(lines) + "\n"


def csv_table(rows: Sequence[Row]) -> str:
    """The rows as CSV in full precision; an `Interval` gets a second column, its half-width, named with `±`."""
    plain = []
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


def html_table(rows: Sequence[Row], legend: Mapping[str, Metric] | None = None, reference: str | None = None) -> str:
    """The rows as a table that scrolls sideways where the screen is narrow; the first cell of a row names it.

    Args:
        rows: As for `markdown_table`.
        legend: Column to what it means: gives the columns their arrow, and the best row of each its mark.
        reference: Name of the row that is compared with and so takes no part.
    """
    legend, columns = legend or {}, _columns(rows)
    kinds = {column: ' class="number"' if all(_is_number(row.get(column)) for row in rows) else "" for column in columns}
    best = {column: _best(rows, column, legend[column].better, reference) for column in columns if column in legend}
    head = "".join(
        f'<th scope="col"{kinds[column]}>{html.escape(column)}{_arrow(legend.get(column))}</th>' for column in columns
    )
    body = []
    for i, row in enumerate(rows):
        cells = [f'<th scope="row"{_key(row.get(columns[0]))}>{_html_format(row.get(columns[0]))}</th>']
        for column in columns[1:]:
            text = _html_format(row.get(column))
            text = f"<strong>{text}</strong>" if i in best.get(column, ()) else text
            cells.append(f"<td{kinds[column]}{_key(row.get(column))}>{text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    lines = "\n".join(body)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def _arrow(metric: Metric | None) -> str:
    arrows = {"low": ("↓", "lower is better"), "high": ("↑", "higher is better")}
    sign, words = arrows.get(metric.better, ("", "")) if metric else ("", "")
    return f' <span class="arrow" role="img" aria-label="{words}" title="{words}">{sign}</span>' if sign else ""


def _best(rows: Sequence[Row], column: str, better: str, reference: str | None) -> set[int]:
    """Indices of the rows that are best: of one value as shown, and clear of the others' by their intervals; or none."""
    distance = {"low": float, "high": lambda x: -x, "zero": abs, "one": lambda x: abs(x - 1.0)}[better]
    first = _columns(rows)[0]
    values = {i: _number(row.get(column)) for i, row in enumerate(rows) if reference is None or row.get(first) != reference}
    values = {i: distance(value) for i, value in values.items() if value is not None}
    if len(values) < 2:
        return set()
    spreads = {i: getattr(rows[i][column], "half_width", 0.0) for i in values}
    shown = {i: _format(float(value)) for i, value in values.items()}
    winner = min(values, key=values.__getitem__)
    others = [i for i in values if shown[i] != shown[winner]]
    clear = all(values[i] - spreads[i] > values[winner] + spreads[winner] for i in others)  # not by nan: a single clip's
    return set(values) - set(others) if others and clear else set()


def _number(value: Any) -> float | None:
    """The number in a cell, an interval's mean; None for text and what is missing."""
    value = _plain(value.mean if isinstance(value, Interval) else value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _key(value: Any) -> str:
    """What the page sorts a number by: the cell shows it rounded."""
    number = _number(value)
    return "" if number is None else f' data-value="{number!r}"'


def _html_format(value: Any) -> str:
    mean, sign, spread = _format(value).partition(" ± ") if isinstance(value, Interval) else (_format(value), "", "")
    return html.escape(mean) + (f' <span class="spread">± {spread}</span>' if sign else "")
