"""The page that draws in the browser alone: its mel held against the package's, its clicks, and the command that writes it."""

import base64
import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from commands import is_refused, succeeds
from helpers import MEL, refused, tiny_student
from torch import Tensor

from wavflow import MelSpectrogram, Vocoder, read_audio, save_model
from wavflow.browser.page import FILES, SECONDS, runtime_files, write_page

pytest_plugins = ["browser"]

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "node_modules" / "onnxruntime-web" / "dist"  # by `npm install --no-save onnxruntime-web@1.30.0`
# In place of onnxruntime-web: its draw is a tenth of the noise.
STAND_IN = """
export const env = { wasm: {} };
export class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
export const InferenceSession = { create: async (graph) => ({ run: async ({ mel, noise, speaker }) => {
    if (new TextDecoder().decode(graph) !== "a graph") throw new Error("no graph came");
    if (new TextDecoder().decode(env.wasm.wasmBinary) !== "a machine") throw new Error("no machine came");
    if (`${mel.dims}` !== `1,8,${noise.dims[1] / 16}`) throw new Error(`the mel is ${mel.dims}`);
    if (speaker.data[0] === 2n) throw new Error("a voice was lost");
    return { audio: { data: noise.data.map((x) => 0.1 * x) } };
} }) };
"""
ODD = {"sample_rate": 11025, "n_fft": 420, "hop_length": 101, "win_length": 333, "n_mels": 20, "f_min": 60.0, "f_max": 5000.0}
KEEP_BLOBS = (
    "window.blobs = []; const url = URL.createObjectURL; URL.createObjectURL = (blob) => (blobs.push(blob), url(blob));"
)


def js_mel(audio: Tensor, mel: MelSpectrogram, folder: Path) -> Tensor:
    """Computes a mel (n_mels, F) of audio (T,) by the page's script in node."""
    code = """
const fs = require("fs"), [script, audio, spec, out] = process.argv.slice(1);
const logMel = new Function(fs.readFileSync(script, "utf8") + "; return logMel;")();
fs.writeFileSync(out, logMel(new Float32Array(new Uint8Array(fs.readFileSync(audio)).buffer), JSON.parse(spec)));
"""
    (folder / "audio").write_bytes(audio.float().numpy().tobytes())
    script = ROOT / "wavflow" / "browser" / "assets" / "mel.js"
    command = ["node", "-e", code, script, folder / "audio", json.dumps(mel.spec), folder / "mel"]
    subprocess.run(command, check=True, timeout=60)
    return torch.from_numpy(np.fromfile(folder / "mel", np.float32)).reshape(mel.n_mels, -1)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(
    "spec", [{}, {"sample_rate": 24000, "f_max": 12000.0, "center": True}, ODD], ids=["default", "centered", "odd"]
)
def test_mel_in_javascript_is_the_packages(spec: dict[str, Any], tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    mel = MelSpectrogram(**spec)
    audio = 0.1 * torch.randn(9000)
    audio[4000:7000] = 0.0
    for length in (9000, mel.shortest_reflected + 1, mel.shortest_reflected):
        expected = mel(audio[:length].double()[None])[0]
        found = js_mel(audio[:length], mel, tmp_path)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A page whose runtime is `STAND_IN`."""
    torch.set_default_dtype(torch.float32)
    (tmp_path / "graph").write_text("a graph")
    student = tiny_student(n_speakers=3, pulses=0, whitening=0)
    student.info["speakers"] = ["<b>Ann</b>", "Ben", "Cy"]
    write_page(tmp_path / "page", student, tmp_path / "graph", {"runtime": STAND_IN.encode(), "wasm": b"a machine"})
    soundfile.write(tmp_path / "voice.wav", 0.1 * np.random.default_rng(0).standard_normal((8005, 2)), 8000)
    return tmp_path / "page" / "index.html"


def drawn(page: Any, seconds: float = 60) -> np.ndarray:
    """Waits for the drawing, and returns it."""
    page.wait_for_selector("#heard:not([hidden]), #failure:not(:empty)", timeout=1000 * seconds)
    assert page.inner_text("#failure") == ""
    data = page.evaluate("blobs.at(-1).arrayBuffer().then((buffer) => [...new Int16Array(buffer.slice(44))])")
    return np.array(data) / 32768


@pytest.mark.slow
def test_page_draws_what_is_chosen_or_dropped(stand_in: Path, visit: Callable[..., Any]) -> None:
    page = visit(stand_in, width=390, script=KEEP_BLOBS)
    page.set_input_files("#file", stand_in.parents[1] / "voice.wav")
    audio = drawn(page)
    assert len(audio) == 8000  # whole frames
    assert audio.std() == pytest.approx(0.1, rel=0.1)
    assert np.square(audio).mean() ** 2 * 3 == pytest.approx((audio**4).mean(), rel=0.2)  # Gaussian
    assert "1.0 s of audio" in page.inner_text("#progress")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#speaker option").all_inner_texts() == ["<b>Ann</b>", "Ben", "Cy"]
    page.fill("#temperature", "0.5")
    page.select_option("#speaker", "Ben")
    page.click("#again")
    assert drawn(page).std() == pytest.approx(0.05, rel=0.1)
    before = page.evaluate("blobs.length")
    page.evaluate(
        "() => { const files = new DataTransfer(); files.items.add(new File([blobs.at(-1)], 'dropped.wav'));"
        " dispatchEvent(new DragEvent('drop', { dataTransfer: files })); }"
    )
    assert len(drawn(page)) == 8000
    assert page.evaluate("blobs.length") == before + 2  # the recording and its draw


@pytest.mark.slow
def test_page_says_what_is_wrong(stand_in: Path, visit: Callable[..., Any]) -> None:
    page = visit(stand_in, script="")
    soundfile.write(stand_in.with_name("short.wav"), np.zeros(15), 8000)
    stand_in.with_name("text.wav").write_text("no audio")

    def failure(name: str) -> str:
        page.set_input_files("#file", stand_in.parent / name)
        return page.text_content("#failure:not(:empty)")

    assert "text.wav can't be used" in failure("text.wav")
    assert "0.002 s are needed" in failure("short.wav")
    page.select_option("#speaker", "Cy")
    assert "a voice was lost" in failure("../voice.wav")
    assert page.is_hidden("#heard")
    assert page.is_visible("#again")


@pytest.mark.slow
@pytest.mark.skipif(not RUNTIME.is_dir(), reason="needs `npm install --no-save onnxruntime-web@1.30.0`")
def test_page_draws_what_the_model_draws(tmp_path: Path, visit: Callable[..., Any]) -> None:
    pytest.importorskip("onnxscript")
    torch.set_default_dtype(torch.float32)
    student: Vocoder = tiny_student(std=0.2, flows=1)
    save_model(student, tmp_path / "tiny.safetensors")
    soundfile.write(tmp_path / "voice.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    options = [f"model={tmp_path / 'tiny.safetensors'}", f"output={tmp_path}", "page=true", "passes=1"]
    succeeds("export", *options, f"runtime={RUNTIME}")
    page = visit(tmp_path / "index.html", script=KEEP_BLOBS)
    page.fill("#temperature", "0")
    page.set_input_files("#file", tmp_path / "voice.wav")
    audio = torch.from_numpy(drawn(page, 300)).float()
    mel = student.mel(read_audio(tmp_path / "voice.wav", 8000)[0][None])
    expected = student.sample(mel, torch.zeros(1, len(audio)), passes=1, fast=False)[0]
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(audio, expected.clamp(-1, 1), rtol=0, atol=5e-5)  # of 16 bits


@pytest.mark.slow
def test_command_writes_the_page(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    save_model(tiny_student(std=0.2, layers=1, flows=1, whitening=0), tmp_path / "student.safetensors")
    (tmp_path / "runtime").mkdir()
    for key, name in FILES.items():
        (tmp_path / "runtime" / name).write_text(key)
    options = [f"model={tmp_path / 'student.safetensors'}", f"output={tmp_path / 'page'}", "page=true", "passes=1"]
    outcome = succeeds("export", *options, f"runtime={tmp_path / 'runtime'}")
    assert f"{tmp_path / 'page' / 'index.html'}: open it" in outcome.out
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"student.onnx", "engine.js", "index.html"}
    engine = (tmp_path / "page" / "engine.js").read_text()
    packed = json.loads(engine.removeprefix("const engine = ").rstrip(";\n"))
    files = {key: gzip.decompress(base64.b64decode(text)) for key, text in packed.items()}
    graph = (tmp_path / "page" / "student.onnx").read_bytes()
    assert files == {"runtime": b"runtime", "wasm": b"wasm", "graph": graph}
    facts = (tmp_path / "page" / "index.html").read_text().split('id="facts">')[1].split("</script>")[0]
    spec = MelSpectrogram(**MEL).spec
    assert json.loads(facts) == {"spec": spec, "frames": 2, "seconds": SECONDS, "logistic": False, "speakers": 0}


def test_command_refuses_what_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tiny_student(), tmp_path / "student.safetensors")
    given = ["export", f"model={tmp_path / 'student.safetensors'}", "page=true", f"output={tmp_path / 'page'}"]
    is_refused(tmp_path, *given, "form=both", words="`page`|form=step or both")
    is_refused(tmp_path, *given, "contract=sherpa", words="`page`|contract=sherpa")
    is_refused(tmp_path, *given, f"output={tmp_path / 'page.onnx'}", words="`output` must be a folder")
    is_refused(tmp_path, *given, f"runtime={tmp_path}", words=f"`runtime`|{FILES['wasm']}|got {tmp_path}|npm install --no-save")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(lambda: runtime_files(None), r"npm could not fetch them: .* run `npm install --no-save onnxruntime-web")
