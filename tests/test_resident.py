"""Crops from memory against crops from files: the same batches to the last bit, whatever the files are."""

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from commands import TRAIN, make_sounds, succeeds
from helpers import refused, tiny_mel

from wavflow import load_model
from wavflow.data import AudioDataModule, CropDataset
from wavflow.data.resident import ResidentCrops


def folder_of(folder: Path, *files: tuple[int, int]) -> Path:
    """Fills a folder with noise, of so many samples and such rates."""
    for i, (length, rate) in enumerate(files):
        noise = 0.1 * np.random.default_rng(i).standard_normal(length)
        soundfile.write(folder / f"{i}.wav", noise, rate, subtype="FLOAT")
    return folder


def stood_at(data: AudioDataModule, batch: int) -> AudioDataModule:
    """Makes a data module believe that a training on the CPU has read so many batches."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    fit_loop = SimpleNamespace(total_batch_idx=batch - 1)
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, fit_loop=fit_loop, strategy=strategy)
    return data


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        if not isinstance(value, torch.Tensor):
            assert other[name] == value
            continue
        torch.testing.assert_close(other[name], value, rtol=0, atol=0)
        assert other[name].is_contiguous(), "as what a loader stacks"


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dequantize", [False, True])
def test_batches_are_the_same_to_the_bit(tmp_path: Path, center: bool, dequantize: bool) -> None:
    # files shorter than a hop, some shorter than a crop, whole hops and not, other rates
    folder_of(tmp_path, *30 * [(9, 8000)], *4 * [(100, 8000)], (512, 8000), (701, 8000), (1401, 16000), (600, 11025))
    table = tmp_path / "list.csv"
    table.write_text("path,speaker\n" + "".join(f"{i}.wav,{'ab'[i % 2]}\n" for i in range(38)))
    batches = []
    for resident in (False, True):
        options = {"segment_length": 512, "batch_size": 5, "seed": 3, "dequantize": dequantize, "table": table}
        data = AudioDataModule(tiny_mel(center=center), tmp_path, resident=resident, **options)
        data.number_speakers(["b", "a"])
        batches.append(list(islice(stood_at(data, 4).train_dataloader(), 12)))
    for one, other in zip(*batches, strict=True):
        assert_equal(one, other)
    masks = torch.cat([batch["mask"] for batch in batches[1]]).sum(dim=1)
    assert {9.0, 96.0, 512.0} <= set(masks.tolist()), "short files, and long ones, must be among them"
    assert len({name for batch in batches[1] for name in batch["name"]}) > 8


def test_what_can_not_be_read_is_dropped_as_it_would_be_in_training(tmp_path: Path) -> None:
    folder_of(tmp_path, (3000, 8000), (2000, 8000), (3000, 8000))
    soundfile.write(tmp_path / "1.wav", np.full(2000, np.nan), 8000, subtype="FLOAT")
    files = sorted(tmp_path.glob("*.wav"))
    with pytest.warns(UserWarning, match=r"dropped from training.*1\.wav"):
        resident = ResidentCrops("cpu", files, tiny_mel(), 512)
    crops = CropDataset(files, tiny_mel(), 512)
    with pytest.warns(UserWarning, match=r"dropped from training.*1\.wav"):
        items = [crops[i] for i in range(20)]
    batch = resident.__getitems__(range(20))
    assert batch["name"] == [item["name"] for item in items]
    torch.testing.assert_close(batch["audio"], torch.stack([item["audio"] for item in items]), rtol=0, atol=0)
    with pytest.warns(UserWarning, match="dropped from training"):
        none = ResidentCrops("cpu", files[1:2], tiny_mel(), 512)
    refused(lambda: none.__getitems__([0]), "none of 1 is")
    refused(lambda: resident.__getitems__([-1]), "`index` must be at least 0", IndexError)


def test_workers_have_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`num_workers` must be 0 for `resident`"):
        AudioDataModule(tiny_mel(), tmp_path, segment_length=512, num_workers=1, resident=True)


def test_a_training_from_memory_is_the_training_from_files(tmp_path: Path) -> None:
    sounds = make_sounds(tmp_path / "sounds")
    for resident in ("false", "true"):
        place = [f"data.path={sounds}", f"data.resident={resident}", f"output={tmp_path / resident}"]
        succeeds("train", "stage=teacher", *TRAIN, *place)
    one, other = (load_model(tmp_path / resident / "model.safetensors").state_dict() for resident in ("false", "true"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=0)
