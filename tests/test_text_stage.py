"""The stage of text to mel, and the command that speaks by it."""

import io
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile as sf
import torch
from commands import is_refused, succeeds
from helpers import MEL, refused, tiny_mel
from sounds import hum

from wavflow.callbacks import Listen
from wavflow.data import TextDataModule
from wavflow.data.utterances import collate
from wavflow.models import load_model, save_model, text_to_mel
from wavflow.text_to_mel import TextToMel
from wavflow.training import TextTask
from wavflow.writing import write_audio

SIZES = {"channels": 16, "layers": 1, "blocks": 1, "block_layers": 1, "block_channels": 16}
TINY = [*(f"net.{name}={size}" for name, size in SIZES.items()), "net.alphabet=characters"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 steps over letters of their own pitch, then resumed for 2 more."""
    torch.set_default_dtype(torch.float64)
    folder = tmp_path_factory.mktemp("text")
    lines = ["id|text|path"]
    for i, text in enumerate(["abc", "cab", "bca", "acb", "bac", "cba a"]):
        sound = torch.cat([hum(4000, 22050, 120.0 + 40.0 * (ord(char) % 7)) for char in text])
        write_audio(folder / "corpus" / f"{i}.wav", sound + 0.001 * torch.randn(len(sound)), 22050)
        lines.append(f"{i}|{text}|elsewhere/{i}.wav")
    (folder / "corpus" / "metadata.csv").write_text("\n".join(lines) + "\n")
    for steps, resume in ((3, "null"), (5, "auto")):
        succeeds(
            "train", "stage=text", "data=folder", f"data.path={folder / 'corpus'}", f"output={folder / 'run'}", *TINY,
            f"trainer.max_steps={steps}", f"resume={resume}", "data.batch_size=2", "data.validation=0.2", "data.test=0.1",
        )  # fmt: skip
    return folder / "run"


def test_further_speeds_are_further_voices(tmp_path: Path) -> None:
    mel = tiny_mel()
    rate, hop = mel.sample_rate, mel.hop_length
    for i in range(4):
        write_audio(tmp_path / f"{i}.wav", 0.5 * hum(rate, rate, 200.0), rate)
        (tmp_path / f"{i}.txt").write_text("ab")
    data = TextDataModule(mel, tmp_path, segment_length=hop, batch_size=4, validation=0.3, test=0.3, speeds=[0.8, 1.25])
    data.use_symbols("characters")
    refused(lambda: data.train_dataloader(), "n_speakers=auto")
    assert data.speakers == ["", "x0.8", "x1.25"]
    data.number_speakers(data.speakers)
    heard = data.train_dataloader().dataset
    items = [heard[i] for i in range(len(heard))]
    assert sorted(item["speaker"] for item in items) == sorted([0, 1, 2] * len(data.files("train")))
    for item in items:
        speed, frames = (1.0, 0.8, 1.25)[item["speaker"]], item["mel"].shape[1]
        assert abs(frames * hop - rate / speed) < 3 * hop
        expected = mel(0.5 * hum(round(rate / speed), rate, 200.0 * speed)[None])[0]
        middle = slice(frames // 4, frames // 2)
        assert (item["mel"][:, middle] - expected[:, middle]).abs().mean() < 0.1
    for held_out in data.val_dataloader():
        assert held_out["speaker"].tolist() == [0], "nobody is judged by another speed"


def test_texts_are_left_out_whose_states_have_no_frames(tmp_path: Path) -> None:
    mel = tiny_mel()
    for i, text in enumerate(("ab", "ab", "ab", "a" * 9)):
        write_audio(tmp_path / f"{i}.wav", hum(16 * mel.hop_length, mel.sample_rate), mel.sample_rate)
        (tmp_path / f"{i}.txt").write_text(text)
    for states, left_out in ((1, False), (2, True)):
        data = TextDataModule(mel, tmp_path, segment_length=mel.hop_length, validation=0.3, test=0.3)
        with pytest.warns(UserWarning, match="1 file left out, with") if left_out else nullcontext():
            data.use_symbols("characters", states=states)
        assert (tmp_path / "3.wav" in data._all_files()) is not left_out


@pytest.mark.parametrize("speeds", [[1.0], [0.9, 0.9], [0.1], [-1.0]])
def test_speeds_that_make_no_voice_are_refused(speeds: list[float], tmp_path: Path) -> None:
    refused(lambda: TextDataModule(tiny_mel(), tmp_path, segment_length=16, speeds=speeds), "`speeds` must be")


@pytest.mark.slow
def test_a_run_leaves_a_model_a_sound_and_an_alignment(run: Path) -> None:
    model = load_model(run / "model.safetensors", kind=TextToMel)
    assert list(model.numbers) == [" ", ".", "a", "b", "c"]
    assert model.info["steps"] == 5
    assert {path.name for path in (run / "samples").iterdir()} >= {"step-0000005-alignment.png", "step-0000005.wav"}
    curves = (run / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"validation/nats", "validation/duration", "validation/tempo"} <= set(curves)


@pytest.mark.slow
def test_it_speaks_to_a_file_and_to_a_pipe(run: Path, tmp_path: Path) -> None:
    model = load_model(run / "model.safetensors", kind=TextToMel)
    torch.nn.init.zeros_(model.means.weight)  # so few steps teach nothing: each frame is the mean of all
    torch.nn.init.zeros_(model.means.bias)
    save_model(model, tmp_path / "mean.safetensors")
    untrained = f"model={tmp_path / 'mean.safetensors'}", "vocoder=lj-student-fast", "temperature=0"
    succeeds("speak", "A cab. Abc.", *untrained, f"output={tmp_path / 'speech.wav'}")
    spoken, rate = sf.read(tmp_path / "speech.wav")
    assert rate == 22050
    assert len(spoken) > 0.25 * rate  # the pause alone
    piped = subprocess.run(
        [sys.executable, "-m", "wavflow.speak", *untrained, "output=-"], input=b"A cab. Abc.", capture_output=True, check=True
    )
    assert b"x real time" in piped.stderr
    samples, _ = sf.read(io.BytesIO(piped.stdout[44:]), format="RAW", samplerate=rate, channels=1, subtype="PCM_16")
    assert len(samples) == len(spoken)
    assert abs(samples - spoken).max() < 1e-4


@pytest.mark.slow
def test_what_cannot_be_spoken_is_refused(run: Path, tmp_path: Path) -> None:
    model, output = f"model={run / 'model.safetensors'}", f"output={tmp_path / 'x.wav'}"
    is_refused(tmp_path, "speak", "...", model, output, words="`text` must hold a word")
    is_refused(tmp_path, "speak", "abc", "input=x.txt", model, output, words="exclude each other")
    is_refused(tmp_path, "speak", f"input={tmp_path / 'none.txt'}", model, output, words="no text file")
    is_refused(tmp_path, "speak", "input=/dev/null", model, output, words="`text` must hold a word")
    is_refused(tmp_path, "speak", "abc", "model=lj-student", output, words="holds a vocoder")
    is_refused(tmp_path, "speak", "abc", model, output, "speaker=3", words="`speaker`")
    is_refused(tmp_path, "train", "stage=text", "data=shards", "data.path=x", words="`data` must be audio files")
    is_refused(tmp_path, "train", "stage=text", "net=teacher", words="stage=text")
    is_refused(tmp_path, "train", "stage=teacher", "net=text", words="`net` must be one of the stage")


def test_a_vocoder_of_another_mel_leaves_the_sound_out(tmp_path: Path) -> None:
    model = text_to_mel(MEL, "ab", "characters", **SIZES)
    task = TextTask(model, partial(torch.optim.Adam, lr=1e-3), vocoder="lj-student-fast")
    batch = collate([{"audio": torch.randn(1280), "mel": torch.randn(8, 80) - 5, "symbols": torch.tensor([0, 1]), "name": "a"}])
    trainer = SimpleNamespace(is_global_zero=True, val_dataloaders=[batch], global_step=7, loggers=[])
    Listen(str(tmp_path)).on_validation_epoch_end(trainer, task)
    assert {path.name for path in tmp_path.iterdir()} == {"step-0000007.png", "step-0000007-alignment.png"}
