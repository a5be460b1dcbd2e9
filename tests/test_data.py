"""Folders, splits, crops and clips: their mels are those of the whole files, and bad files don't stop a run."""

import re
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
import soundfile as sf
import torch
from commands import write_noise
from helpers import refused

from wavflow.audio import READABLE, check_audio, read_audio
from wavflow.data import AudioDataModule, ClipDataset, CropDataset, bundled_speech, find_audio, usable_files
from wavflow.data.split import SPLITS
from wavflow.mel import MelSpectrogram
from wavflow.mel_files import read_with_mel

STEP = 2.0**-15


tiny_mel = partial(helpers.tiny_mel, n_fft=256, hop_length=64, win_length=256, n_mels=10)


def damage(path: Path) -> None:
    """Spoils the middle of a FLAC file, which its header does not show."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    path.write_bytes(content)


def test_find_audio_looks_in_all_folders_and_sorts(tmp_path: Path) -> None:
    names = ["b.wav", "a/2.FLAC", "a/10.ogg", "a/deep/er/x.mp3"]
    for name in [*names, "notes.txt", "a/cover.jpg", "a/.hidden.wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path)]
    assert found == ["a/10.ogg", "a/2.FLAC", "a/deep/er/x.mp3", "b.wav"]


def test_find_audio_refuses_folders_without_audio(tmp_path: Path) -> None:
    refused(lambda: find_audio(tmp_path / "none"), r"there is no .*none: check the name", FileNotFoundError)
    (tmp_path / "notes.txt").touch()
    refused(lambda: find_audio(tmp_path), rf"{re.escape(str(tmp_path))} holds none: name another folder")
    refused(lambda: find_audio(tmp_path / "notes.txt"), r"got the file .*notes\.txt")


def test_find_audio_lists_every_format_that_is_read(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 4800)
    kinds = {"wave": "WAV", "oga": "OGG", "aif": "AIFF", "aifc": "AIFF", "snd": "AU", "sph": "NIST"}
    for ending in READABLE:
        if ending == "opus":
            sf.write(tmp_path / "a.opus", sound, 48000, "OPUS", format="OGG")
        else:
            subtype = "PCM_16" if ending == "sph" else None
            sf.write(tmp_path / f"a.{ending}", sound, 48000, subtype, format=kinds.get(ending, ending.upper()))
    assert {path.suffix[1:] for path in find_audio(tmp_path)} == set(READABLE)
    assert len(usable_files(find_audio(tmp_path))) == len(READABLE)
    assert all(check_audio(path) == pytest.approx(0.1) for path in tmp_path.iterdir())


def test_audio_that_is_not_read_is_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.m4a", "b/c.WMA", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    words = r"2 audio files left out, of a format that can't be read: .*a\.m4a, .*c\.WMA\. Convert"
    with pytest.warns(UserWarning, match=words), pytest.raises(ValueError, match="holds none"):
        find_audio(tmp_path)
    write_noise(tmp_path / "a.wav", 500)
    with pytest.warns(UserWarning, match=words):
        assert find_audio(tmp_path) == [tmp_path / "a.wav"]


def test_links_to_folders_are_followed_and_cycles_end(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for path in (data / "real" / "a.wav", elsewhere / "b.wav", elsewhere / "deep" / "c.wav"):
        write_noise(path, 500)
    (data / "real" / "loop").symlink_to(data)
    (data / "again").symlink_to(data / "real")  # sorts before the real one, whose name counts
    (data / "link").symlink_to(elsewhere)
    (elsewhere / "deep" / "back").symlink_to(elsewhere)
    (data / "deep").symlink_to(elsewhere / "deep")
    (data / "one.wav").symlink_to(elsewhere / "b.wav")
    (data / "nowhere").symlink_to(tmp_path / "gone")
    expected = ["deep/c.wav", "link/b.wav", "one.wav", "real/a.wav"]
    assert [path.relative_to(data).as_posix() for path in find_audio(data)] == expected
    (tmp_path / "door").symlink_to(data)
    assert [path.relative_to(tmp_path / "door").as_posix() for path in find_audio(tmp_path / "door")] == expected


def test_unusable_files_are_counted_named_and_skipped(tmp_path: Path) -> None:
    good = [write_noise(tmp_path / f"good{i}.wav", 500) for i in range(2)]
    empty, text = tmp_path / "empty.wav", tmp_path / "text.mp3"
    empty.touch()
    text.write_text("no audio")
    gone = tmp_path / "gone.wav"
    with pytest.warns(UserWarning, match="skipped") as caught:
        kept = usable_files([good[0], empty, text, gone, good[1]])
    assert kept == good
    message = str(caught[0].message)
    assert len(caught) == 1
    assert message.startswith("3 of 5 audio files")
    assert all(name in message for name in ("empty.wav", "text.mp3", "gone.wav"))


def test_no_usable_file_is_refused_with_the_folder(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    refused(lambda: usable_files(find_audio(tmp_path)), rf"got 2 in {re.escape(str(tmp_path))}, none usable.*a\.wav is empty")
    refused(lambda: usable_files([]), "at least one usable")


@pytest.mark.parametrize("file_rate", [8000, 11025])
@pytest.mark.parametrize("samples", [6400, 6437])  # whole hops, and not
@pytest.mark.parametrize("arguments", [{}, {"center": True}, {"hop_length": 45}, {"hop_length": 128}])
def test_crop_has_the_mel_of_the_whole_file(tmp_path: Path, arguments: dict, samples: int, file_rate: int) -> None:
    mel = tiny_mel(**arguments)
    path = write_noise(tmp_path / "a.wav", samples, file_rate)
    audio, _ = read_audio(path, 8000)
    whole, hop = mel(audio[None])[0], mel.hop_length
    total = whole.shape[1]
    for first in (0, 1, 5, total // 2, total - 8, total - 4):
        crop, crop_mel = read_with_mel(path, mel, first, 4, len(audio))
        torch.testing.assert_close(crop, audio[first * hop : (first + 4) * hop], atol=1e-6, rtol=0)
        torch.testing.assert_close(crop_mel, whole[:, first : first + 4], atol=1e-4, rtol=0)
        alone = mel(crop[None])[0]
        assert (alone - crop_mel).abs().max() > 0.01, "else the margin would not be put to the test"


def test_crops_of_the_data_set_have_the_mel_of_the_whole_file(tmp_path: Path) -> None:
    mel = tiny_mel()
    files = [write_noise(tmp_path / f"{i}.flac", 1300 + 200 * i) for i in range(2)]
    wholes = [read_audio(path)[0] for path in files]
    seen = set()
    for item in islice(CropDataset(files, mel, 1024, dequantize=False), 100):
        assert item["mask"].eq(1).all()
        found = [
            (i, f)
            for i, whole in enumerate(wholes)
            for f in range(len(whole) // 64 - 15)
            if torch.equal(whole[f * 64 : f * 64 + 1024], item["audio"])
        ]
        ((which, frame),) = found
        expected = mel(wholes[which][None])[0, :, frame : frame + 16]
        torch.testing.assert_close(item["mel"], expected, atol=1e-4, rtol=0)
        seen.add((which, frame))
    starts = {(which, frame) for which, whole in enumerate(wholes) for frame in range(len(whole) // 64 - 15)}
    assert seen == starts, "crops begin at every frame that leaves room for one"


def test_item_has_the_stated_shapes_in_float32(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / "a.wav", 3000)]
    mel = tiny_mel()
    for item, length in ((CropDataset(files, mel, 512)[0], 512), (ClipDataset(files, mel)[0], 2944)):
        assert item["audio"].shape == item["mask"].shape == (length,)
        assert item["mel"].shape == (10, length // 64)
        assert {item[key].dtype for key in ("audio", "mel", "mask")} == {torch.float32}
        mel.check(item["mel"][None], mel.spec)


@pytest.mark.parametrize("samples", [1, 30, 64, 150, 700, 1023])  # below a hop, below a window, below the crop
def test_clip_shorter_than_a_crop_is_padded_and_masked(tmp_path: Path, samples: int) -> None:
    mel = tiny_mel()
    path = write_noise(tmp_path / "a.wav", samples)
    audio, _ = read_audio(path)
    real = samples // 64 * 64 or samples
    frames = max(1, samples // 64)
    item = CropDataset([path], mel, 1024)[0]
    assert item["audio"].shape == (1024,)
    torch.testing.assert_close(item["audio"][:real], audio[:real], atol=STEP / 2, rtol=0)
    assert item["audio"][real:].eq(0).all()
    assert item["mask"][:real].eq(1).all()
    assert item["mask"][real:].eq(0).all()
    expected = mel(torch.nn.functional.pad(audio, (0, max(0, 64 - samples)))[None])[0]
    torch.testing.assert_close(item["mel"][:, :frames], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(item["mel"][:, frames:], torch.full((10, 16 - frames), 1e-5, dtype=torch.float32).log())
    clip = ClipDataset([path], mel)[0]
    assert len(clip["audio"]) == 64 * frames
    assert clip["mask"].sum() == real


def test_dequantization_is_one_uniform_step_after_the_mel(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / "a.wav", 20_000)]
    for data in (ClipDataset, partial(CropDataset, segment_length=16384)):
        plain, noisy = (data(files, tiny_mel(), dequantize=flag)[0] for flag in (False, True))
        noise = (noisy["audio"] - plain["audio"]).double() / STEP
        assert torch.equal(noisy["mel"], plain["mel"])
        assert -0.501 <= noise.min() < -0.49, "float32 leaves an error of 1e-3 steps"
        assert 0.49 < noise.max() <= 0.501
        assert noise.mean().abs() < 0.01
        assert abs(noise.var() - 1 / 12) < 0.003


def test_items_are_a_function_of_seed_and_index(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / f"{i}.wav", 4000 + i) for i in range(3)]

    def audio(seed: int, index: int) -> torch.Tensor:
        return CropDataset(files, tiny_mel(), 512, seed=seed)[index]["audio"]

    assert torch.equal(audio(1, 3), audio(1, 3))
    for other in ((0, 3), (1, 0), (1, 10**9)):
        assert not torch.equal(audio(1, 3), audio(*other))
    assert re.fullmatch(r".*[012]\.wav from 0\.\d\d s", CropDataset(files, tiny_mel(), 512)[0]["name"])
    clips = ClipDataset(files, tiny_mel())
    assert torch.equal(clips[1]["audio"], clips[1]["audio"])


def test_files_are_drawn_in_proportion_to_their_length(tmp_path: Path) -> None:
    for name, samples, level in (("short.wav", 1000, 0.1), ("long.wav", 3000, 0.2)):
        sf.write(tmp_path / name, np.full(samples, level), 8000)
    files = [tmp_path / "short.wav", tmp_path / "long.wav"]
    share = np.mean([item["audio"].mean() > 0.15 for item in islice(CropDataset(files, tiny_mel(), 64), 1000)])
    assert abs(share - 0.75) < 0.05  # 3.6 standard errors


def test_a_file_that_fails_in_training_is_dropped_and_named_once(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / f"{name}.flac", 20_000) for name in ("good", "bad", "worse")]
    crops = CropDataset(files, tiny_mel(), 20_000 // 64 * 64)
    damage(files[1])
    files[2].unlink()
    with pytest.warns(UserWarning, match="dropped from training") as caught:
        items = list(islice(crops, 40))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert re.search(r"bad\.flac is damaged", messages[0] + messages[1])
    assert re.search(r"no .*worse\.flac", messages[0] + messages[1])
    assert len(items) == 40
    damage(files[0])
    with (
        pytest.warns(UserWarning, match=r"good\.flac is damaged"),
        pytest.raises(ValueError, match="none of 3 is left: check the disk"),
    ):
        crops[0]


def test_a_clip_that_fails_is_stood_in_for(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / f"{name}.flac", 20_000) for name in ("bad", "good")]
    damage(files[0])
    clips = ClipDataset(files, tiny_mel())
    with pytest.warns(UserWarning, match=r"stands in for it.*bad\.flac is damaged"):
        assert clips[0]["name"] == "good"
    damage(files[1])
    with pytest.warns(UserWarning, match="stands in"), pytest.raises(ValueError, match="none of 2 is left"):
        clips[1]


def test_clips_are_whole_files_cut_to_frames(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / "a.wav", 20_003), write_noise(tmp_path / "b" / "c.wav", 300)]
    mel = tiny_mel()
    audio, _ = read_audio(files[0])
    whole = mel(audio[None])[0]
    full, short = ClipDataset(files, mel, dequantize=False)
    torch.testing.assert_close(full["audio"], audio[:19_968])
    torch.testing.assert_close(full["mel"], whole, atol=1e-4, rtol=0)
    assert (full["name"], short["name"]) == ("a", "b_c")
    assert len(short["audio"]) == 256
    cut = ClipDataset(files, mel, max_seconds=0.5, dequantize=False)[0]
    assert len(cut["audio"]) == 3968, "4000 samples hold 62 whole frames"
    torch.testing.assert_close(cut["mel"], whole[:, :62], atol=1e-4, rtol=0)


def test_clip_names_do_not_clash(tmp_path: Path) -> None:
    files = [write_noise(tmp_path / name, 300) for name in ("a.wav", "a.flac", "b.wav")]
    assert ClipDataset(files, tiny_mel()).names == ["00000_a", "00001_a", "00002_b"]


def test_impossible_data_sets_are_refused(tmp_path: Path) -> None:
    files, mel = [write_noise(tmp_path / "a.wav", 300)], tiny_mel()
    for arguments, message in (
        ({"segment_length": 1000}, "multiple of the mel's hop_length 64, got 1000: take 960"),
        ({"segment_length": 0}, "multiple of the mel's hop_length 64, got 0: take 64"),
        ({"files": []}, "`files` must hold at least one"),
    ):
        refused(partial(CropDataset, **{"files": files, "mel": mel, "segment_length": 64, **arguments}), message)
    refused(lambda: ClipDataset([], mel), "`files` must hold at least one")
    refused(lambda: ClipDataset(files, mel, max_seconds=0), "`max_seconds` must be above 0")
    refused(lambda: ClipDataset(files, mel)[1], r"must be in 0 … 0, got 1", IndexError)
    refused(lambda: CropDataset(files, mel, 64)[-1], "at least 0, got -1", IndexError)


def folder_of(tmp_path: Path, count: int) -> Path:
    for i in range(count):
        write_noise(tmp_path / "data" / f"{i}.wav", 2000 + i)
    return tmp_path / "data"


def test_data_module_splits_and_batches(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 20)
    (folder / "broken.wav").write_text("no audio")
    data = AudioDataModule(tiny_mel(), folder, segment_length=512, batch_size=3)
    with pytest.warns(UserWarning, match=r"1 of 21 .*broken\.wav"):
        data.setup("fit")
    data.setup("test")
    parts = [data.files(part) for part in SPLITS]
    assert [len(part) for part in parts] == [17, 1, 2]
    train = list(islice(data.train_dataloader(), 3))
    assert [batch["audio"].shape for batch in train] == [(3, 512)] * 3
    assert train[0]["mel"].shape == (3, 10, 8)
    for loader, files in ((data.val_dataloader(), parts[1]), (data.test_dataloader(), parts[2])):
        clips = list(loader)
        assert [clip["name"] for clip in clips] == [[path.stem] for path in files]
        assert all(clip["audio"].shape == (1, 64 * clip["mel"].shape[2]) for clip in clips)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single processor
@pytest.mark.parametrize(("num_workers", "processes"), [(0, 1), (2, 1), (0, 3)])
def test_training_reads_the_crops_in_their_order_from_where_it_stood(tmp_path: Path, num_workers: int, processes: int) -> None:
    data = AudioDataModule(tiny_mel(), folder_of(tmp_path, 3), segment_length=512, batch_size=2, num_workers=num_workers)
    read = []
    for rank in range(processes):
        data.trainer = SimpleNamespace(world_size=processes, global_rank=rank, fit_loop=SimpleNamespace(total_batch_idx=4))
        read.append(torch.cat([batch["audio"] for batch in islice(data.train_dataloader(), 3)]))
    crops = CropDataset(data.files("train"), tiny_mel(), 512)
    expected = torch.stack([crops[i]["audio"] for i in range(5 * 2 * processes, 8 * 2 * processes)])
    torch.testing.assert_close(torch.stack(read, dim=1).flatten(0, 1), expected, atol=0, rtol=0)
    assert len(expected.unique(dim=0)) == 6 * processes


def test_data_module_refuses_a_number_of_workers_below_0() -> None:
    refused(lambda: AudioDataModule(tiny_mel(), num_workers=-1), "`num_workers` must be a whole number of at least 0")


def test_bundled_speech_is_the_default() -> None:
    data = AudioDataModule(MelSpectrogram(), batch_size=2)
    batch = next(iter(data.train_dataloader()))
    assert data.path == bundled_speech()
    assert len(data.files("train")) > len(data.files("test")) >= len(data.files("validation")) >= 1
    assert batch["audio"].shape == (2, 8192)
    assert batch["audio"].std() > 0.005, "speech, not silence"


def test_a_resumed_training_goes_on_with_the_next_crop_whatever_its_batches(tmp_path: Path) -> None:
    options = tiny_mel(), folder_of(tmp_path, 3)
    fit_loop = SimpleNamespace(total_batch_idx=-1)

    def run(batch_size: int, processes: int, state: dict[str, int] | None = None) -> AudioDataModule:
        data = AudioDataModule(*options, segment_length=512, batch_size=batch_size)
        data.trainer = SimpleNamespace(world_size=processes, global_rank=0, fit_loop=fit_loop)
        if state is not None:
            data.load_state_dict(state)
        data.batch = next(iter(data.train_dataloader()))
        return data

    first = run(4, 1)
    fit_loop.total_batch_idx = 2  # three batches of 4
    assert first.state_dict() == {"crops": 12}
    second = run(2, 2, first.state_dict())
    crops = CropDataset(first.files("train"), tiny_mel(), 512)
    assert torch.equal(second.batch["audio"], torch.stack([crops[i]["audio"] for i in (12, 14)]))
    fit_loop.total_batch_idx = 4  # and two of 2 in each of two processes
    assert second.state_dict() == {"crops": 20}
