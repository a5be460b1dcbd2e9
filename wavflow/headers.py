"""Compares the length that an audio file's header states with the file itself, which libsndfile does not do."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

_NEVER_FILLED_IN = 2**31 - 2**16  # what programs that write to a pipe state is about 2**31 or 2**32
_PADDING = 64  # bytes that some writers count and leave out
_TAGS = 2**12  # bytes after the last frame of an MP3 that are not looked into
_RATES = (44100, 48000, 32000)
_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
}


def fault(path: Path) -> str | None:
    """Returns why a file can't be read as a whole where libsndfile would not say so: its end is missing, or it is several.

    A program that writes to a pipe never fills in the size: such a size is ignored.
    """
    with path.open("rb") as file:
        head = file.read(32)
        size = file.seek(0, os.SEEK_END)
        if head[:4] == b"OggS":
            last = _last_page(file)
            if not any(flags & 4 for flags in last[5:6]):  # the mark of a stream's end
                return "is truncated"
            return None if last[14:18] == head[14:18] else "holds several streams, one after the other"
        return "is truncated" if size < _stated_size(head) - _PADDING else None


def _stated_size(head: bytes) -> int:
    """Returns the size of a file in bytes by its first 32 bytes; 0 where they don't state it."""
    kind, size = head[:4], 0
    if kind == b"RIFF":
        size = int.from_bytes(head[4:8], "little") + 8
    elif kind == b"FORM":
        size = int.from_bytes(head[4:8], "big") + 8
    elif kind == b".snd":
        size = int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
    elif kind in (b"RF64", b"riff"):
        wide = int.from_bytes(head[20:28] if kind == b"RF64" else head[16:24], "little")
        return wide if wide < 2**48 else 0
    return size if size < _NEVER_FILLED_IN else 0


def _last_page(file: BinaryIO) -> bytes:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
    tail = file.read()
    page = tail.rfind(b"OggS")
    return tail[page:] if page >= 0 else b""


def with_its_length(path: Path) -> io.BytesIO | None:
    """Returns the content of a file with a length filled in; None for a file that can be read as it is.

    A length is filled in for a WAV file whose size was left at 0, and for an MP3 without an index or joined of several: there
    libsndfile guesses the length by the first frame's bit rate, and reads no further.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") <= 36:
            # by a size of 8 libsndfile knows that the sizes are not true
            return io.BytesIO(head[:4] + (8).to_bytes(4, "little") + head[8:] + file.read())
    if head[:3] != b"ID3" and not _frame(head):
        return None
    status = os.stat(path)
    found = _frames_without_index(os.fspath(path), status.st_size, status.st_mtime_ns)
    if found is None:
        return None
    start, count = found
    content = path.read_bytes()[start:]
    return io.BytesIO(_index(content, count) + content)


@lru_cache(maxsize=2**16)
def _frames_without_index(path: str, size: int, _changed: int) -> tuple[int, int] | None:
    """Returns where the first frame of an MP3 begins and how many there are; None for a true index, or for no MP3."""
    with open(path, "rb") as file:
        head, start = file.read(10), 0
        if head[:3] == b"ID3":
            start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(start)
        content = file.read().lstrip(b"\0")
    start = size - len(content)
    if not _frame(content) or b"VBRI" in content[:64]:
        return None
    tag = max(content[:64].find(b"Xing"), content[:64].find(b"Info"))
    flags = content[tag + 7] if 0 <= tag < len(content) - 7 else 0
    if flags & 2:  # the index states its bytes too
        at = tag + 8 + 4 * (flags & 1)
        if int.from_bytes(content[at : at + 4], "big") + _TAGS >= len(content):
            return None
    frames = list(_frames(content))
    return (start + frames[0], len(frames)) if frames else None


def _frames(content: bytes) -> Iterator[int]:
    """Yields where the frames of an MP3 begin; other bytes are skipped."""
    place = 0
    while (place := content.find(b"\xff", place)) >= 0:
        size = _frame(content[place : place + 4])
        following = content[place + size : place + size + 4]
        if size and (len(following) < 4 or _frame(following) or following[:3] in (b"TAG", b"ID3", b"APE")):
            if place + size > len(content):
                return
            yield place
            place += size
        else:
            place += 1


def _frame(head: bytes) -> int:
    """Returns the size in bytes of the MPEG layer III frame with this head; 0 if it is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, rate, bits = (head[1] >> 3) & 3, (head[2] >> 2) & 3, head[2] >> 4
    if version == 1 or rate == 3 or bits in (0, 15):
        return 0
    hertz = _RATES[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    return (144000 if version == 3 else 72000) * _KILOBITS[version == 3][bits] // hertz + ((head[2] >> 1) & 1)


def _index(content: bytes, count: int) -> bytes:
    """Returns a silent frame like the first of an MP3, with an index that states the number of frames after it."""
    version, mono = (content[1] >> 3) & 3, content[3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    head = bytes([0xFF, content[1] | 1, (content[2] & 0x0C) | 0x90, content[3]])  # no checksum; room for the index
    frame = bytearray(head + bytes(_frame(head) - 4))
    index = b"Xing" + (3).to_bytes(4, "big") + count.to_bytes(4, "big") + (len(frame) + len(content)).to_bytes(4, "big")
    frame[4 + side : 4 + side + len(index)] = index
    return bytes(frame)
