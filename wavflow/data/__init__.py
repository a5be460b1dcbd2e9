"""Data sets of crops and clips, and the Lightning module that splits and batches them."""

from wavflow.audio_files import find_audio, usable_files
from wavflow.data.corpora import find_corpus, read_table
from wavflow.data.datamodule import AudioDataModule, bundled_speech
from wavflow.data.datasets import ClipDataset, CropDataset
from wavflow.data.split import split_files
from wavflow.data.utterances import TextDataModule

__all__ = [
    "AudioDataModule",
    "ClipDataset",
    "CropDataset",
    "TextDataModule",
    "bundled_speech",
    "find_audio",
    "find_corpus",
    "read_table",
    "split_files",
    "usable_files",
]
