"""The models and the sound of the coded files in tests/coded, made without random numbers. Run as a script, it decodes them."""

import sys
from pathlib import Path

import numpy as np
import torch

import wavflow.models
from wavflow import Vocoder
from wavflow.likelihood import codec

FILES = Path(__file__).parent / "coded"
MEL = {"sample_rate": 8000, "n_fft": 512, "hop_length": 64, "win_length": 512, "n_mels": 40, "f_max": 3600.0}
NET = {"layers": 4, "channels": 7, "kernel_size": 3, "dilation_cycle": 3, "features": 5, "whitening": 12}
MODELS = {
    "gaussian": {"density": "gaussian", "upsampling": "smoothing"},
    "mixture": {"density": "mixture_of_logistics", "n_components": 3, "n_speakers": 2},
}


def spread(count: int, start: int) -> np.ndarray:
    """Returns numbers in [-1/2, 1/2), spread evenly, from integers alone."""
    return (np.arange(start, start + count, dtype=np.uint64) * 2654435761 % 2**32 - 0.5 * 2**32) / 2**32


def model(name: str) -> Vocoder:
    vocoder, start = wavflow.models.teacher(mel=MEL, **NET | MODELS[name]).float(), 1
    with torch.no_grad():
        for key, weight in sorted(vocoder.state_dict().items()):
            values = spread(weight.numel(), start).reshape(weight.shape)
            weight.copy_(torch.from_numpy((0.25 if "last" in key else 0.75) * values).float())
            start += weight.numel()
    return vocoder.eval()


def sound() -> np.ndarray:
    """Buzzes at 110 Hz, louder and louder, with noise; then noise that is cheaper to keep as it is; int16 (1, 4096)."""
    time = np.arange(2600)
    buzz = (time % 73 < 9) * time * 4 + spread(2600, 99) * 400
    return np.concatenate([buzz, spread(1496, 7) * 65535]).round().astype(np.int16)[None]


def decode_all() -> None:
    for name in MODELS:
        pcm, rate = codec.decode((FILES / f"{name}.wavflow").read_bytes(), model(name))
        assert rate == 8000
        np.testing.assert_array_equal(pcm, sound())


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        for name in MODELS:
            speaker = 1 if "n_speakers" in MODELS[name] else None
            (FILES / f"{name}.wavflow").write_bytes(codec.encode(sound(), 8000, model(name), speaker=speaker).data)
    decode_all()
