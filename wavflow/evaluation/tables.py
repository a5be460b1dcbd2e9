"""Tables of a report, as Markdown and HTML."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wavflow.evaluation.metrics import Interval

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


def html_table(rows: Sequence[Row]) -> str:
    """The rows as a table that scrolls sideways where the screen is narrow; the first cell of a row names it."""
    columns = _columns(rows)
    kinds = {column: ' class="number"' if all(_is_number(row.get(column)) for row in rows) else "" for column in columns}
    head = "".join(f'<th scope="col"{kinds[column]}>{html.escape(column)}</th>' for column in columns)
    body = []
    for row in rows:
        first, *others = (html.escape(_format(row.get(column))) for column in columns)
        cells = (f"<td{kinds[column]}>{text}</td>" for column, text in zip(columns[1:], others, strict=True))
        body.append(f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>')
    lines = "\n".join(body)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'
