"""The data of a training run: a folder of audio, split, cropped and batched."""

import os
from importlib import resources
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, DistributedSampler

from wavflow.data.datasets import ClipDataset, CropDataset, check_crops
from wavflow.data.files import find_audio, split_files, usable_files
from wavflow.mel import MelSpectrogram


def bundled_speech() -> Path:
    """The folder of the small speech corpus that ships with the package."""
    return Path(str(resources.files("wavflow") / "assets" / "speech"))


class AudioDataModule(pl.LightningDataModule):
    """Random crops to train on, whole clips (one per batch, since lengths differ) to validate and test with.

    The split is by file, at random but reproducible (`split_files`). Each epoch draws new crops.

    Args:
        mel: The spectrogram that conditions the models; its sample rate is the data's.
        path: Folder tree of audio files; the bundled corpus where none is given.
        segment_length: Of a crop, in samples, a multiple of the mel's `hop_length`.
        batch_size: Crops per training batch.
        samples_per_epoch: Crops per epoch, so an epoch is `samples_per_epoch / batch_size` steps.
        num_workers: Processes that read; 0 reads in the main one.
        validation: Fraction of the files.
        test: Fraction of the files.
        seed: Of the split, the crops and the noise.
        max_clip_seconds: Validation and test clips are cut there; `None` keeps them whole.
        dequantise: Whether to add uniform noise of one 16-bit step to the audio.
    """

    def __init__(
        self,
        mel: MelSpectrogram,
        path: str | os.PathLike[str] | None = None,
        segment_length: int = 8192,
        batch_size: int = 8,
        samples_per_epoch: int = 800,
        num_workers: int = 0,
        validation: float = 0.05,
        test: float = 0.1,
        seed: int = 0,
        max_clip_seconds: float | None = 10.0,
        dequantise: bool = True,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}: raise it.")
        check_crops(segment_length, samples_per_epoch, mel)
        self.mel = mel
        self.path = bundled_speech() if path is None else Path(path)
        self.segment_length, self.batch_size, self.samples_per_epoch = segment_length, batch_size, samples_per_epoch
        self.num_workers, self.validation, self.test, self.seed = num_workers, validation, test, seed
        self.max_clip_seconds, self.dequantise = max_clip_seconds, dequantise
        self._split: tuple[list[Path], list[Path], list[Path]] | None = None

    @property
    def train_files(self) -> list[Path]:
        return self._files(0)

    @property
    def validation_files(self) -> list[Path]:
        return self._files(1)

    @property
    def test_files(self) -> list[Path]:
        return self._files(2)

    def setup(self, stage: str | None = None) -> None:
        """Finds the files, leaves out those that can't be used, and splits them; once, whatever the stage.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It holds no audio, or none that can be used.
        """
        if self._split is None:
            files = usable_files(find_audio(self.path))
            self._split = split_files(files, self.validation, self.test, self.seed)

    def train_dataloader(self) -> DataLoader:
        crops = CropDataset(self.train_files, self.mel, self.segment_length, self.samples_per_epoch, self.seed, self.dequantise)
        processes, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        # No persistent workers: each epoch's new ones hear of its number.
        return DataLoader(
            crops,
            self.batch_size,
            sampler=_EpochSampler(crops, processes, rank, shuffle=False),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader:
        return self._clips(self.validation_files)

    def test_dataloader(self) -> DataLoader:
        return self._clips(self.test_files)

    def _files(self, part: int) -> list[Path]:
        self.setup()
        assert self._split is not None
        return self._split[part]

    def _clips(self, files: list[Path]) -> DataLoader:
        clips = ClipDataset(files, self.mel, self.max_clip_seconds, self.seed, self.dequantise)
        return DataLoader(clips, 1, num_workers=self.num_workers, pin_memory=torch.cuda.is_available())


class _EpochSampler(DistributedSampler):
    """Passes the epoch on to the crops. Lightning tells samplers alone, and leaves a distributed one in its place."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.dataset.set_epoch(epoch)
