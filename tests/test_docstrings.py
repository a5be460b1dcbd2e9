"""Every example in a docstring gives what stands below it."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import wavflow
from wavflow.distributions import Gaussian
from wavflow.flows.autoregressive import Autoregressive
from wavflow.flows.elementwise import Affine
from wavflow.nn.wavenet import WaveNet

ROOT = Path(wavflow.__file__).parent
AT_HAND = {"torch": torch, "wavflow": wavflow} | {each.__name__: each for each in (Affine, Autoregressive, Gaussian, WaveNet)}


@pytest.mark.parametrize(
    "path", [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text()], ids=lambda p: p.stem
)
def test_examples_hold(path: Path) -> None:
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back
    name = ".".join(("wavflow", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    found = doctest.testmod(importlib.import_module(name), extraglobs=AT_HAND)
    assert found.attempted
    assert not found.failed
