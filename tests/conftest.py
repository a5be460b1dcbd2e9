"""Every test starts from the same seed and, unless it says otherwise, in float64."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _float64_and_seed() -> Iterator[None]:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(previous)
