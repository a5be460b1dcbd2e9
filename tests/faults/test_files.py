"""Crafted and damaged files: what is no whole file of ours is refused by an error of ours; nothing is run, memory bounded."""

import json
import os
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from commands import tone
from helpers import MEL, refused, tiny_flow, tiny_mel, tiny_student, tiny_teacher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_data_faults import linux, peak_growth

import wavflow
from wavflow.audio import audio_length, check_audio, read_audio
from wavflow.likelihood.codec import decode, encode, read_header
from wavflow.mel_files import load_mel, mel_chunks
from wavflow.resume import find_checkpoint

ran: list[str] = []


def note(what: str) -> None:
    ran.append(what)


class Evil:
    """Notes when it is unpickled."""

    def __reduce__(self) -> Any:
        return note, ("unpickled",)


def evil_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil()))


def evil_zip(path: Path) -> None:
    torch.save({"state_dict": Evil(), "global_step": 1}, path)


# --- model files


def metadata(config: Any, info: Any = None) -> dict[str, str]:
    texts = {"config": json.dumps(config), "info": json.dumps(info or {})}
    return {"format": "wavflow", "format_version": "1", **texts}


@pytest.fixture
def model(tmp_path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    net = tiny_teacher().float()
    return net.config, net.state_dict()


TARGETS = ["os.system", "builtins.eval", "wavflow.models.os.system", "wavflow.models.load_model", "../../teacher", None, ["x"]]


@pytest.mark.parametrize("target", TARGETS)
def test_only_our_own_classes_are_built(target: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "system", note)
    config, weights = model
    for crafted in (
        config | {"_target_": target},
        config | {"mel": {"_target_": target}},
        config | {"mel": MEL | {"_target_": target}},
        config | {"density": {"_target_": target, "command": "touch x"}},
        config | {"callback": {"_target_": target}},
    ):
        save_file(weights, tmp_path / "m.safetensors", metadata(crafted))
        with pytest.raises(ValueError, match=r"`path`: .*m\.safetensors does not hold what its configuration says"):
            wavflow.load_model(tmp_path / "m.safetensors")
    assert not ran


@pytest.mark.parametrize("write", [evil_pickle, evil_zip])
def test_no_loader_unpickles(write: Callable[[Path], None], tmp_path: Path) -> None:
    loaders = {
        "model.safetensors": wavflow.load_model,
        "audio.wav": read_audio,
        "mel.npy": lambda path: load_mel(path, tiny_mel()),
        "mel.pt": lambda path: load_mel(path, tiny_mel()),
        "mel.safetensors": lambda path: load_mel(path, tiny_mel()),
        "coded.wavflow": lambda path: read_header(path.read_bytes()),
        "last.ckpt": lambda path: find_checkpoint(str(path), path.parent, torch.nn.Linear(1, 1)),
    }
    for name, load in loaders.items():
        write(tmp_path / name)
        refused(partial(load, tmp_path / name), "`")
    np.save(tmp_path / "objects.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    refused(lambda: load_mel(tmp_path / "objects.npy", tiny_mel()), r"`input`: .*objects\.npy can't be read as a mel")
    assert not ran
    pickle.loads(pickle.dumps(Evil()))
    assert ran.pop() == "unpickled", "or the test could not fail"


LIES: dict[str, dict[str, Any]] = {
    "layers": {"layers": 10**9},
    "flows": {"_target_": "wavflow.models.student", "flows": 10**9},
    "scales": {"_target_": "wavflow.models.flowavenet", "scales": 10**10},
    "channels": {"channels": 2**20},
    "kernel": {"kernel_size": 2**40},
    "features": {"features": 2**20},
    "speakers": {"n_speakers": 2**23},
    "whitening": {"whitening": 2**30},
    "negative": {"channels": -3},
    "no number": {"layers": "many"},
    "infinite": {"layers": float("inf")},
    "fft": {"mel": MEL | {"n_fft": 2**40}},
    "bands": {"mel": MEL | {"n_mels": 2**20, "n_fft": 2**20}},
    "another's": {"channels": 7},
}


def within(seconds: float, mib: float, work: Callable[[], Any]) -> None:
    """Checks what a call takes."""
    started = time.process_time()
    assert peak_growth(work) < mib
    assert time.process_time() - started < seconds


def is_refused(load: Callable[[], Any], words: str) -> Callable[[], None]:
    def work() -> None:
        refused(lambda: load(), words, (ValueError, FileNotFoundError))

    return work


@linux
@pytest.mark.parametrize("lie", LIES)
def test_sizes_that_lie_take_neither_memory_nor_time(lie: str, model: Any, tmp_path: Path) -> None:
    config, weights = model
    save_file(weights, tmp_path / "m.safetensors", metadata(config | LIES[lie]))
    within(3, 60, is_refused(lambda: wavflow.load_model(tmp_path / "m.safetensors"), "does not hold what its configuration"))


def test_the_facts_of_a_model_are_facts(model: Any, tmp_path: Path) -> None:
    config, weights = model
    for info in ([1], "text", {"speakers": 3}, {"speakers": "ab"}, {"speakers": ["a", 1]}):
        save_file(weights, tmp_path / "m.safetensors", metadata(config, info))
        refused(lambda: wavflow.load_model(tmp_path / "m.safetensors"), "does not hold what")


def test_a_tensor_named_as_a_path_is_no_weight_and_no_path(model: Any, tmp_path: Path) -> None:
    config, weights = model
    (tmp_path / "in").mkdir()
    save_file(weights | {"../escaped": torch.ones(3)}, tmp_path / "in" / "m.safetensors", metadata(config))
    refused(lambda: wavflow.load_model(tmp_path / "in" / "m.safetensors"), r"Unexpected key\(s\) in state_dict: \"\.\./escaped")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@linux
@pytest.mark.parametrize("length", [2**63 - 1, 2**40, 10**8, 100])
def test_a_safetensors_header_that_lies_is_refused(length: int, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", length) + header)
    for load in (wavflow.load_model, lambda path: load_mel(path, tiny_mel())):
        within(1, 30, is_refused(lambda load=load: load(tmp_path / "m.safetensors"), "`"))


# --- mels and audio


def shape_of_a_terabyte(path: Path) -> None:
    np.save(path, np.zeros((8, 20), np.float32))
    path.write_bytes(path.read_bytes().replace(b"(8, 20), }         ", b"(8, 99999999999), }"))


def one_number_many_times(path: Path) -> None:
    torch.save(torch.zeros(1, 1).expand(8, 2**33), path)


def bomb(path: Path) -> None:
    torch.save(torch.zeros(8, 2**22), path)  # 128 MiB
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    os.replace(path.with_suffix(".zip"), path)
    assert path.stat().st_size < 2**20


@linux
@pytest.mark.parametrize(
    ("write", "ending"),
    [(shape_of_a_terabyte, "npy"), (one_number_many_times, "pt"), (bomb, "pt")],
    ids=["terabyte", "one number", "bomb"],
)
def test_mels_that_claim_more_than_they_hold_are_refused(write: Callable[[Path], None], ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"mel.{ending}"
    write(path)
    within(2, 60, is_refused(lambda: load_mel(path, tiny_mel()), r"`input`: .*mel\.(npy|pt) (can't be read|holds no)"))


def claims(file_format: str, path: Path) -> None:
    """A file whose header tells of some 2^36 samples or more."""
    soundfile.write(path, tone(0.2), 8000, format=file_format, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    if file_format == "FLAC":
        data[21:26] = bytes([data[21] | 0x0F, *b"\xff\xff\xff\xff"])  # 36 bits of STREAMINFO
    elif file_format == "RF64":
        data[20:44] = struct.pack("<QQQ", 2**41, 2**41, 2**40)
    elif file_format == "W64":
        where = data.find(b"data\xf3\xac\xd3\x11") + 16
        data[where : where + 8] = struct.pack("<Q", 2**41)
    elif file_format == "AU":
        data[8:12] = b"\xff\xff\xff\xfe"
    path.write_bytes(data)


@linux
@pytest.mark.parametrize("file_format", ["FLAC", "RF64", "W64", "AU"])
def test_audio_that_claims_a_trillion_samples_takes_no_memory(file_format: str, tmp_path: Path) -> None:
    """Refused, or read as far as it goes."""
    path = tmp_path / f"a.{'flac' if file_format == 'FLAC' else 'wav'}"
    claims(file_format, path)

    def work() -> None:
        refusals = []
        for load in (read_audio, audio_length, check_audio, lambda path: list(mel_chunks(path, tiny_mel()))):
            try:
                found = load(path)
                assert file_format != "FLAC"
                assert load is not read_audio or len(found[0]) == 1600
            except ValueError as error:
                refusals.append(str(error))
        assert all("must name a whole, readable audio file" in refusal for refusal in refusals)

    within(3, 60, work)


@pytest.mark.parametrize("rate", [1, 99, 2**20 + 1, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_refused(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), rate, subtype="PCM_16")
    refused(lambda: read_audio(tmp_path / "a.wav", 22050), f"a.wav claims {rate} samples per second")


@linux
@pytest.mark.parametrize("rate", [101, 2999, 131077, 2**20])
def test_an_odd_rate_is_resampled_in_little_memory(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone()[:1000], rate, subtype="PCM_16")
    within(20, 400, lambda: read_audio(tmp_path / "a.wav", 22050))
    audio, _ = read_audio(tmp_path / "a.wav", 22050)
    assert len(audio) == pytest.approx(1000 * 22050 / rate, rel=1e-3, abs=1)
    assert len(read_audio(tmp_path / "a.wav", 100)[0]) == pytest.approx(1000 * 100 / rate, rel=1e-3, abs=1)


# --- coded audio


CRAFTED: dict[str, Any] = {
    "samples": 10**400,
    "channels": 2**30,
    "sample_rate": 2**40,
    "speaker": 10**30,
    "mel_stride": 0,
    "mel_step": float("nan"),
    "mel_range": [0, 10**30],
    "crc32": -1,
    "model": [],
}


@linux
def test_headers_of_coded_audio_that_no_encoder_writes_are_refused(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back
    teacher = tiny_teacher()
    data = encode((2000 * tone(0.02)).astype(np.int16)[None], 8000, teacher).data
    length = struct.unpack("<I", data[8:12])[0]
    header = json.loads(data[12 : 12 + length])

    def crafted(text: bytes) -> bytes:
        return resealed(data[:8] + struct.pack("<I", len(text)) + text + data[12 + length :])

    assert decode(crafted(json.dumps(header).encode()), teacher)[1] == 8000
    texts = [json.dumps(header | {name: value}).encode() for name, value in CRAFTED.items()]
    texts += [b"[" * 100_000, b"[1]", b"\xff\xfe", b'{"samples": ' + b"9" * 5000 + b"}"]

    def work() -> None:
        for text in texts:
            is_refused(lambda text=text: decode(crafted(text), teacher), "`input` holds a header that no encoder")()

    within(1, 30, work)


def resealed(data: bytes) -> bytes:
    """A coded file whose checksum is that of its bytes: what is wrong with it is seen by what comes after it."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


# --- thousands of mutated files


def seeds(folder: Path) -> dict[str, bytes]:
    """Whole files of each kind that a loader takes."""
    folder.mkdir()
    kinds = {"wav": ("WAV", "RF64", "W64", "AIFF", "AU", "CAF"), "flac": ("FLAC",), "ogg": ("OGG",), "mp3": ("MP3",)}
    for ending, formats in kinds.items():
        for name in formats:
            soundfile.write(folder / f"{name}.{ending}", tone(0.2), 8000, format=name)
    soundfile.write(folder / "float.wav", tone(0.1), 8000, subtype="FLOAT")
    mel = torch.randn(8, 20, dtype=torch.float32) - 6.0
    np.save(folder / "mel.npy", mel.numpy())
    torch.save(mel, folder / "mel.pt")
    torch.save(mel, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file({"mel": mel}, folder / "mel.safetensors", {"spec": json.dumps(tiny_mel().spec)})
    for name, net in {"teacher": tiny_teacher(), "student": tiny_student(), "waveglow": tiny_flow("waveglow")}.items():
        wavflow.save_model(net.float(), folder / f"{name}.model")
    pcm = (2000 * tone(0.05)).astype(np.int16)[None]
    teacher = wavflow.load_model(folder / "teacher.model")
    (folder / "coded.wavflow").write_bytes(encode(pcm, 8000, teacher).data)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WORDS = [
    b"\xff" * 4,
    b"\0" * 8,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f" * 2,
    b"99999999999",
    b"-1",
    b"1e99",
    b"[]",
    b'"',
    b"../",
    b"NaN",
]
EDIT = st.tuples(
    st.sampled_from(["replace", "insert", "delete", "cut", "repeat"]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(WORDS) | st.binary(min_size=1, max_size=8),
)


def mutated(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """Edits a file; the higher the power, the nearer to its start, where headers are."""
    for kind, where, power, word in edits:
        at = int(where**power * len(data))
        if kind == "replace":
            data = data[:at] + word + data[at + len(word) :]
        elif kind == "insert":
            data = data[:at] + word + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + 3 * len(word) :]
        elif kind == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[max(0, at - 20) :]
    return data


@pytest.mark.slow
@linux
@pytest.mark.filterwarnings("ignore")  # of torch and NumPy, of what they find in there
def test_mutated_files_raise_our_own_errors_alone(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back
    files = seeds(tmp_path / "seeds")
    teacher = wavflow.load_model(tmp_path / "seeds" / "teacher.model")
    seen: dict[str, int] = {"refused": 0, "read": 0}
    foreign: list[str] = []
    loaders: dict[str, Callable[[Path], Any]] = {
        ".model": wavflow.load_model,
        ".wavflow": lambda path: decode(resealed(path.read_bytes()), teacher),
    }
    loaders |= dict.fromkeys((".npy", ".pt", ".safetensors"), lambda path: load_mel(path, tiny_mel()))

    @settings(max_examples=1200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(files)), st.lists(EDIT, min_size=1, max_size=3))
    def each(name: str, edits: list[tuple[str, float, int, bytes]]) -> None:
        path = tmp_path / f"mutated{Path(name).suffix}"
        path.write_bytes(mutated(files[name], edits))
        try:
            loaders.get(path.suffix, lambda path: (read_audio(path, 11025), check_audio(path)))(path)
            seen["read"] += 1
        except (ValueError, FileNotFoundError) as error:
            seen["refused"] += 1
            if type(error) not in (ValueError, FileNotFoundError) or "`" not in str(error):
                foreign.append(repr(error))

    assert peak_growth(each) < 400
    assert not foreign
    assert seen["read"] > 40
    assert seen["refused"] > 400
