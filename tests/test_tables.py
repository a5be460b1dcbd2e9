"""Tables of the density bench: reading, the wine protocol, folds, digits."""

import sys
from pathlib import Path

import pytest
import torch
from helpers import refused

from wavflow.tabular import tables


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def numbers(rows: int, columns: int) -> list[str]:
    return [",".join(f"{v:.6f}" for v in row) for row in torch.randn(rows, columns).tolist()]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_a_csv_is_read_with_names_or_without(tmp_path: Path, mark: str, header: bool) -> None:
    lines = [mark.join(cells) for cells in [*([["a", "b c"]] * header), ["1", " 2e-1"], ["-3.5", "4"]]]
    values, columns = tables.read(write(tmp_path, lines))
    assert values.tolist() == [[1.0, 0.2], [-3.5, 4.0]]
    assert columns == (["a", "b c"] if header else ["column 1", "column 2"])


def test_wine_drops_the_quality_and_what_another_column_tells(tmp_path: Path) -> None:
    x = torch.randn(200, 4)
    x[:, 2] = -x[:, 0] + 0.01 * torch.randn(200)
    path = write(tmp_path, ["a,b,c,quality", *(",".join(map(str, row)) for row in x.tolist())])
    data = tables.wine(path, folds=10)
    assert data.columns == ["a", "b"]
    assert len(data.folds) == 10
    assert data.standardized
    every = torch.cat([fold.test for fold in data.folds])
    assert sorted(every.tolist()) == sorted(x[:, :2].tolist())


def test_folds_are_disjoint_and_each_row_is_tested_once() -> None:
    values = torch.arange(103.0)[:, None]
    folds = tables.split(values, 10, seed=1)
    for fold in folds:
        parts = [set(part.flatten().tolist()) for part in fold]
        assert set.union(*parts) == set(values.flatten().tolist())
        assert sum(map(len, parts)) == 103, "no row is in two parts"
        assert len(parts[1]) == 9
    assert sorted(torch.cat([fold.test for fold in folds]).flatten().tolist()) == values.flatten().tolist()
    assert torch.equal(folds[0].test, tables.split(values, 10, seed=1)[0].test)
    assert not torch.equal(folds[0].test, tables.split(values, 10, seed=2)[0].test)


def test_any_table_has_a_tenth_held_out(tmp_path: Path) -> None:
    (fold,) = tables.table(write(tmp_path, numbers(100, 3))).folds
    assert [len(part) for part in fold] == [81, 9, 10]


def test_digits_are_levels_and_what_is_judged_has_its_noise() -> None:
    (fold,) = tables.digits().folds
    levels = fold.train * 17
    assert sum(map(len, fold)) == 1797
    torch.testing.assert_close(levels, levels.round())
    assert levels.min() == 0
    assert levels.max().item() == pytest.approx(16)
    noise = (fold.test * 17).frac()
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02)
    assert noise.std().item() == pytest.approx(12**-0.5, abs=0.02)
    assert fold.test.max() < 1


def test_digits_without_scikit_learn_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refused(lambda: tables.digits(), "pip install scikit-learn")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "is empty"),
        (["1,2", "3"], "must have 2 cells in every line, got 1 in 2"),
        (["a,b", "1,2", "3,red"], "numbers alone, got 'red' in line 3"),
        ([",a", "0,3", "1,4"], "must name every column, got no name for column 1 in line 1"),
        (["1,2"] * 30, "at least 50 rows, got 30"),
        (["a,b", *(f"{i},7" for i in range(60))], "b: constant"),
        (["a,b", *(f"{i},{i * i % 7}" for i in range(60)), "1,nan"], "b: missing or not finite"),
        (["a,b", *(f"{i},{i * i % 7}" for i in range(60)), "1,"], "b: missing or not finite"),
        (["a,b", *(f"{i},{i * i % 7}" for i in range(60)), "inf,1"], "a: missing or not finite"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    refused(lambda: tables.table(write(tmp_path, lines)), words)


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    refused(lambda: tables.wine(write(tmp_path, numbers(60, 1))), "quality as its last of at least 2 columns, got 1")
    refused(lambda: tables.table(tmp_path / "none.csv"), "no file", FileNotFoundError)
    refused(lambda: tables.shape(rows=49), "`rows` must be at least 50, got 49")
    for folds in (1, 41):
        refused(lambda: tables.split(torch.randn(200, 2), folds, seed=0), f"from 2 to a fifth of the 200 rows, got {folds}")  # noqa: B023
