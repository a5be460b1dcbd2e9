"""Speakers: from a table into the batches and the embedding, and from a model file's names to what is drawn."""

from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile
import torch
from commands import TRAIN, call, is_refused, make_sounds, succeeds
from helpers import random_log_mel, refused, tiny_mel, tiny_student, tiny_teacher

import wavflow
from wavflow.data import AudioDataModule
from wavflow.evaluation import systems
from wavflow.evaluation.systems import Clip
from wavflow.speakers import speaker_id, speaker_names

NAMES = ["ann", "bob"]


class Place(NamedTuple):
    """A folder of sounds by two speakers, its table, and the options that train with them."""

    root: Path
    options: list[str]

    def train(self, name: str, *options: str) -> Path:
        succeeds("train", *self.options, f"output={self.root / name}", *options)
        return self.root / name / "model.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("speakers")
    make_sounds(root / "sounds", (0.3, 0.2, 0.25, 0.35, 0.3, 0.2))
    (root / "list.csv").write_text("path,speaker\n" + "".join(f"{i}.wav,{NAMES[i % 2]}\n" for i in range(6)))
    data = [f"data.path={root / 'sounds'}", f"data.table={root / 'list.csv'}"]
    return Place(root, [*TRAIN, *data, "callbacks.listen.stepwise_seconds=0.02"])


@pytest.fixture(scope="module")
def teacher(place: Place) -> Path:
    """A teacher that knows both by name."""
    return place.train("teacher", "net.whitening=6", "net.n_speakers=auto")


def data_of(place: Place) -> AudioDataModule:
    return AudioDataModule(tiny_mel(), place.root / "sounds", segment_length=512, batch_size=4, table=place.root / "list.csv")


def test_items_hold_their_speakers_number_once_they_are_numbered(place: Place) -> None:
    data = data_of(place)
    assert "speaker" not in next(iter(data.train_dataloader()))
    assert data.speaker_ids(data.files("train")) is None
    data.number_speakers(["zoe", "bob", "ann"])
    number = {"ann": 2, "bob": 1}
    for batch in islice(data.train_dataloader(), 4):
        names = [NAMES[int(Path(name.split(" from ")[0]).stem) % 2] for name in batch["name"]]
        assert batch["speaker"].tolist() == [number[name] for name in names]
        assert batch["speaker"].dtype == torch.int64
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert [batch["speaker"].tolist() for batch in loader] == [
            [number[NAMES[int(batch["name"][0]) % 2]]] for batch in loader
        ]


def test_a_clip_that_stands_in_brings_its_own_speaker(place: Place, tmp_path: Path) -> None:
    make_sounds(tmp_path, (0.2, 0.2))
    clips = wavflow.data.ClipDataset([tmp_path / "0.wav", tmp_path / "1.wav"], tiny_mel(), speakers=[7, 5])
    (tmp_path / "0.wav").write_text("no audio")
    with pytest.warns(UserWarning, match="stands in"):
        assert clips[0]["speaker"] == 5


def test_speakers_that_do_not_fit_are_named(place: Place) -> None:
    data = data_of(place)
    refused(lambda: data.number_speakers(["ann"]), "`data` may name no speakers but the model's, ann, got bob too")
    refused(lambda: AudioDataModule(tiny_mel()).number_speakers(NAMES), "`data` names no speakers, but the model takes one")


def test_speakers_that_are_all_held_out_are_told(place: Place) -> None:
    data = data_of(place)
    held_out = {*data.files("validation"), *data.files("test")}
    table = place.root / "rare.csv"
    table.write_text(
        "path,speaker\n"
        + "".join(f"{i}.wav,{'rare' if any(p.stem == str(i) for p in held_out) else 'ann'}\n" for i in range(6))
    )
    data = AudioDataModule(tiny_mel(), place.root / "sounds", segment_length=512, table=table)
    data.number_speakers(data.speakers)
    with pytest.warns(UserWarning, match="Nothing is left to train on of 1 speaker: rare"):
        data.train_dataloader()


def test_auto_takes_as_many_as_the_data_names(place: Place, teacher: Path) -> None:
    model, again = (wavflow.load_model(p) for p in (teacher, place.train("again", "net.whitening=6", "net.n_speakers=2")))
    assert model.config["n_speakers"] == 2
    assert model.speakers.weight.shape == (2, 4)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_training_draws_one_of_the_speakers_and_names_them_in_the_file(teacher: Path) -> None:
    assert wavflow.load_model(teacher).info["speakers"] == NAMES
    assert soundfile.read(teacher.parent / "samples" / "step-0000002.wav")[0].std() > 0


def test_a_student_takes_its_teachers_speakers(place: Place, teacher: Path) -> None:
    options = ["stage=student", "net.flows=2", f"teacher={teacher}"]
    student = wavflow.load_model(place.train("student", *options))
    assert student.config["n_speakers"] == 2
    table = place.root / "other.csv"
    table.write_text((place.root / "list.csv").read_text().replace("bob", "eve"))
    run = [*place.options, *options, f"output={place.root / 'run'}"]
    is_refused(place.root, "train", *run, f"data.table={table}", words="ann, bob|got eve")
    is_refused(place.root, "train", *run, "data.table=null", words="`data` names no speakers")
    nameless = place.root / "nameless.safetensors"
    wavflow.save_model(tiny_teacher(mel=student.mel.spec, n_speakers=2).float(), nameless)
    is_refused(place.root, "train", *run, f"teacher={nameless}", words="knows 2 speakers, but its file names 0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["net.n_speakers=3"], "`net.n_speakers` must be the data's 2, got 3|net.n_speakers=auto"),
        (["net.n_speakers=auto", "data.table=null"], "`net.n_speakers` must be 0|got auto: leave it at 0|data.table"),
    ],
)
def test_numbers_of_speakers_that_the_data_does_not_have_are_refused(place: Place, options: list[str], words: str) -> None:
    is_refused(place.root, "train", *place.options, f"output={place.root / 'run'}", *options, words=words)


def test_names_and_ids_choose_the_speaker(place: Place, teacher: Path) -> None:
    sound, audio, model = place.root / "sounds" / "1.wav", {}, wavflow.load_model(teacher)
    torch.nn.init.normal_(model.speakers.weight)  # two steps of training don't tell them apart
    teacher = place.root / "distinct.safetensors"
    wavflow.save_model(model, teacher)
    for speaker in ("ann", "bob", 1):
        target = place.root / f"as {speaker}.wav"
        succeeds("synthesize", f"model={teacher}", f"input={sound}", f"output={target}", f"speaker={speaker}")
        audio[speaker] = torch.tensor(soundfile.read(target)[0])
        target.unlink()
    assert torch.equal(audio["bob"], audio[1])
    assert not torch.equal(audio["ann"], audio["bob"])
    for speaker in ("speaker=eve", "speaker=2"):
        options = [f"model={teacher}", f"input={sound}", f"output={place.root / 'x.wav'}", speaker]
        is_refused(place.root, "synthesize", *options, words=f"`speaker` must be one of ann, bob, got|{speaker[8:]}")
    is_refused(place.root, "synthesize", *options[:-1], words="`speaker` must be one of ann, bob, got None")


def test_whom_training_did_not_hear_has_the_voice_that_all_have_in_common() -> None:
    model, mel = tiny_teacher(None, n_speakers=3), random_log_mel()
    shared = tiny_teacher(None, mel=model.mel.spec)
    shared.upsampler.load_state_dict(model.upsampler.state_dict())
    for i in range(3):
        frames = model.conditioning(mel, torch.tensor([i])).frames
        torch.testing.assert_close(frames, shared.conditioning(mel).frames, rtol=0, atol=0)


def test_where_names_are_numbers_a_number_is_a_name() -> None:
    model = tiny_student(n_speakers=3)
    assert speaker_id(2, model).tolist() == [2]
    refused(lambda: speaker_names(model), "`model` knows 3 speakers, but its file names 0")
    model.info["speakers"] = ["2", "84", "1089"]
    assert [speaker_id(name, model).item() for name in (2, "84", 1089)] == [0, 1, 2]
    assert speaker_names(model) == ["2", "84", "1089"]
    refused(lambda: speaker_id(1, model), "`speaker` must be one of 2, 84, 1089, got 1")


def test_evaluation_gives_each_clip_its_speaker(place: Place, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Clip] = []

    def report(clips: list[Clip], *_: Any) -> None:
        seen.extend(clips)
        raise ValueError("that will do")

    monkeypatch.setattr("wavflow.commands.evaluate.report_on_models", report)
    data = [option for option in place.options if option.startswith(("data=", "data.path", "data.table"))]
    (place.root / "split.json").write_text('{"train": ["0"], "validation": ["1"], "test": ["2", "5"]}')
    data += [f"output={place.root}", "clips=2", f"data.split={place.root / 'split.json'}"]
    assert "that will do" in call("evaluate", f"model={teacher}", *data).err
    assert [clip.speaker.tolist() for clip in seen] == [[int(clip.name) % 2] for clip in seen]
    assert len(seen) == 2
    other = place.root / "other.safetensors"
    wavflow.save_model(wavflow.load_model(teacher), other, {"speakers": NAMES[::-1]})
    words = "knows other speakers (bob, ann)|(ann, bob)|compare models"
    is_refused(place.root, "evaluate", f"model={teacher},{other}", *data, words=words)
    is_refused(place.root, "evaluate", f"model={teacher}", *data, "data.table=null", words="names no speakers")


def test_systems_are_rendered_and_scored_as_their_clips_speakers() -> None:
    models = {"teacher": tiny_teacher(n_speakers=3), "student": tiny_student(n_speakers=3), "plain": tiny_student()}
    ids = [2, 0]
    clips = [Clip(f"{i}", 0.1 * torch.randn(1, 48), random_log_mel(), torch.tensor([i])) for i in ids]
    made = systems.render(clips, models, jobs=1)
    _, curves = systems.likelihoods(clips, models)
    rows = systems.divergences(clips, models["teacher"], models)
    for i, (clip, id_) in enumerate(zip(clips, ids, strict=True)):
        for name, model in models.items():
            noise = model.noise(clip.mel, torch.Generator().manual_seed(i))
            speaker = None if model.speakers is None else torch.tensor([id_])
            torch.testing.assert_close(made[name].audio[i], model.sample(clip.mel, noise, speaker=speaker)[0].float())
        expected = models["teacher"].log_prob(clip.audio, clip.mel, torch.tensor([id_]))[0]
        torch.testing.assert_close(curves[clip.name]["teacher"], expected)
    assert [row["divergence of"] for row in rows] == ["untrained student", "student"]
