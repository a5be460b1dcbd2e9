"""The notebooks run from their first cell to their last, and lie in the repository as a reader should see them."""

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
all_notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
FEW = ("(10240, 512, 4000)", "(600, 64, 600)")
QUICK = {  # what is written, and what is run: the figures are for a reader, the code is for the test
    "1_change_of_variables": [("[8, 16, 32, 64, 128, 256]", "[8, 16]")],
    "2_nice_and_real_nvp": [FEW, ("epochs=8", "epochs=1"), ("epochs=25", "epochs=1")],
    "3_maf_and_iaf": [("[4, 8, 16, 32, 64]", "[4, 8]"), ("steps=150", "steps=2"), ("T, shown = 128, 32", "T, shown = 32, 8")],
    "4_gaussianization": [FEW, ("epochs=4", "epochs=1"), ("depth=6, n_components=16", "depth=3, n_components=4")],
    "5_mintnet": [FEW, ("epochs=6", "epochs=1"), ("T, sweeps = 32, 32", "T, sweeps = 16, 16"), ("randn(600", "randn(60")],
    "6_glow_and_waveglow": [("range(50)", "range(2)")],
    "7_parallel_wavenet": [("randn(1500", "randn(100"), ("range(120)", "range(2)"), ("41", "6")],
    "8_glow_tts": [("range(200)", "range(10)")],
    "reading_the_metrics": [("T = mel_of.sample_rate, 150", "T = mel_of.sample_rate, 64"), ("(1, 3, 5, 14, 17, 20)", "(1, 3)")],
    "tour": [("steps = 300", "steps = 21"), ("assert final < 0.01", "assert final < curve[0]"), ("randn(2000", "randn(200")],
}
assert {path.stem for path in NOTEBOOKS} >= set(QUICK), "a notebook has another name now"


def outputs_of(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def pictures_in(cells: list[dict[str, Any]]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs_of(cells))


@pytest.mark.slow
@all_notebooks
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """In this process, cell by cell, as a kernel would: a warning that a reader would see is an error."""
    pytest.importorskip("IPython")
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for written, run in QUICK.get(path.stem, []):
        assert any(written in cell for cell in code), f"{written} is no longer there"
        code = [cell.replace(written, run) for cell in code]
    drawn, names = [], {"__name__": "__main__"}

    def show() -> None:
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
            drawn.append(number)
        plt.close("all")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", show)
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back
    with plt.rc_context(), warnings.catch_warnings():
        for kind in (DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        for i, cell in enumerate(code):
            exec(compile(cell, f"{path.stem}, cell {i}", "exec"), names)
            show()
    assert len(drawn) == pictures_in(cells), "the stored outputs are not those of this code"
    assert not capsys.readouterr().err, "a reader would see warnings"


@all_notebooks
def test_notebook_is_stored_as_it_ran_and_fit_to_read(path: Path) -> None:
    text = path.read_text("utf-8")
    first, *_ = cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run all cells, in order, and save"
    assert pictures_in(cells) >= 2
    types = {output.get("name", output["output_type"]) for output in outputs_of(cells)}
    assert types <= {"stdout", "display_data", "execute_result"}, "no errors, no warnings"
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith("# ")
    assert os.path.getsize(path) < 200_000, "fewer or smaller pictures, or shorter sounds"
    for cell in cells:
        printed = [str(o.get("text", "")) for o in outputs_of([cell])]
        shown = "".join(cell["source"]) + "".join(printed)
        assert not re.search(r"(?<![\w.)\]}])/(home|root|tmp|work|usr|opt|mnt|Users)/|[A-Z]:\\", shown), "a machine's own path"
    for link in re.findall(r"\]\(([\w.]+\.ipynb)\)", text):
        assert (path.parent / link).is_file(), f"{link} is linked to and not there"
