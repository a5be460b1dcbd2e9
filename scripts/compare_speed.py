"""Times models of ours and the shapes of two others on one thread, one after the other, in processor time.

    pip install --no-deps --target peers vocos encodec einops "huggingface_hub<1"
    PYTHONPATH=peers python scripts/compare_speed.py lj-student lj-student-fast

Vocos comes from its own package, with random weights of its published sizes; it is left out where it is not installed.
HiFi-GAN V2 is a generator of its published shape. Speed needs no trained weights; the sound of others is not compared here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow import load_model
from wavflow.vocoder import PASSES

SECONDS = 5.0


class HiFiGAN(nn.Module):
    """The generator of HiFi-GAN V2 (Kong, Kim & Bae, 2020, https://arxiv.org/abs/2010.05646, table 5), 22.05 kHz."""

    def __init__(self, channels: int = 128, rates: tuple[int, ...] = (8, 8, 2, 2)) -> None:
        super().__init__()
        self.first = nn.Conv1d(80, channels, 7, padding=3)
        self.up, self.blocks = nn.ModuleList(), nn.ModuleList()
        for rate in rates:
            self.up.append(nn.ConvTranspose1d(channels, channels // 2, 2 * rate, rate, padding=rate // 2))
            channels //= 2
            self.blocks.append(nn.ModuleList(self.residual(channels, kernel) for kernel in (3, 7, 11)))
        self.last = nn.Conv1d(channels, 1, 7, padding=3)

    @staticmethod
    def residual(channels: int, kernel: int) -> nn.ModuleList:
        """Returns pairs of convolutions, the first of each pair dilated by 1, 3 and 5."""
        pairs = (
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel // 2))
            for d in (1, 3, 5)
            for dilation in (d, 1)
        )
        return nn.ModuleList(pairs)

    def forward(self, mel: Tensor) -> Tensor:
        """Maps a log-mel (B, 80, F) to audio (B, 1, F * 256)."""
        x = self.first(mel)
        for up, blocks in zip(self.up, self.blocks, strict=True):
            x, total = up(functional.leaky_relu(x, 0.1)), 0.0
            for block in blocks:
                y = x
                for first, second in zip(block[::2], block[1::2], strict=True):
                    y = y + second(functional.leaky_relu(first(functional.leaky_relu(y, 0.1)), 0.1))
                total = total + y
            x = total / len(blocks)
        return torch.tanh(self.last(functional.leaky_relu(x)))


def peers() -> dict[str, tuple[Callable[[], Tensor], float]]:
    """Returns, for each other model, a function that draws once and the seconds of audio that it draws."""
    hifi, mel = HiFiGAN().eval(), torch.randn(1, 80, round(SECONDS * 22_050 / 256))
    found = {"HiFi-GAN V2's shape, torch": (lambda: hifi(mel), mel.shape[-1] * 256 / 22_050)}
    try:
        from vocos.heads import ISTFTHead
        from vocos.models import VocosBackbone
    except ImportError as error:
        print(f"Vocos is left out: {error}", file=sys.stderr)
        return found
    backbone = VocosBackbone(input_channels=100, dim=512, intermediate_dim=1536, num_layers=8).eval()
    head, features = ISTFTHead(dim=512, n_fft=1024, hop_length=256).eval(), torch.randn(1, 100, round(SECONDS * 24_000 / 256))
    seconds = features.shape[-1] * 256 / 24_000

    def in_bfloat16() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = backbone(features)
        return head(hidden.float())

    found["Vocos, random weights, float32"] = lambda: head(backbone(features)), seconds
    found["Vocos, its backbone in bfloat16"] = in_bfloat16, seconds
    return found


def ours(name: str) -> dict[str, tuple[Callable[[], Tensor], float]]:
    """Returns the same of one of our models: without the mel equalizer, with two passes, and with those of `sample`."""
    model = load_model(name)
    mel = model.mel(0.1 * torch.randn(1, round(SECONDS * model.sample_rate)))
    noise, seconds = model.noise(mel), mel.shape[-1] * model.hop_length / model.sample_rate
    return {
        f"{name}, float32, {passes} passes": (lambda passes=passes: model.sample(mel, noise, passes=passes), seconds)
        for passes in (0, 2, PASSES)
    }


@torch.no_grad()
def main(names: list[str], repeats: int = 7) -> None:
    """Prints a table: each row the best of several runs, in which the models take turns, so that none has the quiet minute."""
    torch.set_num_threads(1)
    rows = {key: value for name in names for key, value in ours(name).items()} | peers()
    best = dict.fromkeys(rows, float("inf"))
    for n in range(repeats + 1):
        for name, (draw, _) in rows.items():
            started = time.process_time()
            draw()
            if n:  # the first run compiles
                best[name] = min(best[name], time.process_time() - started)
    print(f"{'one thread, processor time':40} x real time")
    for name, (_, seconds) in rows.items():
        print(f"{name:40} {seconds / best[name]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["lj-student"])
