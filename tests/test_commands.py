"""The commands as a user calls them, from the first teacher to the report, and every variant of training for two steps."""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from commands import TRAIN, Outcome, contents, curves, is_refused, make_sounds, script, succeeds, tone
from helpers import tiny_flow

import wavflow

# Variants of training need no picture of what they sound like.
BARE = [*TRAIN, "net.whitening=8", "~callbacks.listen"]


class Chain(NamedTuple):
    """A folder of sounds, and the runs that were made of it."""

    root: Path
    sounds: Path
    teacher: Path
    student: Path
    outcomes: dict[str, Outcome]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Teacher, then student, by the commands."""
    root = tmp_path_factory.mktemp("chain")
    sounds = make_sounds(root / "sounds")
    options = [*TRAIN, f"data.path={sounds}", "callbacks.listen.stepwise_seconds=0.02"]
    teacher = succeeds("train", "stage=teacher", "net.whitening=8", *options, f"output={root / 'teacher'}")
    path = root / "teacher" / "model.safetensors"
    student = succeeds("train", "stage=student", "net.flows=2", f"teacher={path}", *options, f"output={root / 'student'}")
    return Chain(root, sounds, path, root / "student" / "model.safetensors", {"teacher": teacher, "student": student})


def read(path: Path) -> np.ndarray:
    audio, sample_rate = soundfile.read(path)
    assert sample_rate == 8000
    return audio


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_training_leaves_a_model_curves_samples_and_a_checkpoint(chain: Chain, stage: str) -> None:
    folder = chain.root / stage
    expected = {"model.safetensors", "config.yaml", "checkpoints/last.ckpt", "logs/metrics.csv", "samples/step-0000002.wav"}
    assert contents(folder) >= expected
    assert not [name for name in contents(folder) if name.endswith(".part")]
    rows = curves(folder)
    assert len([row for row in rows if "validation/loss" in row]) == 2, "untrained and trained"
    assert any("train/loss" in row for row in rows)
    assert str(folder / "model.safetensors") in chain.outcomes[stage].out
    model = wavflow.load_model(folder / "model.safetensors")
    assert model.info["steps"] == 2
    assert model.draws_in_parallel == (stage == "student")
    assert model.whitening.order == 8, "a student shares its teacher's whitening"


def test_a_run_keeps_the_options_that_it_was_given(chain: Chain) -> None:
    config = (chain.root / "student" / "config.yaml").read_text()
    assert f"teacher: {chain.teacher}" in config
    assert "sample_rate: 8000" in config
    assert "${" not in config


def test_resume_goes_on_and_keeps_the_curves(chain: Chain, tmp_path: Path) -> None:
    run = shutil.copytree(chain.root / "student", tmp_path / "run")
    before = (run / "logs" / "metrics.csv").read_text().splitlines()
    options = [*TRAIN, "~callbacks.listen", "stage=student", "net.flows=2", f"teacher={chain.teacher}"]
    options += [f"data.path={chain.sounds}", f"output={run}"]
    is_refused(tmp_path, "train", *options, words="holds a run already|resume=auto|overwrite=true")
    is_refused(tmp_path, "train", *options, "resume=auto", "net.channels=5", words="`net.channels` can't change|from 4 to 5")
    (tmp_path / "not.ckpt").write_bytes(b"PK\x03\x04 no checkpoint")
    is_refused(tmp_path, "train", *options, f"resume={tmp_path / 'not.ckpt'}", words="`resume`|not a whole checkpoint")
    is_refused(tmp_path, "train", *options, f"resume={tmp_path / 'gone.ckpt'}", words="`resume`|there is no checkpoint")
    outcome = succeeds("train", *options, "resume=auto", "trainer.max_steps=4")
    assert "after 4 steps" in outcome.out
    assert wavflow.load_model(run / "model.safetensors").info["steps"] == 4
    after = (run / "logs" / "metrics.csv").read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) > len(before)
    (run / "notes.txt").write_text("mine")
    succeeds("train", *options, "overwrite=true", "trainer.max_steps=1", "trainer.val_check_interval=1")
    assert (run / "notes.txt").read_text() == "mine"
    assert wavflow.load_model(run / "model.safetensors").info["steps"] == 1
    assert not contents(run / "samples"), "nothing of the old run stays"


def test_a_resumed_run_takes_the_options_of_now_and_tells_them(chain: Chain, tmp_path: Path) -> None:
    run = shutil.copytree(chain.root / "student", tmp_path / "run")
    options = [*TRAIN, "~callbacks.listen", "stage=student", "net.flows=2", f"data.path={chain.sounds}", f"output={run}"]
    changes = ["stage.optimizer.lr=1e-5", "stage.warmup_steps=1", "data.batch_size=3", "stage.density_weight=0.5"]
    outcome = succeeds("train", *options, *changes, "resume=auto", "trainer.max_steps=4", "trainer.accumulate_grad_batches=2")
    assert f"Going on with {run / 'checkpoints' / 'last.ckpt'}, after 2 steps." in outcome.out
    for line in ("stage.optimizer.lr: 1e-05 from now on, 0.001 before", "callbacks.listen: left out from now on"):
        assert f"\n  {line}\n" in outcome.out
    assert f"teacher: {chain.teacher}" in (run / "config.yaml").read_text(), "the run's own, not the newest"
    stored = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["AudioDataModule"] == {"crops": 2 * 2 + 2 * 2 * 3}
    assert stored["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 1e-5
    assert stored["optimizer_states"][0]["param_groups"][0]["lr"] <= 1e-5
    before, after = (safetensors.torch.load_file(path) for path in (chain.student, run / "model.safetensors"))
    assert max(float((after[name] - before[name]).abs().max()) for name in after) < 1e-4, "two steps at 1e-5"
    is_refused(tmp_path, "train", *options, "resume=auto", "data.seed=3", words="`data.seed` can't change|from 0 to 3")
    is_refused(tmp_path, "train", *options, "resume=auto", f"start={chain.student}", words="`start` can't change")


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_training_goes_on_from_a_model(chain: Chain, tmp_path: Path, stage: str) -> None:
    start = {"teacher": chain.teacher, "student": chain.student}
    options = [f"stage={stage}", f"teacher={chain.teacher}", *TRAIN, f"data.path={chain.sounds}", "~callbacks.listen"]
    out = tmp_path / "further"
    # The net is the model's but for what is typed; at a learning rate of 0 its weights stay.
    name, value = {"teacher": ("dilation_cycle", 1), "student": ("pulses", 0.5)}[stage]
    given = [*options, f"start={start[stage]}", "stage.optimizer.lr=0"]
    words = "`start`: the weights of | are not those of net.layers=2 net.channels=16"
    is_refused(tmp_path, "train", *given, "net.channels=16", f"output={tmp_path / 'no'}", words=words)
    given += [f"net.{name}={value}", f"output={out}"]
    assert "after 2 steps" in succeeds("train", *given).out
    before, after = (safetensors.torch.load_file(path) for path in (start[stage], out / "model.safetensors"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)
    assert wavflow.load_model(out / "model.safetensors").config == wavflow.load_model(start[stage]).config | {name: value}
    further = [option for option in options if not option.startswith("teacher=")]
    succeeds("train", *further, f"output={out}", "resume=auto", "trainer.max_steps=3")  # whose net and teacher are on record
    assert f"start: {start[stage]}" in (out / "config.yaml").read_text()
    other = "teacher" if stage == "student" else "student"
    words = f"`start`: {start[other]} is a {other}: choose its stage"
    is_refused(tmp_path, "train", *options, f"start={start[other]}", f"output={tmp_path / 'no'}", words=words)
    strange = [*options, "audio.f_max=3000", f"start={start[stage]}", f"output={tmp_path / 'no'}"]
    is_refused(tmp_path, "train", *strange, words=f"`{'start' if stage == 'teacher' else 'teacher'}`|audio=...")


def test_the_newest_teacher_is_taken_where_none_is_named(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(chain.root / "teacher", tmp_path / "runs" / "teacher" / "mine")
    options = [option for option in BARE if "whitening" not in option]
    outcome = succeeds("train", "stage=student", "net.flows=1", *options, f"data.path={chain.sounds}")
    (run,) = (tmp_path / "runs" / "student").iterdir()
    assert f"runs/student/{run.name}/model.safetensors" in outcome.out
    assert "teacher: runs/teacher/mine/model.safetensors" in (run / "config.yaml").read_text()


def test_audio_and_mels_are_synthesized(chain: Chain, tmp_path: Path) -> None:
    model = wavflow.load_model(chain.student)
    inputs = tmp_path / "in"
    (inputs / "deep").mkdir(parents=True)
    clip = torch.from_numpy(tone(0.25)).float()
    mel = model.mel(clip[None])[0]
    soundfile.write(inputs / "clip.wav", clip.numpy(), 8000, subtype="FLOAT")
    soundfile.write(inputs / "odd.flac", tone(0.1251, sample_rate=11025), 11025)
    np.save(inputs / "deep" / "a.npy", mel.numpy())
    torch.save(mel[None], inputs / "deep" / "b.pt")
    safetensors.torch.save_file({"mel": mel}, inputs / "c.safetensors", {"spec": json.dumps(model.mel.spec)})
    (inputs / "notes.txt").write_text("not to be synthesized")
    (inputs / ".hidden.wav").write_text("no audio")
    outcome = succeeds("synthesize", f"model={chain.student}", f"input={inputs}", f"output={tmp_path / 'out'}")
    assert "5 files" in outcome.out
    made = {path.relative_to(tmp_path / "out").as_posix(): read(path) for path in (tmp_path / "out").rglob("*.wav")}
    assert made.keys() == {"clip.wav", "odd.wav", "deep/a.wav", "deep/b.wav", "c.wav"}
    assert len(made["clip.wav"]) == 2000
    assert len(made["odd.wav"]) == 1008, "1001 samples at 8 kHz, the last frame whole"
    for name in ("deep/a.wav", "deep/b.wav", "c.wav"):
        np.testing.assert_allclose(made[name], made["clip.wav"], rtol=0, atol=2 / 32768, err_msg="one mel, one seed")
    assert np.std(made["clip.wav"]) > 0.01


def test_seed_and_temperature_fix_the_audio(chain: Chain, tmp_path: Path) -> None:
    def synthesize(name: str, *options: str) -> np.ndarray:
        given = f"input={chain.sounds / '0.wav'}"
        succeeds("synthesize", f"model={chain.student}", given, f"output={tmp_path / name}", *options)
        return read(tmp_path / name)

    first = synthesize("first.wav", "seed=3")
    assert len(first) == 2400
    np.testing.assert_array_equal(first, synthesize("again.wav", "seed=3"))
    assert not np.array_equal(first, synthesize("other.wav", "seed=4"))
    streamed = synthesize("streamed.wav", "seed=3", "stream=true", "precision=float32")
    assert np.abs(streamed - first).max() <= 2.0**-15, "the mels of pieces and of the whole may differ in their last bits"
    synthesize("auto.wav", "seed=3", "stream=true", "precision=auto")
    still = synthesize("still.wav", "seed=3", "temperature=0", "passes=0")  # the equalizer would bring it to the mel's level
    assert np.std(still) < 0.5 * np.std(synthesize("drawn.wav", "seed=3", "passes=0"))
    np.testing.assert_array_equal(still, synthesize("still2.wav", "seed=4", "temperature=0", "passes=0"))
    lossy = synthesize("deep/lossy.mp3", "seed=3")
    assert np.corrcoef(lossy[: len(first)], first)[0, 1] > 0.8
    mp3 = tmp_path / "in.mp3"
    soundfile.write(mp3, tone(0.5), 8000)
    succeeds("synthesize", f"model={chain.student}", f"input={mp3}", f"output={tmp_path / 'folder'}")
    assert len(read(tmp_path / "folder" / "in.wav")) >= 4000


def test_inputs_of_one_name_do_not_overwrite_each_other(chain: Chain, tmp_path: Path) -> None:
    inputs = make_sounds(tmp_path / "in", (0.1,))
    np.save(inputs / "0.npy", np.full((8, 5), -5.0, dtype=np.float32))
    options = [f"model={chain.student}", f"input={inputs}", f"output={inputs / 'out'}"]
    succeeds("synthesize", *options)
    assert contents(inputs / "out") == {"0.wav.wav", "0.npy.wav"}
    again = succeeds("synthesize", *options)
    assert "2 files" in again.out, "what it made before is no input"


def test_teachers_synthesize_too(chain: Chain, tmp_path: Path) -> None:
    np.save(tmp_path / "mel.npy", np.full((8, 5), -5.0, dtype=np.float32))
    succeeds("synthesize", f"model={chain.teacher}", f"input={tmp_path / 'mel.npy'}", f"output={tmp_path / 'out.flac'}")
    assert len(read(tmp_path / "out.flac")) == 80


EVALUATE = ["voicing=false", "listen=false", "jobs=1"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that hold two clips out, of hardly more than the 2048 samples that can be judged."""
    folder = make_sounds(tmp_path_factory.mktemp("held-out"), (0.28,) * 4)
    (folder / "split.json").write_text(json.dumps({"train": ["0"], "validation": ["1"], "test": ["2", "3"]}))
    return ["data=folder", f"data.path={folder}", f"data.split={folder / 'split.json'}", "clips=2", *EVALUATE]


def test_evaluation_writes_a_report(chain: Chain, held_out: list[str], tmp_path: Path) -> None:
    report = tmp_path / "report"
    models = [f"teacher={chain.teacher}", f"student={chain.student}"]
    outcome = succeeds("evaluate", *models, *held_out, "listen=true", f"output={report}")
    figures = json.loads((report / "figures.json").read_text())
    systems = ["recording", "Griffin-Lim", "WORLD", "random phase", "whitening alone"]
    systems += ["teacher, 0 passes", "teacher", "student, 0 passes", "student"]
    assert [row["system"] for row in figures["summary"]] == systems
    assert {row["clips"] for row in figures["summary"]} == {2}
    assert len(figures["clips"]) == 2 * len(systems)
    likelihoods, divergences, _ = figures["tables"].values()
    assert [row["likelihood of"] for row in likelihoods] == ["FLAC", "whitening alone", "teacher"]
    assert [row["divergence of"] for row in divergences] == ["untrained student", "student"]
    page = (report / "report.html").read_text()
    for heading in ('<ul class="ladder">', "Quality against speed", "Quality against training time", "Training", "Models"):
        assert heading in page
    for clip in {row["clip"] for row in figures["clips"]}:
        for system in systems:
            assert len(read(report / "clips" / f"{clip}-{re.sub(r'[, ]+', '-', system)}.wav")) == 2240
    assert contents(report) > {"report.md", "summary.csv", "clips.csv", "listen.html"}
    assert f"Open {report / 'report.html'} to see and hear it, {report / 'listen.html'} to test yourself." in outcome.out
    assert {"system", "whitening", "teacher", "FLAC"} <= {line.split(" ")[0] for line in outcome.out.splitlines()}
    assert max(map(len, outcome.out.replace(str(report), "").splitlines())) <= 100, "fits a terminal"
    assert "comparing" in outcome.err, "a bar"
    assert (report / "report.md").read_text().count("± ") > 40, "the whole tables are there"
    assert "{" not in outcome.out, "no Python dict"
    assert "2 steps" in outcome.out
    again = [f"see_also={report / 'report.html'}", "clips=1", "listen=false", f"output={tmp_path / 'x y'}"]
    succeeds("evaluate", f"model={chain.student}", *held_out, *again)
    assert '<a href="../report/report.html">Teacher and student</a>' in (tmp_path / "x y" / "report.html").read_text()
    assert len(contents(report / "clips")) == 2 * len(systems)
    succeeds("evaluate", f"model={chain.student}", *held_out, "clips=1", "listen=false", f"output={report}")
    assert len(contents(report / "clips")) == len(systems) - 2, "nothing of the report before stays"
    assert "listen.html" not in contents(report)
    is_refused(tmp_path, "evaluate", *held_out, "see_also=gone.html", words="`see_also`|there is no file gone.html")


def test_models_of_several_kinds_are_compared(chain: Chain, held_out: list[str], tmp_path: Path) -> None:
    """The file of one is called like a role, and two files have one name."""
    paths = [tmp_path / "x" / "waveglow.safetensors", tmp_path / "y" / "waveglow.safetensors", tmp_path / "teacher.safetensors"]
    teacher = wavflow.load_model(chain.teacher)
    for path in paths:
        flow = tiny_flow("waveglow", 0.01, mel=teacher.mel.spec, whitening=8).float()
        wavflow.save_model(flow, path, {"seconds": 30.0} if path == paths[0] else None)
    models = [f"model={','.join(map(str, paths))}", f"teacher={chain.teacher}"]
    outcome = succeeds("evaluate", *models, *held_out, f"output={tmp_path / 'report'}")
    figures = json.loads((tmp_path / "report" / "figures.json").read_text())
    names = ["x-waveglow", "y-waveglow", f"{tmp_path.name}-teacher"]
    heard = [f"{name}{label}" for name in ("teacher", *names) for label in (", 0 passes", "")]
    assert [row["system"] for row in figures["summary"]][-8:] == heard
    assert figures["models"].keys() == {"teacher", *names}
    likelihoods, divergences, _ = figures["tables"].values()
    assert [row["likelihood of"] for row in likelihoods][-4:] == ["teacher", *names]
    assert {row["divergence of"] for row in divergences} == {"untrained x-waveglow", *names}
    assert "Quality against training time" in (tmp_path / "report" / "report.html").read_text()
    assert not (tmp_path / "report" / "listen.html").exists()
    assert outcome.out.rstrip().endswith("report.html to see and hear it.")
    alone = succeeds("evaluate", f"model={paths[2]}", *held_out, f"output={tmp_path / 'alone'}")
    figures = json.loads((tmp_path / "alone" / "figures.json").read_text())
    assert figures["summary"][-1]["system"] == "teacher"
    tables = ["Likelihood of the recordings", "What was trained"]
    assert list(figures["tables"]) == tables, "it is no teacher, whatever it is called"
    assert "Quality against training time" not in (tmp_path / "alone" / "report.html").read_text()
    assert "waveglow" not in alone.out.split("- teacher")[0]


def test_folders_of_foreign_sounds_are_compared(tmp_path: Path) -> None:
    reference = make_sounds(tmp_path / "recording", (0.3, 0.3))
    soundfile.write(reference / "2.wav", np.zeros(2400), 8000)
    folders = [shutil.copytree(reference, tmp_path / "vocoders" / name) for name in ("v1.5", "v1.6", "recording")]
    (folders[0] / "0.wav").rename(folders[0] / "0_gen.wav")
    (folders[1] / "1.wav").unlink()
    soundfile.write(folders[1] / "0.wav", np.zeros(2400), 8000)
    soundfile.write(folders[2] / "0.wav", tone(0.3, 150, 16000), 16000)
    options = [f"reference={reference}", f"generated={','.join(map(str, folders))}", *EVALUATE, "listen=true"]
    outcome = succeeds("evaluate", *options, f"output={tmp_path / 'report'}")
    figures = json.loads((tmp_path / "report" / "figures.json").read_text())
    clips = [(row["system"], row["clips"]) for row in figures["summary"]]
    assert clips == [("recording", 2), ("v1.5", 2), ("v1.6", 0), ("generated recording", 2)]
    assert figures["summary"][1]["M-STFT"]["mean"] == 0.0
    assert figures["summary"][2]["M-STFT"]["mean"] is None
    left_out = {(row["clip"], row["system"]) for row in figures["left_out"]}
    assert left_out == {("1", "v1.6"), ("0", "v1.6"), ("2", "all")}
    assert any("1 of generated recording resampled from 16000 to 8000 Hz" in note for note in figures["notes"])
    assert any(note.startswith("no listening test: ") for note in figures["notes"]), "no clip has a sound of each that is heard"
    assert not (tmp_path / "report" / "listen.html").exists()
    assert "listen.html" not in outcome.out
    one = [f"generated={folders[0]}", "clips=1", "output=" + str(tmp_path / "one")]
    succeeds("evaluate", *options[:1], *one, *options[2:])
    figures = json.loads((tmp_path / "one" / "figures.json").read_text())
    assert [row["clips"] for row in figures["summary"]] == [1, 1]
    assert (tmp_path / "one" / "listen.html").stat().st_size > 1000


CONTRASTIVE = "stage.contrastive={_target_: wavflow.losses.ContrastiveDivergence}"


@pytest.mark.parametrize(
    "options",
    [
        ["stage.density.form=path", "spectral=none"],
        ["stage.density.form=rao_blackwell", "stage.density.draws=2", "spectral=magnitude", "net.base=logistic"],
        [CONTRASTIVE, "net.upsampling=smoothing", "trainer.precision=bf16-mixed"],
    ],
    ids=["path", "rao_blackwell", "contrastive"],
)
def test_every_way_to_distil_runs(chain: Chain, tmp_path: Path, options: list[str]) -> None:
    given = [f"teacher={chain.teacher}", f"data.path={chain.sounds}", f"output={tmp_path}"]
    outcome = succeeds("train", "stage=student", "net.flows=1", *BARE[:-2], "~callbacks.listen", *given, *options)
    assert "after 2 steps: kl " in outcome.out
    assert ("spectral" in outcome.out) == ("spectral=none" not in options)
    header = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()[0]
    assert ("train/contrastive" in header) == (CONTRASTIVE in options)


def test_a_teacher_of_another_density_trains_and_teaches(chain: Chain, tmp_path: Path) -> None:
    data = [*BARE, f"data.path={chain.sounds}"]
    density = ["net.density=mixture_of_logistics", "net.n_components=2", "net.whitening=0"]
    assert "after 2 steps: nats " in succeeds("train", *data, *density, f"output={tmp_path / 't'}").out
    distil = ["stage=student", "net.flows=1", f"teacher={tmp_path / 't' / 'model.safetensors'}", *data[:-3], *data[-2:]]
    distil.append(f"output={tmp_path / 's'}")
    is_refused(tmp_path, "train", *distil, words="`stage.density.form` 'closed'|use 'rao_blackwell'")
    assert "after 2 steps: kl " in succeeds("train", *distil, "stage.density.form=rao_blackwell").out


def test_the_plain_script_makes_what_the_command_makes(chain: Chain, tmp_path: Path) -> None:
    recording, made = chain.sounds / "0.wav", tmp_path / "script.wav"
    done = script("synthesize", chain.student, recording, made, "--seed", "5", "--temperature", "0.7", "--device", "cpu")
    assert done.status == 0, done.err
    assert "x real time" in done.out
    options = [f"model={chain.student}", f"input={recording}", f"output={tmp_path / 'command.wav'}"]
    succeeds("synthesize", *options, "seed=5", "temperature=0.7")
    np.testing.assert_array_equal(read(made), read(tmp_path / "command.wav"))
    failed = script("synthesize", chain.student, recording, tmp_path / "other.wav", "--device", "abacus")
    assert failed.status == 1
    assert failed.err.startswith("wavflow: `device` 'abacus' can't be used here")
    assert failed.err.count("\n") == 1
    assert contents(tmp_path) == {"script.wav", "command.wav"}
