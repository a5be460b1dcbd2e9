"""Results of the listening test: read from the files that listeners saved, and brought into tables.

A session is one run of one test by one listener, drawn from one seed. MUSHRA ratings are averaged per listener first, so
that the interval holds for listeners in general. ABX trials are counted over all listeners.

References:
    MUSHRA and the exclusion of listeners: ITU-R BS.1534-3 (2015). The interval of a fraction: Clopper & Pearson (1934),
    Biometrika 26.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from matplotlib.figure import Figure
from scipy.stats import binomtest

from wavflow.files import write_text
from wavflow.reporting.intervals import mean_interval
from wavflow.reporting.pictures import write_figure
from wavflow.reporting.tables import Row, csv_table, plain_rows

COLUMNS = (
    *("page", "listener", "seed", "test", "date", "trial", "clip", "seconds"),
    *("reference", "system", "rating"),  # MUSHRA: a line for each stimulus
    *("a", "b", "x", "answer", "correct"),  # ABX: a line for each trial
)
LEAST_FOR_REFERENCE = 90
MOST_PERCENT_BELOW = 15

Session = tuple[str, str, str, str]  # page, test, listener, seed
Line = tuple[Path, int, Mapping[str, str]]  # file, line in it, cell of each column


class Scores(NamedTuple):
    """Rows for tables, and notes on them; a test that nobody took has no rows."""

    mushra: list[Row]
    abx: list[Row]
    notes: list[str]


def score(paths: Iterable[str | Path]) -> Scores:
    """Reads results and brings them into tables.

    The CSV files are as the page saves them, all of one page. A session that an earlier file holds is left out. A listener who
    rates the hidden reference under 90 in more than 15 % of the items is left out of MUSHRA's table.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is no such CSV file, or holds what the page can't have saved; with its name and line.
    """
    sessions: dict[Session, list[Line]] = {}
    notes = []
    for path in map(Path, paths):
        for session, lines in _sessions(path).items():
            if session in sessions:
                _, test, listener, seed = session
                earlier = sessions[session][0][0]
                notes.append(f"left out {path}: {earlier} holds this session too ({test} of {listener}, seed {seed})")
            else:
                sessions[session] = lines
    if not sessions:
        raise ValueError("`results` must name at least one file, got none: save some from the page of the listening test.")
    _check_one_page([lines[0] for lines in sessions.values()])

    for lines in sessions.values():
        _check_items(lines)
    rows = [row for lines in sessions.values() for _, _, row in lines]
    ratings = [row for row in rows if row["test"] == "mushra"]
    excluded = _unreliable(ratings)
    notes += [
        f"left out of MUSHRA: {listener} rated the hidden reference under {LEAST_FOR_REFERENCE} in {low} of {n} items"
        for listener, (low, n) in excluded.items()
    ]
    kept = [row for row in ratings if row["listener"] not in excluded]
    if ratings:
        everyone = {row["listener"] for row in ratings}
        count = len(everyone) - len(excluded)
        over = "listeners, each with the mean of their ratings" if count > 1 else "clips"
        spread = f"the half-width of the 95 % interval (Student t) over {over}"
        notes.append(f"MUSHRA: {count} of {len(everyone)} listeners count; ± is {spread}")
    trials = [row for row in rows if row["test"] == "abx"]
    if trials:
        notes.append("ABX: p is the chance to do as well or better by guessing; low and high bound the fraction with 95 %")
    return Scores(_mushra_rows(kept), _abx_rows(trials), notes)


def write_scores(folder: str | Path, scores: Scores) -> None:
    """Writes `scores.json`, `scores.png` and, for each test that was taken, `mushra.csv` or `abx.csv`."""
    folder = Path(folder)
    tables = {name: rows for name, rows in (("mushra", scores.mushra), ("abx", scores.abx)) if rows}
    content = {**{name: plain_rows(rows) for name, rows in tables.items()}, "notes": scores.notes}
    texts = {f"{name}.csv": csv_table(rows) for name, rows in tables.items()}
    texts["scores.json"] = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    for name, text in texts.items():
        write_text(folder / name, text)
    if tables:
        _picture(folder / "scores.png", scores)


def _sessions(path: Path) -> dict[Session, list[Line]]:
    """The lines of one file, by session; each line is checked."""
    if not path.is_file():
        raise FileNotFoundError(f"`results` must name CSV files of the listening test, but there is no file {path}.")
    sessions: dict[Session, list[Line]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark at the front
            reader = csv.DictReader(file, strict=True)
            lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if lacking:
                raise _fault(path, 1, f"lacks the column {lacking[0]}", "give files that the page saved, unchanged")
            for row in reader:
                if finding := _finding(row):
                    raise _fault(path, reader.line_num, finding)
                session = (row["page"], row["test"], row["listener"], row["seed"])
                sessions[session].append((path, reader.line_num, row))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"`results` must be CSV files in UTF-8, but {path} is not ({error}): save it again.") from error
    if not sessions:
        raise _fault(path, 2, "holds no answers", "leave it out")
    return sessions


def _finding(row: Mapping[str, str]) -> str:
    """What a line holds that the page can't have saved; "" for nothing."""
    if None in row or None in row.values():
        return "has too many cells or too few"
    needed = {"mushra": ("reference", "system", "rating"), "abx": ("a", "b")}.get(row["test"])
    if needed is None:
        return f"has the test {row['test']!r}, neither 'abx' nor 'mushra'"
    for column in ("page", "listener", "seed", "trial", "clip", *needed):
        if not row[column]:
            return f"has no {column}"
    if row["test"] == "mushra":
        fits = re.fullmatch(r"\d+(\.\d*)?", row["rating"]) and float(row["rating"]) <= 100
        return "" if fits else f"has a rating of {row['rating']!r}, which is no number from 0 to 100"
    if not {row["x"], row["answer"]} <= {"A", "B"}:
        return f"has x {row['x']!r} and answer {row['answer']!r}, not A or B each"
    if row["correct"] != str(int(row["x"] == row["answer"])):
        return f"says correct {row['correct']!r} where x is {row['x']} and the answer {row['answer']}"
    return ""


def _check_items(lines: Sequence[Line]) -> None:
    """Each trial of a session once; in MUSHRA each stimulus of it once, the hidden reference among them."""
    items: dict[str, set[str]] = defaultdict(set)
    for path, line, row in lines:
        if row["system"] in items[row["trial"]]:  # ABX: the empty name
            raise _fault(path, line, f"repeats trial {row['trial']}" + f" of {row['system']!r}" * bool(row["system"]))
        items[row["trial"]].add(row["system"])
    for path, line, row in lines:
        if row["reference"] not in items[row["trial"]] and row["test"] == "mushra":
            raise _fault(path, line, f"belongs to a trial without its hidden reference {row['reference']!r}")


def _check_one_page(lines: Sequence[Line]) -> None:
    first, _, row = lines[0]
    for path, line, other in lines:
        if other["page"] != row["page"]:
            raise _fault(
                path, line, f"is of the page {other['page']}, while {first} is of {row['page']}", "score pages one at a time"
            )


def _fault(path: Path, line: int, finding: str, remedy: str = "mend or remove it") -> ValueError:
    return ValueError(f"`results` must be as the page saved them, but {path}, line {line}, {finding}: {remedy}.")


def _unreliable(ratings: Sequence[Mapping[str, str]]) -> dict[str, tuple[int, int]]:
    """Listeners to leave out: name to items with a low hidden reference, and all items."""
    given: dict[str, list[bool]] = defaultdict(list)
    for row in ratings:
        if row["system"] == row["reference"]:
            given[row["listener"]].append(float(row["rating"]) < LEAST_FOR_REFERENCE)
    return {name: (sum(low), len(low)) for name, low in given.items() if 100 * sum(low) > MOST_PERCENT_BELOW * len(low)}


def _mushra_rows(ratings: Sequence[Mapping[str, str]]) -> list[Row]:
    """Systems, best first."""
    systems: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in ratings:
        systems[row["system"]][row["listener"]].append(float(row["rating"]))
    rows = []
    for system, listeners in systems.items():
        # Of a single listener the means are one number, and the items are what can vary.
        values = map(fmean, listeners.values()) if len(listeners) > 1 else next(iter(listeners.values()))
        n = sum(map(len, listeners.values()))
        rows.append({"system": system, "rating": mean_interval(values), "listeners": len(listeners), "ratings": n})
    return sorted(rows, key=lambda row: -row["rating"].mean)


def _abx_rows(trials: Sequence[Mapping[str, str]]) -> list[Row]:
    pairs: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in trials:
        pairs[" / ".join(sorted((row["a"], row["b"])))].append(row)
    rows = list[Row]()
    for pair, answers in sorted(pairs.items()):
        correct = sum(row["correct"] == "1" for row in answers)
        low, high = binomtest(correct, len(answers)).proportion_ci(0.95, method="exact")
        rows.append(
            {
                "pair": pair,
                "listeners": len({row["listener"] for row in answers}),
                "trials": len(answers),
                "correct": correct,
                "fraction": correct / len(answers),
                "low": float(low),
                "high": float(high),
                "p": float(binomtest(correct, len(answers), alternative="greater").pvalue),
            }
        )
    return rows


def _picture(path: Path, scores: Scores) -> None:
    ratings = [(row["system"], *row["rating"]) for row in scores.mushra]
    rated = [(name, mean, mean - half, mean + half) for name, mean, half, _ in ratings]  # nan for a single rating
    told = [(row["pair"], row["fraction"], row["low"], row["high"]) for row in scores.abx]
    tests = [("MUSHRA: rating", rated, (0, 100), None), ("ABX: fraction of correct answers", told, (0, 1), 0.5)]
    taken = [test for test in tests if test[1]]
    heights = [1 + 0.35 * len(bars) for _, bars, _, _ in taken]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    grid = figure.subplots(len(taken), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, (title, bars, limits, guessing) in zip(grid, taken, strict=True):
        for i, (_, value, low, high) in enumerate(bars):  # a dot on the line of its interval, the first on top
            axes.plot([low, high], [i, i], color="tab:blue", linewidth=2, alpha=0.5)
            axes.plot(value, i, "o", color="tab:blue", clip_on=False)  # also at 0 and 100
        axes.set_yticks(range(len(bars)), [name for name, *_ in bars], parse_math=False)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlim(*limits)
        if guessing is not None:
            axes.axvline(guessing, color="0.5", linewidth=1, linestyle="--")
    write_figure(path, figure)
