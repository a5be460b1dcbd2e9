"""Training on mels that come with the audio: the same frames of both, whatever their lengths; what does not belong is told."""

import math
import warnings
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import TRAIN, is_refused, make_sounds, succeeds
from helpers import refused, tiny_mel
from safetensors.torch import save_file
from test_resident import assert_equal, stood_at
from torch import Tensor

from wavflow.audio import read_audio
from wavflow.commands.prepare import prepare
from wavflow.data import AudioDataModule, ClipDataset, CropDataset
from wavflow.data.given import GivenMels, find_mels

HOP = 16
LENGTHS = {"a": 3000, "deep/b": 2400, "deep/c": 900, "d": 9, "e": 1700, "f": 2000, "g": 2000}
EXTRA = {"deep/b": 2, "deep/c": -1, "e": 3}  # frames that a mel has more than its audio
ENDINGS = {"a": "pt", "deep/c": "safetensors"}


def predicted(audio: Tensor, frames: int) -> Tensor:
    """A mel (8, frames) near that of the audio, as an acoustic model's."""
    mel = tiny_mel()(torch.nn.functional.pad(audio, (0, 20 * HOP))[None])[0, :, :frames]
    return (mel + 0.3 * torch.randn(mel.shape)).clamp(min=-11.0).float()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, dict[str, Tensor]]:
    """Audio, mels of all but `g`, and these mels by name; that of `e` does not fit."""
    mels = {}
    for i, (name, length) in enumerate(LENGTHS.items()):
        audio, mel = (tmp_path / kind / f"{name}.wav" for kind in ("wavs", "mels"))
        for path in (audio, mel):
            path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(audio, 0.1 * np.random.default_rng(i).standard_normal(length), 8000)
        if name == "g":
            continue
        mels[name] = predicted(read_audio(audio, 8000)[0].double(), max(1, length // HOP) + EXTRA.get(name, 0))
        mel = mel.with_suffix(f".{ENDINGS.get(name, 'npy')}")
        if mel.suffix == ".pt":
            torch.save(mels[name], mel)
        elif mel.suffix == ".safetensors":
            save_file({"mel": mels[name]}, mel)
        else:
            np.save(mel, mels[name][None].numpy())
    return tmp_path / "wavs", tmp_path / "mels", mels


def given_mels(wavs: Path, mels: Path) -> GivenMels:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GivenMels(find_mels(sorted(wavs.rglob("*.wav")), wavs, mels), tiny_mel())


def test_what_does_not_fit_is_cut_and_counted_or_named_and_left_out(folders: tuple) -> None:
    wavs, mels, _ = folders
    with pytest.warns(UserWarning, match="mels? ") as said:
        given = GivenMels(find_mels(sorted(wavs.rglob("*.wav")), wavs, mels), tiny_mel())
    assert [str(each.message) for each in said] == [
        f"2 of 7 audio files have no mel that fits and are left out: {wavs}/e.wav, {wavs}/g.wav. The first: {mels}/e.npy has "
        "109 frames, where 106 fit its audio with a hop of 16.",
        "2 of 5 mels are up to 2 frames longer or shorter than their audio: what is common to both is used.",
    ]
    frames = {path.relative_to(wavs).with_suffix("").as_posix(): count for path, count in given.frames.items()}
    assert frames == {"a": 187, "deep/b": 150, "deep/c": 55, "d": 1, "f": 125}


def test_crops_and_clips_are_of_the_same_frames_of_both(folders: tuple) -> None:
    wavs, mels, known = folders
    given = given_mels(wavs, mels)
    crops, seen = CropDataset(list(given.frames), tiny_mel(), 512, dequantize=False, mels=given), set()
    clips = ClipDataset(list(given.frames), tiny_mel(), dequantize=False, mels=given)
    for item in [*(crops[i] for i in range(60)), *(clips[i] for i in range(len(clips)))]:
        path, _, start = item["name"].partition(" from ")
        name = Path(path).relative_to(wavs).with_suffix("").as_posix() if start else path.replace("deep_", "deep/")
        audio, mel, first = read_audio(wavs / f"{name}.wav", 8000)[0], known[name], 0
        n = min(item["mel"].shape[1], max(1, len(audio) // HOP), mel.shape[1])
        if start:  # rounded to hundredths: the frame is one of these
            first = next(f for f in range(mel.shape[1] - n + 1) if torch.equal(mel[:, f : f + n], item["mel"][:, :n]))
            assert first * HOP / 8000 == pytest.approx(float(start.removesuffix(" s")), abs=0.006)
        torch.testing.assert_close(item["mel"][:, :n], mel[:, first : first + n], rtol=0, atol=0)
        expected = audio[first * HOP : (first + n) * HOP]
        torch.testing.assert_close(item["audio"][: len(expected)], expected, rtol=0, atol=0)
        assert int(item["mask"].sum()) == len(expected)
        assert item["mel"][:, n:].eq(math.log(1e-5)).all()
        seen.add(name)
    assert seen == {"a", "deep/b", "deep/c", "d", "f"}


@pytest.mark.filterwarnings("ignore:.*mel")
def test_data_of_a_folder_or_a_table_from_files_or_memory(folders: tuple, tmp_path: Path) -> None:
    wavs, mels, _ = folders
    table = tmp_path / "list.csv"
    ending = {name: ENDINGS.get(name, "npy") for name in LENGTHS}
    table.write_text("path,mel\n" + "".join(f"{name}.wav,{name}.{ending[name]}\n" for name in LENGTHS if name != "g"))
    beside = tmp_path / "beside.csv"
    beside.write_text(table.read_text().replace(",", ",../mels/").replace(",../mels/mel", ",mel"))
    batches = []
    for options in (
        {"mels": mels},
        {"mels": mels, "resident": True},
        {"mels": mels, "table": table},
        {"table": beside, "resident": True},
    ):
        data = stood_at(AudioDataModule(tiny_mel(), wavs, segment_length=512, batch_size=4, **options), 0)
        batches.append(list(islice(data.train_dataloader(), 6)))
        assert data.contents == (3, "wav, 8000 Hz, mels given")
        assert len({*data.files("train"), *data.files("validation"), *data.files("test")}) == 5
        for loader in (data.val_dataloader(), data.test_dataloader()):
            path = loader.dataset.files[0]
            torch.testing.assert_close(next(iter(loader))["mel"][0], data.given.read(path), rtol=0, atol=0)
    for other in batches[1:]:
        for one, another in zip(batches[0], other, strict=True):
            assert_equal(one, another)


def test_mels_of_another_convention_or_of_other_audio_are_refused(folders: tuple, tmp_path: Path) -> None:
    wavs, _, known = folders
    files = sorted(wavs.rglob("[af].wav"))

    def data(convert, **options) -> AudioDataModule:
        for file in files:
            np.save(tmp_path / f"{file.stem}.npy", convert(known[file.stem]).numpy())
        (tmp_path / "list.csv").write_text("path\na.wav\nf.wav\n")
        made = AudioDataModule(tiny_mel(), wavs, mels=tmp_path, table=tmp_path / "list.csv", **options)
        made.setup()
        return made

    log10 = r"differ from them by 3\.\d+ nats .* as log10 they would by 0\.\d+, so say mel_scale=log10"
    other = r"differ from them by [23]\.\d+ nats on average, .* check that they are of these recordings"
    refused(lambda: data(lambda mel: mel / math.log(10)), f"`mels` .*{log10}")
    refused(lambda: data(lambda mel: mel - 3.0), f"`mels` .*{other}")
    refused(lambda: data(lambda mel: mel.exp()), r"`mels` .*as linear they would by 0\.\d+, so say mel_scale=linear")
    refused(lambda: data(lambda mel: mel.T), r"`mels` .*of 2 files none has one. The first: .*must be float \(B, 8, F\)")
    scaled = data(lambda mel: (mel / math.log(10) + 2.0) / 0.5, mel_scale="log10", mel_mean=-2.0, mel_std=0.5)
    torch.testing.assert_close(scaled.given.read(files[0]), known["a"], rtol=0, atol=1e-5)
    module = partial(AudioDataModule, tiny_mel(), wavs)
    words = "`mel_scale`, `mel_mean` and `mel_std` are of given mels, but none are"
    refused(module(mel_scale="db").setup, words)
    refused(lambda: prepare(wavs, tmp_path / "shards", tiny_mel(), mel_scale="db"), words)
    words = "`mels` must name a folder of mels, but there is no folder"
    refused(module(mels=tmp_path / "none").setup, words, FileNotFoundError)
    refused(module(mels=wavs).setup, r"of 7 files none has one\. The first: there is no mel of that name")


@pytest.mark.filterwarnings("ignore:.*mel")
def test_a_mel_that_changes_in_training_is_dropped(folders: tuple) -> None:
    wavs, mels, known = folders
    given = given_mels(wavs, mels)
    crops = CropDataset(list(given.frames), tiny_mel(), 512, mels=given)
    np.save(mels / "f.npy", known["f"][:, :90].numpy())
    with pytest.warns(UserWarning, match=r"dropped from training: `mels` must stay as they are .*f\.npy got shorter"):
        names = {Path(crops[i]["name"].split(" from ")[0]).stem for i in range(60)}
    assert "f" not in names


@pytest.mark.filterwarnings("ignore:.*mel", "ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_hold_them_by_whole_frames(folders: tuple, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("litdata", exc_type=ImportError)
    from wavflow.data.shards import SPLITS, ShardClips, Shards

    wavs, mels, known = folders
    told = prepare(wavs, tmp_path / "shards", tiny_mel(), mels=mels, seconds=0.1)
    assert set(told["skipped"]) == {"e.wav", "g.wav"}
    found: dict[str, Tensor] = {name: torch.zeros_like(mel) for name, mel in known.items() if name != "e"}
    for split in SPLITS:
        shards = Shards(f"{tmp_path}/shards/{split}")
        clips = ShardClips(shards, tiny_mel(), dequantize=False)
        for i, piece in enumerate(shards.pieces()):
            name, start = piece["about"]["file"].removesuffix(".wav"), round(piece["about"]["start"] * 8000)
            assert start % HOP == 0
            item, audio = clips[i], read_audio(wavs / f"{name}.wav", 8000)[0]
            n = min(item["audio"].shape[-1], len(audio))
            torch.testing.assert_close(item["audio"][:n], audio[start : start + n], rtol=0, atol=0)
            found[name][:, start // HOP : start // HOP + item["mel"].shape[1]] = item["mel"]
    for name, mel in found.items():
        frames = min(known[name].shape[1], max(1, LENGTHS[name] // HOP))
        torch.testing.assert_close(mel[:, :frames], known[name][:, :frames], rtol=0, atol=0)
    prepare_level = partial(prepare, wavs, tmp_path / "other", tiny_mel(), mels=mels, level=-23.0)
    refused(prepare_level, "`trim` and `level` must be left out with `mels`")


@pytest.mark.slow
def test_both_stages_and_the_evaluation_take_them(tmp_path: Path) -> None:
    wavs, mels = make_sounds(tmp_path / "wavs"), tmp_path / "mels"
    mels.mkdir()
    for path in wavs.iterdir():
        audio = read_audio(path, 8000)[0].double()
        np.save(mels / f"{path.stem}.npy", predicted(audio, len(audio) // HOP + 1).numpy())
    data = [f"data.path={wavs}", f"data.mels={mels}"]
    with pytest.warns(UserWarning, match="4 of 4 mels are up to 2 frames longer or shorter"):
        succeeds("train", "stage=teacher", f"output={tmp_path / 't'}", *TRAIN, *data)
    teacher, student = (f"{role}={tmp_path / role[0] / 'model.safetensors'}" for role in ("teacher", "student"))
    with pytest.warns(UserWarning, match="4 of 4 mels"):
        succeeds("train", "stage=student", teacher, f"output={tmp_path / 's'}", *TRAIN, *data)
    options = [teacher, student, "data=folder", f"output={tmp_path / 'r'}", "clips=2", "seconds=0.2", "jobs=1"]
    with pytest.warns(UserWarning, match="4 of 4 mels"):
        succeeds("evaluate", *options, *data, "voicing=false", "listen=false", "device=cpu")
    assert (tmp_path / "r" / "report.md").is_file()
    words = "`mels` must name a folder of mels"
    is_refused(tmp_path, "train", "stage=teacher", f"output={tmp_path / 'n'}", *TRAIN, data[0], "data.mels=none", words=words)
