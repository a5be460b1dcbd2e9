"""The notebooks run from their first cell to their last, and lie in the repository as a reader should see them."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
all_notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs_of(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def pictures_in(cells: list[dict[str, Any]]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs_of(cells))


@pytest.mark.slow
@all_notebooks
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    stored = json.loads(path.read_text("utf-8"))["cells"]
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises CellExecutionError with the cell and its traceback

    assert pictures_in(notebook.cells) == pictures_in(stored), "the stored outputs are not those of this code"
    assert not [o["text"] for o in outputs_of(notebook.cells) if o.get("name") == "stderr"], "a reader would see warnings"


@all_notebooks
def test_notebook_is_stored_as_it_ran(path: Path) -> None:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run all cells, in order, and save"
    assert pictures_in(cells) >= 2
    types = {output.get("name", output["output_type"]) for output in outputs_of(cells)}
    assert types <= {"stdout", "display_data", "execute_result"}, "no errors, no warnings"


@all_notebooks
def test_notebook_is_fit_to_read(path: Path) -> None:
    text = path.read_text("utf-8")
    first, *_ = cells = json.loads(text)["cells"]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith("# ")
    assert os.path.getsize(path) < 200_000, "fewer or smaller pictures, or shorter sounds"
    for cell in cells:
        printed = [str(o.get("text", "")) for o in outputs_of([cell])]
        shown = "".join(cell["source"]) + "".join(printed)
        assert not re.search(r"(?<![\w.)\]}])/(home|root|tmp|work|usr|opt|mnt|Users)/|[A-Z]:\\", shown), "a machine's own path"
    for link in re.findall(r"\]\(([\w.]+\.ipynb)\)", text):
        assert (path.parent / link).is_file(), f"{link} is linked to and not there"
