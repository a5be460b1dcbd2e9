"""What an installed wavflow holds: the wheel, built and run apart from this checkout; the pins; the bundled corpus."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
SPEECH = ROOT / "wavflow" / "assets" / "speech"


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Returns what `command` printed; fails with all of it if the command fails."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with status {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel, built from an sdist of a clean copy, was installed into."""
    source = tmp_path_factory.mktemp("source")
    for name in ("conf", "scripts", "tests", "wavflow"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("target")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target / "dist", source, cwd=target)
    (wheel,) = (target / "dist").glob("*.whl")
    site = target / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=target)
    return site


@pytest.mark.slow
def test_wheel_holds_all_of_the_package_and_nothing_else(installed: Path) -> None:
    def files(folder: Path, below: str) -> set[str]:
        kept = {".py", ".yaml", ".flac", ".safetensors", ".md", ".html", ".css", ".js", ".typed"}
        return {f"{below}/{path.relative_to(folder)}" for path in folder.rglob("*") if path.suffix in kept}

    expected = files(ROOT / "wavflow", "wavflow") | files(ROOT / "conf", "wavflow/conf")
    assert files(installed / "wavflow", "wavflow") == expected
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"bin", "wavflow"}
    assert next(installed.rglob("LICENSE")).read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.slow
def test_wheel_is_what_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """Without torchaudio, which a download alone needs."""
    code = """
import importlib, importlib.metadata, importlib.resources, runpy, sys, wavflow
sys.modules["torchaudio"] = None
import wavflow.data.shards
print(wavflow.__file__)
print(importlib.resources.files("wavflow.conf") / "train.yaml")
print(importlib.resources.files("wavflow.assets") / "speech" / "alice-01.flac")
(distribution,) = importlib.metadata.distributions(name="wavflow", path=[sys.argv[1]])
for script in distribution.entry_points:
    script.load()
package = importlib.resources.files("wavflow")
for path in sorted([*package.glob("[a-z]*.py"), *package.glob("commands/[a-z]*.py")]):
    importlib.import_module(".".join(["wavflow", *path.relative_to(package).with_suffix("").parts]))
sys.argv[1:] = ["--help"]
for command in ("train", "synthesize", "evaluate"):
    del sys.modules[f"wavflow.{command}"]
    runpy.run_module(f"wavflow.{command}", run_name="__main__")
"""
    *paths, shown = run(sys.executable, "-c", code, installed, cwd=tmp_path, PYTHONPATH=str(installed)).split("\n", 3)
    for path in map(Path, paths):
        assert path.is_relative_to(installed)
        assert path.is_file()
    for command in ("train", "synthesize", "evaluate"):
        assert f"python -m wavflow.{command}" in shown
    assert not list(tmp_path.iterdir()), "asking for help must leave nothing behind"


def test_constraints_pin_every_direct_dependency_and_torch_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)  # a ValueError here is a line that isn't NAME==VERSION
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert {dependency.split(">=")[0] for dependency in direct} <= pins.keys()
    assert pins["torch"] == "2.11.0"


def test_bundled_corpus_is_small_clear_speech() -> None:
    paths = sorted(SPEECH.glob("*.flac"))
    clips = []
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16"), path.name
        clips.append(soundfile.read(path)[0])
    assert 60 <= sum(map(len, clips)) / 16000 <= 120
    assert sum(path.stat().st_size for path in paths) <= 2_000_000
    for path, clip in zip(paths, clips, strict=True):
        assert 0.1 < np.abs(clip).max() < 0.99, f"{path.name} is silent or clipped"
        loud = np.square(clip[: len(clip) // 160 * 160].reshape(-1, 160)).mean(axis=1)
        assert np.mean(loud > 1e-4 * loud.max()) > 0.7, f"{path.name} is mostly silence"
