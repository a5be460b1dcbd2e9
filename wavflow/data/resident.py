"""A corpus in the memory of the training's device: all audio and all mels, from which batches are gathered.

No GPU then waits for reading, decoding and mels. An hour at 22.05 kHz takes 320 MB, and its mel 100 MB. The CPU still samples
the places and the noise of the crops; a step sends nothing else to the device.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavflow.audio import read_audio
from wavflow.data.datasets import CropDataset
from wavflow.mel import MEL_FLOOR


class ResidentCrops(CropDataset):
    """The crops of a `CropDataset`, to the last bit, from memory; a loader gets whole batches, see `__getitems__`.

    A file that can't be read when this is made is named in a warning and dropped.

    Args:
        device: Where the audio and the mels are.
        *args: As for `CropDataset`, and so is `**options`.
    """

    def __init__(self, device: str | torch.device, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        hop, audio, mels = self.mel.hop_length, [], []
        for which, path in enumerate(self.files):
            try:
                whole = read_audio(path, self.mel.sample_rate)[0].float()
                if len(whole) != self._wholes[which]:
                    raise ValueError(f"`path` must hold what its header says, but {path} doesn't: replace it.")
                given = None if self.mels is None else self.mels.read(path)
            except (ValueError, OSError) as error:
                self.drop(which, error)
                whole, given = torch.zeros(self._wholes[which], dtype=torch.float32), None
            whole = whole[: self._lengths[which]]
            # no crop begins in a last incomplete hop; a file shorter than one counts as one
            frames = self.mel.frames_of(len(whole))
            padded = torch.nn.functional.pad(whole, (0, max(0, hop - len(whole))))
            with torch.no_grad():
                mels.append((self.mel(padded[None])[0] if given is None else given).T)
            audio.append(padded[: frames * hop])
        self._first_frames = np.cumsum([0, *map(len, mels[:-1])])
        self._audio, self._mel = torch.cat(audio).to(device), torch.cat(mels).to(device)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Returns the batch of some crops, as a loader would make it of the items."""
        frames, hop = self.segment_length // self.mel.hop_length, self.mel.hop_length
        starts, lengths, about = [], [], []
        dither = np.zeros((len(indices), self.segment_length), np.float32)
        for row, index in enumerate(indices):
            rng = self.rng(index)
            if (place := next(self.places(rng), None)) is None:
                raise ValueError(f"`files` must be readable, but none of {len(self.files)} is: check the disk they lie on.")
            which, first = place
            whole = self._lengths[which]
            starts.append(self._first_frames[which] + first)
            lengths.append(min(self.segment_length, max(whole // hop * hop, min(whole, hop)) - first * hop))
            about.append(self.about(which, first))
            if self.dequantize:
                dither[row, : lengths[-1]] = rng.random(lengths[-1], dtype=np.float32) - np.float32(0.5)
        start, length, noise = (self._send(torch.as_tensor(np.asarray(each))) for each in (starts, lengths, dither))
        time, frame = (torch.arange(n, device=self._audio.device) for n in (self.segment_length, frames))
        known, known_frames = time < length[:, None], frame * hop < length[:, None]
        audio = self._audio[(start[:, None] * hop + time).clamp(max=len(self._audio) - 1)]
        mel = self._mel[(start[:, None] + frame).clamp(max=len(self._mel) - 1)]
        return {
            "audio": torch.where(known, audio, 0.0) + noise / 32768,
            "mel": torch.where(known_frames[..., None], mel, math.log(MEL_FLOOR)).transpose(1, 2).contiguous(),
            "mask": known.float(),
            "name": [each["name"] for each in about],
        } | (
            {} if self.speakers is None else {"speaker": torch.tensor([each["speaker"] for each in about], device=start.device)}
        )

    def _send(self, tensor: Tensor) -> Tensor:
        """Copies to the device without waiting for what it does."""
        if self._audio.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._audio.device, non_blocking=True)
