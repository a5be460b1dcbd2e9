"""The benchmark: its counts and its baseline against the nets themselves, and the command at a tiny size; never a time."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from commands import call, is_refused, make_sounds, succeeds
from helpers import MEL, NET, random_log_mel, randomized, tiny_flow, tiny_student, tiny_teacher
from torch.utils.flop_counter import FlopCounterMode

import wavflow
from wavflow import Vocoder
from wavflow.benchmarking import forms, resources, synthesis, timing
from wavflow.benchmarking.ceilings import Ceilings
from wavflow.benchmarking.floors import operations_per_sample, weights_per_step
from wavflow.benchmarking.measure import with_random_weights
from wavflow.benchmarking.report import text_table
from wavflow.benchmarking.timing import Stopwatch
from wavflow.benchmarking.training import step, task

CPU = torch.device("cpu")
TINY = ["seconds=0.02", "lengths=0.01,0.03", "repeats=2", "budget=0.2", "device=cpu"]


# --- counts ------------------------------------------------------------------------------------------------------------


def counted(vocoder: Vocoder, frames: int = 4) -> float:
    """What torch counts in a draw, or for a teacher in a score, per sample."""
    mel = random_log_mel(frames)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cond = vocoder.conditioning(mel)
        x = torch.randn(1, 1, frames * vocoder.hop_length)
        vocoder.flow.sample(x, cond) if vocoder.draws_in_parallel else vocoder.flow.log_prob(x, cond)
    return counter.get_total_flops() / x.numel()


@pytest.mark.parametrize(
    "vocoder",
    [
        tiny_student,
        lambda: tiny_student(flows=3, kernel_size=3, channels=5, features=7, skip_channels=4),
        lambda: tiny_student(group=4),
        lambda: tiny_teacher(density="mixture_of_logistics", channels=5, skip_channels=9),
    ],
)
def test_operations_are_those_that_torch_counts(vocoder: Any) -> None:
    assert operations_per_sample(vocoder()) == pytest.approx(counted(vocoder()), rel=1e-12)


@pytest.mark.parametrize("name", ["waveglow", "flowavenet", "waveflow"])
def test_operations_of_folded_flows_leave_out_only_the_maps_that_mix_channels(name: str) -> None:
    vocoder = tiny_flow(name, channels=16)
    assert 0.97 * counted(vocoder) <= operations_per_sample(vocoder) <= (1 + 1e-12) * counted(vocoder)


def test_a_step_reads_the_weights_that_wait_for_the_sample_before() -> None:
    channels, layers = NET["channels"], NET["layers"]
    gates = layers * channels * 2 * channels
    outputs = layers * channels * 2 * channels - channels * channels  # the last layer has no residual
    head = channels + channels * channels + channels * 2  # input, head and last
    assert weights_per_step(tiny_teacher()) == gates + outputs + head


@pytest.mark.parametrize("distils", [False, True])
def test_a_training_step_costs_three_passes_and_two_of_a_frozen_teacher(distils: bool) -> None:
    wide = {"channels": 24, "layers": 6, "whitening": 2, "pitch": False}
    net, teacher = (tiny_student(**wide), tiny_teacher(**wide)) if distils else (tiny_teacher(**wide), None)
    form = forms.forms(net)["eager, float32"]
    mel, audio = synthesis.inputs(net.float(), 0.1, 2)
    batch = {"audio": audio, "mel": mel, "mask": torch.ones_like(audio)}
    made = task(net, form, teacher and teacher.float())
    before = [parameter.clone() for parameter in made.net.parameters()]
    with FlopCounterMode(display=False) as counter:
        step(made, batch, form)()
    passes = 3 * operations_per_sample(net) + (2 * operations_per_sample(teacher) if teacher else 0)
    assert counter.get_total_flops() / audio.numel() == pytest.approx(passes, rel=0.05)
    assert any((old != new).any() for old, new in zip(before, made.net.parameters(), strict=True)), "it must train"


# --- forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3, "skip_channels": 4, "layers": 4, "dilation_cycle": 2}])
@pytest.mark.parametrize("make", [tiny_teacher, tiny_student, partial(tiny_student, group=2)])
def test_the_plain_convolutions_are_the_same_function(make: Any, options: dict[str, int]) -> None:
    vocoder, mel = make(std=0.2, **options), random_log_mel(5, batch=2)
    convolved = forms.as_convolutions(vocoder)
    noise = vocoder.noise(mel)
    assert not any(isinstance(module, wavflow.nn.WaveNet) for module in convolved.modules())
    if vocoder.draws_in_parallel:
        ours, theirs = vocoder.sample_and_log_prob(mel, noise), convolved.sample_and_log_prob(mel, noise)
    else:
        ours, theirs = vocoder.log_prob(0.1 * noise, mel), convolved.log_prob(0.1 * noise, mel)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-9)


def test_every_engine_draws_the_same() -> None:
    vocoder = randomized(tiny_student(), 0.1).float()
    mel, noise = synthesis.inputs(vocoder, 0.05)
    engines = synthesis.engines(vocoder)
    assert {"... streamed, float32, 2 passes", "equalizer alone, 2 passes"} <= engines.keys()
    engines = {name: engine for name, engine in engines.items() if not engine.passes}
    drawn = {name: torch.cat(list(engine.draw(mel, noise)), dim=-1) for name, engine in engines.items()}
    drawn |= {f"{n}, by frames": torch.cat(list(e.stream(mel, noise)), -1) for n, e in engines.items() if e.stream}
    assert {"eager conv1d, float32", "eager, bfloat16", "eager in segments, float32"} <= drawn.keys()
    assert {"compiled engine, float32", "... streamed, float32"} <= drawn.keys()
    exact = drawn.pop("eager, float32")
    assert exact.abs().max() > 1e-3
    for name, audio in drawn.items():
        tolerance = 0.1 if "bfloat16" in name else 1e-5
        torch.testing.assert_close(audio.float(), exact, rtol=0, atol=tolerance * float(exact.abs().max()), msg=name)
    assert not torch.equal(drawn["eager, bfloat16"], exact)


def test_random_weights_leave_no_layer_at_zero() -> None:
    model = with_random_weights(tiny_student(std=None))
    assert all(parameter.any() for parameter in model.parameters())


# --- timing ------------------------------------------------------------------------------------------------------------


def test_a_stopwatch_warms_up_repeats_and_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setitem(timing.CLOCKS, "wall", lambda: clock[0])

    def run() -> None:
        calls.append(clock[0])
        clock[0] += 1.0 + len(calls)

    taken = Stopwatch(CPU, repeats=5)(run)
    assert taken.seconds == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert (taken.median, taken.best, taken.quartiles) == (5.0, 3.0, (4.0, 6.0))
    calls.clear()
    assert Stopwatch(CPU, repeats=5, budget=4.5)(run, warm_up=False).seconds == [2.0, 3.0]


def test_a_floor_is_the_larger_of_arithmetic_and_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavflow.benchmarking.ceilings.SIDES", {"cpu": (8, 16)})
    monkeypatch.setattr("wavflow.benchmarking.ceilings.COPIED", {"cpu": 2**10})
    ceilings = Ceilings(Stopwatch(CPU, 2))
    assert min(*ceilings.operations.values(), ceilings.copying, ceilings.reading(4096)) > 0
    ceilings.operations, ceilings.copying = {"float32": 100.0}, 10.0
    assert ceilings.floor(50.0, 1.0, "float32") == 0.5
    assert ceilings.floor(50.0, 20.0, "float32") == 2.0
    assert ceilings.floor(50.0, 20.0, "float32", bandwidth=80.0) == 0.5


def test_growth_is_the_power_of_the_length() -> None:
    lengths = [0.5, 1.0, 2.0]
    rows = [{"model": "m", "engine": "e", "seconds of audio": x, "median s": 3 * x**1.5} for x in lengths]
    (found,) = synthesis.growth([*rows, {"model": "m", "engine": "once", "seconds of audio": 1.0, "median s": 1.0}])
    assert found["time grows as length to the"] == pytest.approx(1.5)
    assert found["lengths"] == 3


def test_a_table_has_its_columns_one_under_the_other() -> None:
    rows = [{"engine": "a", "samples/s": 12345.678, "quartiles s": (0.1, 0.25)}, {"engine": "longer", "samples/s": 2.5, "x": 1}]
    lines = text_table([row | {"sweeps": None} for row in rows]).splitlines()
    assert lines[0].split() == ["engine", "samples/s", "quartiles", "s"]
    assert set(lines[1]) == {"─", " "}
    assert lines[2].index("12346") + 5 == lines[3].index("2.500") + 5 == lines[0].index("samples/s") + 9
    assert lines[2].endswith("0.1 to 0.25")


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files of a student and a teacher, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wavflow.benchmarking.ceilings.SIDES", {"cpu": (32,)})
    monkeypatch.setattr("wavflow.benchmarking.ceilings.COPIED", {"cpu": 2**12})
    wavflow.save_model(tiny_student(std=0.1).float(), tmp_path / "s.safetensors")
    wavflow.save_model(tiny_teacher(std=0.1).float(), tmp_path / "t.safetensors")
    return "model=s.safetensors,t.safetensors"


def test_the_command_measures_writes_and_shows_everything(models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(model: str, lengths: list[float], device: str) -> list[dict[str, float]]:
        return [resources._measure(model, length, device) for length in lengths]

    monkeypatch.setattr("wavflow.benchmarking.synthesis.synthesis_costs", in_this_process)
    sounds = make_sounds(tmp_path / "sounds")
    data = [f"data.path={sounds}", "data.segment_length=512"]
    outcome = succeeds("benchmark", models, *TINY, *data, "output=out")
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert found["settings"]["repeats"] == 2
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == 1
    assert {"processor", "commit", "load", "device"} <= found["machine"].keys()
    assert set(found["ceilings"]["operations/s"]) >= {"float32", "bfloat16"}
    for table in ("synthesis", "costs", "sampling", "training", "data"):
        for row in found[table]:
            assert 1 <= len(row["runs s"]) <= 2
            assert row["quartiles s"][0] <= row["median s"] <= row["quartiles s"][1]
    synthesis_rows = {row["engine"]: row for row in found["synthesis"]}
    assert synthesis_rows.keys() >= {"eager conv1d, float32", "eager, bfloat16"}
    assert not any("compiled layers" in name for name in synthesis_rows), "they are for training"
    row = synthesis_rows["eager, float32"]
    assert row["seconds of audio"] == pytest.approx(0.02)
    assert row["samples/s"] == pytest.approx(8000 * row["x real time"])
    assert row["share of floor"] == pytest.approx(row["floor s"] / row["median s"])
    assert {row["engine"]: row["sweeps"] for row in found["sampling"]}.keys() >= {"eager steps, float32", "solver, float32"}
    assert [row["step"] for row in found["training"]] == ["likelihood"] * 5 + ["distillation"] * 5
    assert found["training"][0]["batch"] == [2, 512]
    assert found["data"][0]["format"] == "wav, 8000 Hz"
    assert [row["seconds of audio"] for row in found["memory"]] == pytest.approx([0.01, 0.03], abs=0.002)
    assert {row["lengths"] for row in found["growth"]} <= {2}
    assert matplotlib.image.imread(tmp_path / "out" / "benchmark.png").shape[2] == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"benchmark.json", "benchmark.png"}
    for words in ("matrix products", "share of floor", "eager conv1d, float32", "solver", "distillation", "MiB in all"):
        assert words in outcome.out


def test_untrained_nets_and_the_bundled_corpus_need_nothing_at_hand(models: str, tmp_path: Path) -> None:
    options = ["model=teacher_small", "part=data", "audio=16k", "repeats=1", "data.segment_length=512", "clock=processor"]
    outcome = succeeds("benchmark", *options, "output=out")
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert found.keys() == {"machine", "settings", "ceilings", "data"}
    assert found["data"][0]["files"] > 10
    assert found["data"][0]["format"] == "flac, 16000 Hz"
    assert "x real time per core" in outcome.out


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("part=synthetics", "`part` must be one of synthesis, sampling, training, data, all, got 'synthetics'"),
        ("part=sampling,training", "`part` sampling needs a model that draws sample by sample|model=teacher|got s"),
        ("model=gone.safetensors", "there is no model file|gone.safetensors"),
        ("repeats=0", "`repeats` must be a whole number of at least 1, got 0"),
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
    assert call("benchmark", models, "part=synthesis", "lengths=[]", *TINY[:1], "repeats=1", "output=out").status == 0
