"""The stage of text to mel, and the command that speaks by it."""

import io
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile as sf
import torch
from commands import is_refused, succeeds
from helpers import MEL
from sounds import hum

from wavflow.callbacks import Listen
from wavflow.data.utterances import collate
from wavflow.models import load_model, save_model, text_to_mel
from wavflow.text_to_mel import TextToMel
from wavflow.training import TextTask
from wavflow.writing import write_audio

TINY = (
    "net.channels=16",
    "net.layers=1",
    "net.blocks=1",
    "net.block_layers=1",
    "net.block_channels=16",
    "net.alphabet=characters",
)


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
    is_refused(tmp_path, "speak", "abc", "model=lj-student", output, words="holds a vocoder")
    is_refused(tmp_path, "speak", "abc", model, output, "speaker=3", words="`speaker`")
    is_refused(tmp_path, "train", "stage=text", "data=shards", "data.path=x", words="`data` must be audio files")
    is_refused(tmp_path, "train", "stage=text", "net=teacher", words="stage=text")
    is_refused(tmp_path, "train", "stage=teacher", "net=text", words="`net` must be one of the stage")


def test_a_vocoder_of_another_mel_leaves_the_sound_out(tmp_path: Path) -> None:
    model = text_to_mel(MEL, "ab", "characters", 16, 1, blocks=1, block_layers=1, block_channels=16)
    task = TextTask(model, partial(torch.optim.Adam, lr=1e-3), vocoder="lj-student-fast")
    batch = collate([{"audio": torch.randn(1280), "mel": torch.randn(8, 80) - 5, "symbols": torch.tensor([0, 1]), "name": "a"}])
    trainer = SimpleNamespace(is_global_zero=True, val_dataloaders=[batch], global_step=7, loggers=[])
    Listen(str(tmp_path)).on_validation_epoch_end(trainer, task)
    assert {path.name for path in tmp_path.iterdir()} == {"step-0000007.png", "step-0000007-alignment.png"}
