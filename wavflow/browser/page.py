"""Writes a page that does copy synthesis in the browser: an exported graph, onnxruntime-web and the mel in JavaScript.

Browsers refuse a page from disk all that it would fetch beside itself, but not its scripts: engine.js holds runtime and graph,
gzipped and in base64.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from string import Template

from wavflow import __version__
from wavflow.distributions import Logistic
from wavflow.files import write_text
from wavflow.reporting.assets import asset
from wavflow.synthesis.export import fewest_frames
from wavflow.vocoder import Vocoder

PACKAGE = "onnxruntime-web@1.30.0"
FILES = {"runtime": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}
SECONDS = 30
"""The most that the page draws: the graph holds all of it in memory at once."""


def runtime_files(folder: str | os.PathLike[str] | None) -> dict[str, bytes]:
    """Returns the files of onnxruntime-web that the page needs, from its folder `dist`, or by npm where none is named.

    Raises:
        ValueError: They are not in the folder, or npm is not there or fails.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            if (source := folder) is None:
                command = [shutil.which("npm") or "npm", "install", "--ignore-scripts", "--prefix", place, PACKAGE]
                subprocess.run(command, check=True, capture_output=True, timeout=600)
                source = Path(place, "node_modules", "onnxruntime-web", "dist")
            return {key: Path(source, name).read_bytes() for key, name in FILES.items()}
        except (OSError, subprocess.SubprocessError) as error:
            came = "npm could not fetch them" if folder is None else f"got {folder}"
            raise ValueError(
                f"`runtime` must be a folder with {' and '.join(FILES.values())}, {came}: where there are npm and a network, "
                f"run `npm install --no-save {PACKAGE}`, then give runtime=node_modules/onnxruntime-web/dist."
            ) from error


def write_page(
    folder: str | os.PathLike[str], vocoder: Vocoder, graph: str | os.PathLike[str], runtime: dict[str, bytes], passes: int = 0
) -> None:
    """Writes index.html and engine.js, for a student's whole graph with so many passes of the equalizer and `runtime_files`."""
    known = vocoder.n_speakers
    names = vocoder.info.get("speakers", range(known)) if known else []
    facts = {
        "spec": vocoder.mel.spec,
        "frames": fewest_frames(vocoder, passes),
        "seconds": SECONDS,
        "logistic": isinstance(vocoder.flow.base, Logistic),
        "speakers": known,
    }
    page = Template(asset("index.html", "wavflow.browser")).substitute(
        version=__version__,
        passes=passes,
        seconds=SECONDS,
        hidden="" if known else "hidden",
        speakers="".join(f'<option value="{i}">{html.escape(str(name))}</option>' for i, name in enumerate(names)),
        facts=json.dumps(facts),
        style=asset("page.css"),
        worker=asset("mel.js", "wavflow.browser") + asset("worker.js", "wavflow.browser"),
        script=asset("theme.js") + asset("wav.js") + asset("page.js", "wavflow.browser"),
    )
    files = runtime | {"graph": Path(graph).read_bytes()}
    packed = {key: base64.b64encode(gzip.compress(data, mtime=0)).decode() for key, data in files.items()}
    write_text(Path(folder, "engine.js"), f"const engine = {json.dumps(packed)};\n")
    write_text(Path(folder, "index.html"), page)
