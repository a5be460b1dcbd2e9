"""Data for the density bench: shapes in the plane, digits, the wine tables and any numeric CSV, split into folds."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wavflow.tabular import shapes

LEAST_ROWS = 50  # so that each part has some
MAX_CORRELATION = 0.98


class Fold(NamedTuple):
    """Rows (N, D) in float64 to train with, to stop by, and to test with."""

    train: Tensor
    validation: Tensor
    test: Tensor


class Data(NamedTuple):
    """A data set of the bench.

    `standardized`: log-densities are reported of columns brought to mean 0 and deviation 1 on the rows that are not tested, as
    is usual for tables. `levels`: the gray levels of pictures, whose columns hold level / levels; noise of one level makes them
    continuous, and all rows but those of `train` have it already. `shape`: the true density, where it is known.
    """

    folds: list[Fold]
    columns: list[str]
    standardized: bool = False
    levels: int | None = None
    shape: shapes.Shape | None = None


def shape(name: str = "moons", rows: int = 20000, seed: int = 0) -> Data:
    """Draws `rows` points of a shape, half to train with, a tenth to stop by and the rest to test with."""
    if rows < LEAST_ROWS:
        raise ValueError(f"`rows` must be at least {LEAST_ROWS}, got {rows}.")
    truth = shapes.make(name)
    x = truth.sample(rows, torch.Generator().manual_seed(seed))
    return Data([Fold(*x.split([rows // 2, rows // 10, rows - rows // 2 - rows // 10]))], ["x0", "x1"], shape=truth)


def digits(seed: int = 0) -> Data:
    """scikit-learn's 8 x 8 digits, 17 gray levels, as `(level + u) / 17` with u uniform on [0, 1); a tenth held out.

    Raises:
        ValueError: When scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("`data=digits` needs scikit-learn: install it with `pip install scikit-learn`.") from error
    levels = torch.from_numpy(load_digits().data)
    generator = torch.Generator().manual_seed(seed)
    train, validation, test = split(levels, 10, seed)[0]
    noisy = [(x + torch.rand(x.shape, generator=generator, dtype=x.dtype)) / 17 for x in (validation, test)]
    return Data([Fold(train / 17, *noisy)], [f"pixel {i}" for i in range(64)], levels=17)


def wine(path: str, folds: int = 10, seed: int = 0) -> Data:
    """A wine-quality table by RNADE's protocol: without the quality, without one of each pair of |r| > .98, in folds.

    References:
        Uria et al. (2013), section 4.1, https://arxiv.org/abs/1306.0186
    """
    values, columns = read(path)
    if values.shape[1] < 2:
        raise ValueError(f"`data.path`: {path} must have the quality as its last of at least 2 columns, got {len(columns)}.")
    values, columns = decorrelated(values[:, :-1], columns[:-1])
    check(values, columns, path)
    return Data(split(values, folds, seed), columns, standardized=True)


def table(path: str, seed: int = 0) -> Data:
    """Any CSV of numbers, with a line of names or without; a tenth of its rows is held out."""
    values, columns = read(path)
    check(values, columns, path)
    return Data(split(values, 10, seed)[:1], columns, standardized=True)


def read(path: str) -> tuple[Tensor, list[str]]:
    """Returns the numbers (N, D) of a CSV in float64, and the names of its columns; commas, semicolons or tabs part them.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When a cell holds no number, a name is missing, or a row is shorter or longer than the first.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`data.path`: there is no file {path}.")
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    mark = max(",;\t", key=(text or [""])[0].count)
    lines = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(csv.reader(text, delimiter=mark), 1)]
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise ValueError(f"`data.path`: {path} is empty: give a .csv file of numbers.")
    first = lines[0][1]
    named = all(_number(cell) is None for cell in first if cell)
    if named and "" in first:  # pandas and R write the numbers of rows without a name
        place = f"column {first.index('') + 1} in line {lines[0][0]}"
        raise ValueError(f"`data.path`: {path} must name every column, got no name for {place}: leave it out or name it.")
    rows = []
    for number, cells in lines[named:]:
        if len(cells) != len(first):
            raise ValueError(f"`data.path`: {path} must have {len(first)} cells in every line, got {len(cells)} in {number}.")
        rows.append([_number(cell) for cell in cells])
        if None in rows[-1]:
            cell = cells[rows[-1].index(None)]
            raise ValueError(f"`data.path`: {path} must hold numbers alone, got {cell[:40]!r} in line {number}: leave it out.")
    columns = first if named else [f"column {i}" for i in range(1, len(first) + 1)]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(first)), columns


def check(values: Tensor, columns: list[str], path: str) -> None:
    """Raises ValueError where rows (N, D) are too few, or columns constant or not finite."""
    if len(values) < LEAST_ROWS:
        raise ValueError(f"`data.path`: {path} must have at least {LEAST_ROWS} rows, got {len(values)}.")
    faults = {"missing or not finite": ~values.isfinite().all(dim=0), "constant": values.amin(dim=0) == values.amax(dim=0)}
    for fault, where in faults.items():
        if where.any():
            names = ", ".join(columns[i] for i in where.nonzero().flatten())
            raise ValueError(f"`data.path`: {path} must vary and be finite in every column, {names}: {fault}; leave it out.")


def decorrelated(values: Tensor, columns: list[str]) -> tuple[Tensor, list[str]]:
    """Drops the later column of each pair with a correlation beyond .98."""
    correlation = torch.corrcoef(values.T).abs().reshape(len(columns), -1)
    kept: list[int] = []
    for column in range(len(columns)):
        if not any(correlation[column, other] > MAX_CORRELATION for other in kept):
            kept.append(column)
    return values[:, kept], [columns[i] for i in kept]


def split(values: Tensor, folds: int, seed: int) -> list[Fold]:
    """Shuffles rows (N, D) and cuts them into `folds` parts, each the test part once; a tenth of the others is for validation.

    Raises:
        ValueError: When there are fewer than 2 folds or fewer rows than folds need.
    """
    if not 2 <= folds <= len(values) // 5:
        raise ValueError(f"`folds` must be from 2 to a fifth of the {len(values)} rows, got {folds}.")
    parts = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))].tensor_split(folds)
    result = []
    for i, test in enumerate(parts):
        rest = torch.cat([part for j, part in enumerate(parts) if j != i])
        tenth = max(1, len(rest) // 10)
        result.append(Fold(rest[tenth:], rest[:tenth], test))
    return result


def _number(cell: str) -> float | None:
    """Returns the number in a cell: nan for an empty one, None for text."""
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        return None
