"""Training of text to mel on a corpus whose alignment is known: each letter is a tone."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wavflow.data.utterances import collate
from wavflow.mel import MelSpectrogram
from wavflow.models import text_to_mel
from wavflow.text_to_mel import TextToMel
from wavflow.training import TextTask

LETTERS = "abcdefgh"
MEL = {"sample_rate": 8000, "n_fft": 256, "hop_length": 128, "win_length": 128, "n_mels": 20, "f_max": 4000.0}


def tones(generator: torch.Generator) -> dict[str, Any]:
    """Returns the mel of 4 to 8 tones of 4 to 16 frames each, their letters, no two neighbors the same, and their durations."""
    n = int(torch.randint(4, 9, (), generator=generator))
    letters = torch.randint(1, len(LETTERS), (n,), generator=generator).cumsum(0) % len(LETTERS)
    durations = torch.randint(4, 17, (n,), generator=generator)
    durations[-1] += durations.sum() % 2
    pitch = (300.0 * 1.3**letters).repeat_interleave(durations * MEL["hop_length"])
    audio = 0.3 * (2 * math.pi * pitch / MEL["sample_rate"]).cumsum(0).sin()
    audio += 0.003 * torch.randn(len(audio), generator=generator)
    return {"mel": MelSpectrogram(**MEL)(audio[None])[0], "symbols": letters, "durations": durations, "name": "tones"}


def share_of_frames(model: TextToMel, held_out: list[dict[str, Any]], read: Callable[[Tensor], Tensor]) -> float:
    """Returns the share of frames that are given to the right letter, by a model that reads the letters in some order."""
    right = []
    for item in held_out:
        with torch.no_grad():
            durations = model.log_prob(item["mel"][None], read(item["symbols"])[None]).durations[0].sum(dim=-1)
        numbers = torch.arange(len(durations))
        right.append(numbers.repeat_interleave(durations) == numbers.repeat_interleave(item["durations"]))
    return torch.cat(right).double().mean().item()


def test_a_model_learns_where_the_letters_of_held_out_tones_are() -> None:
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back
    generator = torch.Generator().manual_seed(1)
    train, held_out = ([tones(generator) for _ in range(n)] for n in (64, 16))
    model = text_to_mel(MEL, LETTERS, "characters", 32, 1, dropout=0.0, blocks=2, block_layers=2, block_channels=32, states=2)
    untrained = share_of_frames(model.eval(), held_out, Tensor.clone)
    task = TextTask(model.train(), partial(torch.optim.Adam, lr=1e-2), warmup_steps=5)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_steps=100, max_epochs=-1, gradient_clip_val=1.0, **quiet)
    trainer.fit(task, DataLoader(train, 8, shuffle=True, collate_fn=collate), DataLoader(held_out, 16, collate_fn=collate))
    model.eval()
    assert share_of_frames(model, held_out, Tensor.clone) >= 0.95
    assert untrained < 0.6
    assert share_of_frames(model, held_out, lambda letters: letters.flip(0)) < 0.6, "the letters tell where they are"
    spoken = [model.sample(item["symbols"][None]).shape[2] for item in held_out]
    assert sum(spoken) == pytest.approx(sum(item["mel"].shape[1] for item in held_out), rel=0.2)
