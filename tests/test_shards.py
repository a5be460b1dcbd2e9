"""Shards: what is made of files is what was in them, crops come in an order of their own, and a killed preparation goes on."""

import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import soundfile as sf
import torch
from commands import call, contents, succeeds, write_noise
from helpers import refused, tiny_mel, tiny_teacher

from wavflow import save_model
from wavflow.commands.prepare import prepare
from wavflow.data.making import Maker, read_notes
from wavflow.data.pieces import LANES, Shards
from wavflow.data.shards import SPLITS, ShardClips, ShardCrops, ShardDataModule
from wavflow.loudness import loudness
from wavflow.prepare import audio_settings

with warnings.catch_warnings():  # what litdata imports is not ours
    warnings.simplefilter("ignore")
    pytest.importorskip("litdata", reason="pip install 'wavflow[scale]'", exc_type=ImportError)

pytestmark = [  # litdata leaves to the garbage collector what it opened
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RATE = 8000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve files of 0.1 to 0.5 s, one of 3 s, and two that are none."""
    folder = tmp_path_factory.mktemp("files")
    for i in range(12):
        write_noise(folder / f"speaker{i % 2}" / f"{i}.wav", 800 + 300 * i)
    write_noise(folder / "long.flac", 3 * RATE)
    (folder / "speaker0" / "text.wav").write_text("no audio")
    (folder / "empty.mp3").touch()
    return folder


@pytest.fixture(scope="module")
def made(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The shards of these files, of 20 kB each, and what `prepare` told of them."""
    folder = tmp_path_factory.mktemp("made")
    return folder, prepare(files, folder, tiny_mel(), seconds=1.0, shard_megabytes=0.02, test=0.2, workers=2)


def test_pieces_hold_all_that_is_in_the_files(files: Path, made: tuple[Path, dict]) -> None:
    folder, told = made
    found: dict[str, dict[float, np.ndarray]] = {}
    split_of = {}
    for split in SPLITS:
        for piece in Shards(f"{folder}/{split}").pieces():
            about = piece["about"]
            assert about["start"] not in found.setdefault(about["file"], {}), "a piece came twice"
            found[about["file"]][about["start"]] = piece["audio"]
            assert split_of.setdefault(about["file"], split) == split, "a file lies in one split"
            assert piece["mel"].size == 0
    names = [f"speaker{i % 2}/{i}.wav" for i in range(12)] + ["long.flac"]
    assert sorted(found) == sorted(names)
    for name, pieces in found.items():
        audio = np.concatenate([pieces[start] for start in sorted(pieces)])
        np.testing.assert_array_equal(audio, sf.read(files / name, dtype="int16")[0])
        assert all(len(piece) <= RATE for piece in pieces.values())
    assert len(found["long.flac"]) == 3
    assert sum(row["files"] for row in told["splits"]) == 13
    assert all(row["files"] for row in told["splits"])
    assert sum(row["pieces"] for row in told["splits"]) == 15
    seconds = sum(800 + 300 * i for i in range(12)) / RATE + 3
    assert sum(row["hours"] for row in told["splits"]) == pytest.approx(seconds / 3600)
    assert set(told["skipped"]) == {"empty.mp3", "speaker0/text.wav"}
    assert "is empty (0 bytes)" in told["skipped"]["empty.mp3"]


@pytest.mark.parametrize("with_mel", [False, True])
def test_crops_have_the_mel_of_the_whole_piece(files: Path, tmp_path: Path, with_mel: bool) -> None:
    mel = tiny_mel()
    prepare(files / "speaker1", tmp_path, mel, with_mel=with_mel)
    shards = Shards(f"{tmp_path}/train")
    wholes = {piece["about"]["file"]: torch.from_numpy(piece["audio"]).float() / 32768 for piece in shards.pieces()}
    assert all(bool(piece["mel"].size) == with_mel for piece in shards.pieces())
    crops, starts = ShardCrops(shards, mel, 512, dequantize=False), set()
    for item in (crops[i] for i in range(60)):
        name, start = item["name"].split(" from ")
        whole = wholes[name]
        frame = next(f for f in range(len(whole) // 16 - 31) if torch.equal(whole[16 * f : 16 * f + 512], item["audio"]))
        assert float(start.removesuffix(" s")) == pytest.approx(16 * frame / RATE, abs=0.006)
        torch.testing.assert_close(item["mel"], mel(whole[None])[0, :, frame : frame + 32], atol=1e-4, rtol=0)
        assert item["mask"].eq(1).all()
        starts.add((name, frame))
    assert len(starts) > 50
    without = ShardCrops(shards, tiny_mel(n_mels=0), 512)[0]  # a model without a mel needs none of the shards
    assert without["mel"].shape == (0, 32)
    assert without["audio"].std() > 1e-3


def test_clips_are_whole_pieces_and_padding_is_masked(tmp_path: Path) -> None:
    mel = tiny_mel()
    write_noise(tmp_path / "in" / "short.wav", 10)  # below a hop
    with pytest.warns(UserWarning, match="one audio file"):
        prepare(tmp_path / "in", tmp_path / "out", mel)
    shards = Shards(f"{tmp_path}/out/test")
    (clip,) = (ShardClips(shards, mel)[i] for i in range(len(shards)))
    assert (clip["audio"].shape, clip["mel"].shape, clip["mask"].sum()) == ((16,), (8, 1), 10)
    assert clip["name"] == "00000_short"
    crop = ShardCrops(shards, mel, 64)[0]
    assert crop["mask"].tolist() == [1.0] * 10 + [0.0] * 54
    assert crop["audio"][10:].eq(0).all()


def test_clips_are_cut(made: tuple[Path, dict]) -> None:
    shards = Shards(f"{made[0]}/train")
    lengths = {len(ShardClips(shards, tiny_mel(), 0.2)[i]["audio"]) for i in range(len(shards))}
    assert max(lengths) == 1600


def test_items_are_a_function_of_seed_and_index(made: tuple[Path, dict]) -> None:
    shards, again = Shards(f"{made[0]}/train"), Shards(f"{made[0]}/train")
    order = np.random.default_rng(0).permutation(300)
    first = {int(i): ShardCrops(shards, tiny_mel(), 64, seed=1)[int(i)]["audio"] for i in order}
    second = ShardCrops(again, tiny_mel(), 64, seed=1)
    assert all(torch.equal(first[i], second[i]["audio"]) for i in range(300))
    other = ShardCrops(again, tiny_mel(), 64, seed=2)
    assert not any(torch.equal(first[i], other[i]["audio"]) for i in range(300))


def test_a_lane_stays_with_a_shard_and_the_lanes_move_on_in_turn(made: tuple[Path, dict]) -> None:
    shards = Shards(f"{made[0]}/train")
    assert len(shards.files) >= 4
    visited: list[int] = []
    crops = ShardCrops(shards, tiny_mel(), 256)
    stay = int(shards.sizes.mean()) // 2 // 256
    assert stay > 10
    with mock.patch.object(Shards, "sample", autospec=True, side_effect=Shards.sample) as draw:
        for turn in range(4 * stay):
            visited += [crops[turn * LANES + lane] and draw.call_args.args[1] for lane in (0, 1, 32)]
    lanes = np.array(visited).reshape(-1, 3)
    moves = [np.flatnonzero(np.diff(lane)) + 1 for lane in lanes.T]
    offsets = [0, stay // LANES, stay // 2]
    for offset, move in zip(offsets, moves, strict=True):
        assert len(move) >= 1
        assert all((m + offset) % stay == 0 for m in move)


def test_pieces_are_drawn_in_proportion_to_their_length(tmp_path: Path) -> None:
    for i, samples in enumerate((2000, 6000, 3000, 18_000)):
        sf.write(tmp_path / f"{i}.wav", np.full(samples, 0.1 * (i + 1)), RATE)
    prepare(tmp_path, tmp_path / "out", tiny_mel())
    shards = Shards(f"{tmp_path}/out/train")
    (one, two) = shards.pieces()
    crops = ShardCrops(shards, tiny_mel(), 64, dequantize=False)
    share = np.mean([bool(crops[i]["audio"][0] * 32768 == one["audio"][0]) for i in range(1000)])
    assert abs(share - len(one["audio"]) / (len(one["audio"]) + len(two["audio"]))) < 0.05


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single processor
@pytest.mark.parametrize(("num_workers", "processes"), [(0, 1), (2, 1), (0, 4)])
def test_training_reads_the_crops_in_their_order_from_where_it_stood(
    made: tuple[Path, dict], num_workers: int, processes: int
) -> None:
    data = ShardDataModule(tiny_mel(), made[0], segment_length=64, batch_size=2, num_workers=num_workers)
    read = []
    for rank in range(processes):
        data.trainer = SimpleNamespace(world_size=processes, global_rank=rank, fit_loop=SimpleNamespace(total_batch_idx=4))
        batches = iter(data.train_dataloader())
        read.append(torch.cat([next(batches)["audio"] for _ in range(3)]))
    crops = ShardCrops(Shards(f"{made[0]}/train"), tiny_mel(), 64)
    expected = torch.stack([crops[i]["audio"] for i in range(10 * processes, 16 * processes)])
    torch.testing.assert_close(torch.stack(read, dim=1).flatten(0, 1), expected, atol=0, rtol=0)


def test_validation_and_test_read_every_piece_once(made: tuple[Path, dict]) -> None:
    data = ShardDataModule(tiny_mel(), made[0])
    for loader, row in ((data.val_dataloader(), made[1]["splits"][1]), (data.test_dataloader(), made[1]["splits"][2])):
        assert len({clip["name"][0] for clip in loader}) == row["pieces"]


def test_shards_are_fetched_from_elsewhere(made: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litdata.utilities.dataset_utilities._DEFAULT_CACHE_DIR", str(tmp_path), raising=True)
    here = ShardCrops(Shards(f"{made[0]}/train"), tiny_mel(), 64)
    there = ShardCrops(Shards(f"local:{made[0]}/train"), tiny_mel(), 64)
    assert all(torch.equal(here[i]["audio"], there[i]["audio"]) for i in range(100))
    assert {Path(name).name for name in contents(tmp_path) if name.endswith(".bin")} <= set(here.shards.files)


def test_shards_tell_who_speaks(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, names = tmp_path / "list.csv", ["ann", "bob"]
    table.write_text("path,speaker\n" + "".join(f"speaker{i % 2}/{i}.wav,{names[i % 2]}\n" for i in range(12)))
    prepare(files, tmp_path / "out", tiny_mel(), table=table, validation=0.2)
    index = tmp_path / "out" / "train" / "index.json"
    index.write_text(json.dumps({k: v for k, v in json.loads(index.read_text()).items() if k != "speakers"}))
    prepare(files, tmp_path / "out", tiny_mel(), table=table, validation=0.2)  # as if killed before the names were written
    data = ShardDataModule(tiny_mel(), tmp_path / "out", segment_length=64)
    assert data.speakers == names
    assert "speaker" not in next(iter(data.train_dataloader()))
    data.number_speakers(["zoe", *names])
    batches = [*itertools.islice(data.train_dataloader(), 3), *data.val_dataloader(), *data.test_dataloader()]
    found = [(name, i) for batch in batches for name, i in zip(batch["name"], batch["speaker"].tolist(), strict=True)]
    assert {i for _, i in found} == {1, 2}
    for name, i in found:
        assert int(re.search(r"(\d+)(\.wav from .*)?$", name)[1]) % 2 == i - 1
    monkeypatch.setattr("litdata.utilities.dataset_utilities._DEFAULT_CACHE_DIR", str(tmp_path / "cache"), raising=True)
    assert Shards(f"local:{index.parent}").speakers == names, "they go where the shards go"
    with pytest.raises(ValueError, match="begun with other lengths, speakers: give the same"):
        prepare(files, tmp_path / "out", tiny_mel(), validation=0.2)


def test_silence_is_trimmed_and_loudness_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(5):
        sound = np.concatenate([np.zeros(4000), rng.uniform(-0.1, 0.1, 8000), np.zeros(6000)])
        sf.write(tmp_path / f"{i}.wav", sound, RATE)
    sf.write(tmp_path / "silent.wav", np.zeros(8000), RATE)
    told = prepare(tmp_path, tmp_path / "out", tiny_mel(), trim=40, level=-30)
    assert set(told["skipped"]) == {"silent.wav"}
    pieces = [piece for split in SPLITS for piece in Shards(f"{tmp_path}/out/{split}").pieces()]
    assert len(pieces) == 5
    for piece in pieces:
        assert 8000 <= len(piece["audio"]) <= 8000 + 2 * 400 + 2 * 512
        assert piece["about"]["start"] == pytest.approx(0.5 - 0.05, abs=0.07)
        assert loudness(torch.from_numpy(piece["audio"]) / 32768, RATE) == pytest.approx(-30, abs=0.05)


def test_a_killed_preparation_goes_on(files: Path, made: tuple[Path, dict], tmp_path: Path) -> None:
    options = {"seconds": 1.0, "shard_megabytes": 0.02, "test": 0.2, "workers": 2}
    make = Maker.__call__

    def slowly(self: Maker, number: int) -> dict:
        time.sleep(0.1)
        return make(self, number)

    def begin() -> None:
        os.setsid()
        with mock.patch.object(Maker, "__call__", slowly):
            prepare(files, tmp_path, tiny_mel(), **options)

    shards = 0
    for _ in range(2):
        process = multiprocessing.get_context("fork").Process(target=begin)
        process.start()
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("train/*.bin"))) < shards + 1:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        shards = len(list(tmp_path.glob("train/*.bin")))
        assert not (tmp_path / "train" / "index.json").exists()
    told = prepare(files, tmp_path, tiny_mel(), **options)
    assert [row | {"shards": 0} for row in told["splits"]] == [row | {"shards": 0} for row in made[1]["splits"]]
    for split in SPLITS:
        before, after = (
            sorted((p["about"]["file"], p["about"]["start"], p["audio"].tobytes()) for p in Shards(f"{f}/{split}").pieces())
            for f in (made[0], tmp_path)
        )
        assert before == after
    assert prepare(files, tmp_path, tiny_mel(), **options) == told, "what is done is left as it is"


def test_impossible_preparations_are_refused(files: Path, made: tuple[Path, dict], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"begun with other with_mel, seconds: give the same"):
        prepare(files, made[0], tiny_mel(), with_mel=True, seconds=2.0, shard_megabytes=0.02, test=0.2, workers=2)
    for name in ("seconds", "shard_megabytes", "workers"):
        refused(partial(prepare, files, tmp_path, tiny_mel(), **{name: 0}), f"`{name}` must be above 0, got 0")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").touch()
    refused(lambda: prepare(tmp_path / "in", tmp_path / "out", tiny_mel()), r"holds none\. The first: .*is empty")
    for address in ("s3://bucket/x", "gs://bucket/x", "https://host/x"):
        refused(
            lambda place=address: prepare(place, tmp_path / "out", tiny_mel()), f"`source` must be .* here, got {address}: "
        )
        output = address if address.startswith("s3") else "s3://bucket/folder"
        refused(
            lambda place=address: prepare(files, place, tiny_mel()), f"`output` must be a folder here, .*--upload {output}`"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("with_mel", [False, True])
def test_reading_shards_is_measured(with_mel: bool, files: Path, tmp_path: Path) -> None:
    save_model(tiny_teacher().float(), tmp_path / "t.safetensors")
    prepare(files / "speaker1", tmp_path / "shards", tiny_mel(), with_mel=with_mel, workers=1)
    options = ["part=data", f"model={tmp_path / 't.safetensors'}", "device=cpu", f"output={tmp_path / 'out'}"]
    succeeds("benchmark", *options, "data=shards", f"data.path={tmp_path / 'shards'}", "data.segment_length=512")
    (row,) = json.loads((tmp_path / "out" / "benchmark.json").read_text())["data"]
    assert row["format"] == f"shards, 8000 Hz, {'with mels' if with_mel else 'mels computed'}"
    assert row["files"] == 1
    assert row["x real time per core"] == pytest.approx(8 * 2 * 512 / 8000 / row["median s"])


def test_shards_at_places_that_are_not_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(
        lambda: Shards("az://box/shards/train"), "`path` must be a folder, s3://… or gs://…, got az://box/shards/train: copy"
    )
    monkeypatch.setattr("litdata.streaming.downloader._GOOGLE_STORAGE_AVAILABLE", False)
    refused(lambda: Shards("gs://bucket/shards/train"), "gs://bucket/shards/train is not installed .* google-cloud-storage, or")


def test_other_shards_are_refused(made: tuple[Path, dict], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"make them with `python -m wavflow\.prepare`"):
        ShardDataModule(tiny_mel(), tmp_path).setup()
    shards = Shards(f"{made[0]}/train")
    refused(lambda: ShardCrops(shards, tiny_mel(sample_rate=16000), 64), r"was made with sample_rate 8000, not with .*16000")
    refused(lambda: ShardCrops(shards, tiny_mel(), 65), "multiple of the mel's hop_length 16")
    refused(lambda: ShardCrops(shards, tiny_mel(), 64)[-1], "at least 0, got -1", IndexError)
    refused(lambda: ShardClips(shards, tiny_mel())[1000], "got 1000", IndexError)


def test_a_missing_library_is_named(made: tuple[Path, dict]) -> None:
    with mock.patch.dict(sys.modules, {"litdata": None}), pytest.raises(ValueError, match=r"pip install 'wavflow\[scale\]'"):
        Shards(f"{made[0]}/train")


def test_command_tells_hours_and_what_was_left_out(files: Path, tmp_path: Path) -> None:
    outcome = call("prepare", files, tmp_path / "out", "--audio", "16k", "--workers", "1")
    assert outcome.status == 0, outcome.err
    assert "| train " in outcome.out
    assert "2 files left out:\n  empty.mp3: " in outcome.out
    assert "Progress" in outcome.err
    outcome = call("prepare", files, tmp_path / "out", "--audio", "17k")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "`audio` has no option '17k': choose one of 16k, 22k" in outcome.err


def test_audio_settings_are_those_of_the_configuration() -> None:
    assert audio_settings("44k")["hop_length"] == 512
    assert audio_settings("44k")["win_length"] == 2048
    assert audio_settings("16k") == audio_settings("22k") | {"sample_rate": 16000}


def test_notes_survive_a_line_cut_short(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"number": 0, "samples": 1}\n{"number": 1, "sam')
    (tmp_path / "2.jsonl").write_text('{"number": 1, "samples": 2}\n{"number": 0, "samples": 3}\n')
    assert {note["number"]: note["samples"] for note in read_notes(tmp_path)} == {0: 3, 1: 2}


def test_what_needs_files_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`data`: shards hold pieces, not files"):
        _ = ShardDataModule(tiny_mel(), tmp_path).files("test")
