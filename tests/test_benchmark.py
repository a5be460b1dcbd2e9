"""The benchmark: its counts against what is known of the nets, its engines, and the command at a tiny size; never a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call, is_refused, make_sounds, succeeds
from helpers import MEL, NET, randomized, tiny_flow, tiny_student, tiny_teacher
from torch.utils.flop_counter import FlopCounterMode

import wavflow
from wavflow.benchmarking import synthesis, timing
from wavflow.benchmarking.timing import Meter, operations_per_sample
from wavflow.benchmarking.training import step, task
from wavflow.commands.benchmark import with_random_weights

CPU = torch.device("cpu")
TINY = ["seconds=0.02", "lengths=0.03", "budget=0", "device=cpu"]


# --- counts ------------------------------------------------------------------------------------------------------------


def test_operations_are_those_of_the_matrix_products() -> None:
    channels, layers, features, hop = NET["channels"], NET["layers"], NET["features"], MEL["hop_length"]
    gates, outputs = layers * 2 * channels * 2 * channels, layers * channels * 2 * channels - channels * channels
    ends = channels + channels * channels + channels * 2  # input, head and last
    at_frames = 3 * MEL["n_mels"] * features + features * features + features * 2 * channels * layers
    interpolation = 3 * 2 * channels * layers  # of three frames
    assert operations_per_sample(tiny_teacher()) == 2 * (gates + outputs + ends + interpolation + at_frames / hop)


@pytest.mark.parametrize("make", [tiny_student, lambda: tiny_student(n_speakers=2), lambda: tiny_flow("waveglow", channels=16)])
def test_operations_of_every_form_are_counted(make: Any) -> None:
    assert operations_per_sample(make()) > 100


@pytest.mark.parametrize("distils", [False, True])
def test_a_training_step_takes_three_passes_and_two_of_a_frozen_teacher(distils: bool) -> None:
    wide = {"channels": 24, "layers": 6, "whitening": 2, "pitch": False}
    net, teacher = (tiny_student(**wide), tiny_teacher(**wide)) if distils else (tiny_teacher(**wide), None)
    mel, audio = timing.inputs(net.float(), 800, 2)
    batch = {"audio": audio, "mel": mel, "mask": torch.ones_like(audio)}
    made = task(net, teacher and teacher.float())
    before = [parameter.clone() for parameter in made.net.parameters()]
    for module in made.modules():
        if isinstance(module, wavflow.nn.WaveNet):
            module.compiled_layers = False  # torch does not see into them
    with FlopCounterMode(display=False) as counter:
        step(made, batch, torch.float32)()

    passes = 3 * operations_per_sample(net) + (2 * operations_per_sample(teacher) if teacher else 0)
    assert counter.get_total_flops() / audio.numel() == pytest.approx(passes, rel=0.05)
    assert any((old != new).any() for old, new in zip(before, made.net.parameters(), strict=True)), "it must train"


# --- engines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_student, tiny_teacher])
def test_every_engine_samples_the_same(make: Any) -> None:
    vocoder = randomized(make(), 0.1).float()
    mel, noise = timing.inputs(vocoder, 80)  # a teacher's engine takes 64 at once
    engines = synthesis.engines(vocoder, passes=2)
    assert {"PyTorch, float32", "compiled, float32"} <= engines.keys()
    assert ("compiled, streamed, float32" in engines) == vocoder.draws_in_parallel
    drawn = {name: torch.cat(list(engine.sample(mel, noise)), dim=-1) for name, engine in engines.items()}
    drawn |= {f"{n}, first": torch.cat(list(e.stream(mel, noise)), -1) for n, e in engines.items() if e.stream}
    exact = drawn.pop("PyTorch, float32").flatten()
    assert exact.abs().max() > 1e-3
    for name, audio in drawn.items():
        atol = (0.1 if "bfloat16" in name else 1e-4) * float(exact.abs().max())
        torch.testing.assert_close(audio.float().flatten(), exact, rtol=0, atol=atol, msg=name)


def test_random_weights_leave_no_layer_at_zero() -> None:
    model = with_random_weights(tiny_student(std=None))
    assert all(parameter.any() for parameter in model.parameters())


# --- timing ------------------------------------------------------------------------------------------------------------


def test_a_meter_does_not_count_the_first_call_and_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setitem(timing.CLOCKS, "processor", lambda: clock[0])

    def run() -> None:
        calls.append(clock[0])
        clock[0] += 1.0 if len(calls) > 1 else 100.0

    taken = Meter(CPU, budget=3.5, clock="processor")(run)
    assert taken.times == [1.0] * 4
    assert timing.times(taken) == {"median s": 1.0, "IQR s": 0.0, "runs": 4}


def test_a_peak_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(CPU, budget=0)
    peak = meter.peak(torch.float32)
    assert peak > 1e8
    monkeypatch.setattr(Meter, "__call__", None)
    assert meter.peak(torch.float32) == peak


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files of a student and a teacher, in the working folder."""
    monkeypatch.chdir(tmp_path)
    wavflow.save_model(tiny_student(std=0.1).float(), tmp_path / "s.safetensors")
    wavflow.save_model(tiny_teacher(std=0.1).float(), tmp_path / "t.safetensors")
    return "model=s.safetensors,t.safetensors"


def test_the_command_measures_writes_and_shows_everything(models: str, tmp_path: Path) -> None:
    sounds = make_sounds(tmp_path / "sounds")
    data = [f"data.path={sounds}", "data.segment_length=512"]
    outcome = succeeds("benchmark", models, *TINY, *data, "output=out")

    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert found["settings"]["budget"] == 0
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == 1
    assert {"processor", "wavflow", "load", "device"} <= found["machine"].keys()
    assert set(found["peak operations/s"]) >= {"float32", "bfloat16"}
    for table in ("synthesis", "training", "data"):
        for row in found[table]:
            assert row["runs"] >= 1
            assert row["median s"] > 0
    (row,) = (r for r in found["synthesis"] if (r["model"], r["engine"], r["passes"]) == ("s", "PyTorch, float32", 0))
    assert row["seconds of audio"] == pytest.approx(0.02)
    assert row["samples/s"] == pytest.approx(8000 * row["x real time"])
    assert row["% of peak"] > 0
    assert {row["model"] for row in found["synthesis"]} == {"s", "t"}
    assert [row["step"] for row in found["training"]] == ["likelihood"] * 2 + ["distillation"] * 2
    assert found["training"][0]["batch"] == [2, 512]
    assert found["data"][0]["format"] == "wav, 8000 Hz"
    assert [row["seconds of audio"] for row in found["memory"]] == pytest.approx([0.03], abs=0.002)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"benchmark.json"}
    for words in ("% of peak", "PyTorch, float32", "first audio ms", "distillation", "MiB in all"):
        assert words in outcome.out


def test_untrained_nets_and_the_bundled_corpus_need_nothing_at_hand(models: str, tmp_path: Path) -> None:
    options = ["model=teacher_small", "part=data", "audio=16k", "budget=0", "data.segment_length=512", "clock=processor"]
    outcome = succeeds("benchmark", *options, "output=out")
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert found.keys() == {"machine", "settings", "peak operations/s", "data"}
    assert found["data"][0]["files"] > 10
    assert found["data"][0]["format"] == "flac, 16000 Hz"
    assert "x real time per core" in outcome.out


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("part=synthetics", "`part` must be one of synthesis, memory, training, data, all, got 'synthetics'"),
        ("part=synthesis,training", "`part` training needs a teacher too|model=student,teacher|got s"),
        ("model=gone.safetensors", "there is no model file|gone.safetensors"),
        ("budget=-1", "`budget` must not be negative, got -1"),
        ("lengths=1,long", "`lengths` must be a number of at least 0.0, got 'long'"),
        ("seconds=short", "`seconds` must be a number, got 'short'"),
        ("threads=0", "`threads` must be a whole number of at least 1, got 0"),
        ("clock=sun", "`clock` must be one of wall, processor, got 'sun'"),
        ("device=abacus", "`device` 'abacus'"),
        ("data.path=gone", "gone"),
        ("data.segment_length=1000", "`data.segment_length`|hop_length 16"),
        ("lenghts=1", "`lenghts`|did you mean lengths?"),
    ],
)
def test_wrong_options_are_named(models: str, tmp_path: Path, option: str, words: str) -> None:
    is_refused(tmp_path, "benchmark", "model=s.safetensors", *TINY, "output=out", option, words=words)


def test_the_clock_of_the_processor_is_for_one_thread(models: str, tmp_path: Path) -> None:
    words = "`clock` processor needs device=cpu and threads=1"
    is_refused(tmp_path, "benchmark", models, *TINY, "output=out", "clock=processor", "threads=2", words=words)


def test_a_net_that_is_not_there_and_a_pair_that_does_not_fit_are_refused(models: str, tmp_path: Path) -> None:
    is_refused(tmp_path, "benchmark", "model=studnet", "output=out", words="`net` has no option 'studnet'|student, ")
    wavflow.save_model(tiny_teacher(mel=MEL | {"n_mels": 7}).float(), tmp_path / "t.safetensors")
    is_refused(tmp_path, "benchmark", models, "part=training", "output=out", words="`teacher` was trained on another mel")
    assert call("benchmark", models, "part=synthesis", "lengths=[]", *TINY[:1], "budget=0", "output=out").status == 0


def test_lightning_is_loaded_for_training_alone() -> None:
    modules = "wavflow.benchmark, wavflow.benchmarking.loading, wavflow.benchmarking.synthesis"
    program = f"import sys, {modules}; sys.exit('pytorch_lightning' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
