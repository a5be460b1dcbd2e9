"""The fast draw of a student against its flow, whole and in pieces, in every shape and precision."""

import itertools
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_log_mel, refused, tiny_flow, tiny_mel, tiny_student, tiny_teacher
from torch import Tensor

from wavflow import Vocoder
from wavflow.commands.synthesize import matrix_dtype
from wavflow.kernels import compiling, products
from wavflow.kernels.products import close_tiles, open_tiles
from wavflow.synthesis import blocks, packing, parallel_stream, unwhitening
from wavflow.synthesis.noise import Noise
from wavflow.synthesis.parallel import ParallelEngine, dtypes, fastest_dtype

SHAPES = [
    {"flows": 1, "layers": 1, "kernel_size": 2},
    {"flows": 3, "layers": 5, "channels": 20, "skip_channels": 40, "dilation_cycle": 4, "kernel_size": 3},
    {"flows": 2, "layers": 4, "channels": 33, "skip_channels": 5, "upsampling": "smoothing", "features": 7},
    {"flows": 2, "layers": 9, "dilation_cycle": 9, "kernel_size": 2, "group": 2},  # looks back beyond the clip
    {"flows": 2, "layers": 3, "group": 4, "n_speakers": 3, "base": "logistic"},
    {"flows": 2, "layers": 3, "group": 8, "whitening": 0},
    {"flows": 2, "layers": 3, "group": 16, "mel": tiny_mel(center=True).spec},  # a step is a frame
]


def student_of(changes: dict) -> Vocoder:
    return tiny_student(std=0.15, **changes).float().eval()


def case(student: Vocoder, frames: int = 11, batch: int = 2) -> tuple[Tensor, Tensor, Tensor | None]:
    mel = random_log_mel(frames, batch).float()
    return mel, 0.8 * student.noise(mel), torch.tensor([2, 0])[:batch] if student.speakers else None


def drawn_as_the_flow_draws(student: Vocoder, mel: Tensor, noise: Tensor, speaker: Tensor | None = None) -> Tensor:
    """Holds a draw of the engine and its density against the flow's, and returns it."""
    with torch.no_grad():
        expected, log_prob = student.sample_and_log_prob(mel, noise, speaker=speaker)
    assert expected.abs().max() > 1e-3
    audio, density = ParallelEngine(student).sample_and_log_prob(mel, noise, speaker)
    torch.testing.assert_close(audio, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(density, log_prob, rtol=0, atol=5e-5)
    return audio


@pytest.mark.parametrize("changes", SHAPES)
def test_draws_what_the_flow_draws_with_its_density(changes: dict) -> None:
    student = student_of(changes)
    mel, noise, speaker = case(student)
    audio = drawn_as_the_flow_draws(student, mel, noise, speaker)
    torch.testing.assert_close(student.sample(mel, noise, speaker=speaker, passes=0), audio, rtol=0, atol=0)


def test_a_flow_outside_a_chain_is_drawn_too() -> None:
    student = student_of({"flows": 1, "layers": 2, "group": 2})
    student.flow.transform = student.flow.transform.transforms[0]
    drawn_as_the_flow_draws(student, *case(student))


def test_whitening_by_pitch_and_envelope() -> None:
    # the published mel resolves harmonics: the comb takes part, as loud as it can be
    student = student_of({"mel": None, "features": 8})
    mel = torch.full((1, 80, 30), -6.0).float()
    for harmonic in range(1, 9):
        mel[:, int(2.7 * harmonic)] = torch.linspace(-1.0, 0.5, 30)
    strength = student.whitening.transforms[1].pitch(mel.transpose(1, 2).double())[1]
    assert strength.max() > 0.3
    drawn_as_the_flow_draws(student, mel, student.noise(mel))


@pytest.mark.parametrize("dtype", dtypes())
@pytest.mark.parametrize("changes", SHAPES)
def test_a_stream_is_the_whole_to_the_last_bit(changes: dict, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_stream, "PIECE", 32)
    student = student_of(changes)
    mel, noise, speaker = case(student, 41)
    whole = student.sample(mel, noise, speaker=speaker, dtype=dtype)
    for sizes in [[1] * 41, [40, 1], [2, 3, 7, 29], [41]]:
        pieces = list(student.stream(iter(mel.split(sizes, dim=-1)), noise, speaker=speaker, dtype=dtype))
        assert torch.equal(torch.cat(pieces, dim=-1), whole), sizes
    first = next(student.stream(iter(mel.split(1, dim=-1)), noise, speaker=speaker, dtype=dtype))
    assert first.shape[-1] == student.hop_length, "a frame, as soon as two more are known"
    torch.testing.assert_close(
        torch.cat(list(student.stream(mel, noise, speaker=speaker, dtype=dtype)), -1), whole, rtol=0, atol=0
    )


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_of(SHAPES[1])
    mel, noise, _ = case(student, 45, 3)
    alone = student.sample(mel, noise)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(student.sample(mel, noise), alone)
    assert torch.equal(torch.cat(list(student.stream(mel, noise, chunk_frames=20)), dim=-1), alone)


def test_an_error_in_a_thread_ends_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_of(SHAPES[1])
    mel, noise, _ = case(student, 45, 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    student.sample(mel, noise)
    unwhiten, calls = unwhitening.unwhiten, [True] * 5
    monkeypatch.setattr(unwhitening, "unwhiten", lambda *arguments: (calls.pop(), unwhiten(*arguments)))
    refused(lambda: student.sample(mel, noise), "pop from empty list", IndexError)


@pytest.mark.parametrize("changes", [SHAPES[1], SHAPES[4]])
def test_a_stream_without_an_engine(changes: dict) -> None:
    student = tiny_student(std=0.15, **changes)
    mel, noise, speaker = case(student.double(), 13)
    mel, noise = mel.double(), noise.double()
    whole = student.sample(mel, noise, speaker=speaker)
    for sizes in [[1] * 13, [2, 11], [13]]:
        pieces = list(student.stream(iter(mel.split(sizes, dim=-1)), noise, speaker=speaker))
        torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, rtol=0, atol=1e-9)
    first = next(student.stream(mel, noise, speaker=speaker, chunk_frames=1, passes=2))
    assert first.shape == (2, student.hop_length)


@pytest.mark.parametrize("hop_length", [16, 12])  # torch fills blocks of 16 numbers at once
@pytest.mark.parametrize("base", ["gaussian", "logistic"])
@pytest.mark.parametrize("batch", [1, 3])
def test_noise_of_a_stream_is_that_of_the_whole(batch: int, base: str, hop_length: int) -> None:
    student = student_of({"flows": 1, "layers": 2, "base": base, "mel": tiny_mel(hop_length=hop_length).spec})
    mel = random_log_mel(9, batch).float()
    whole = student.sample(mel, None, 0.7, torch.Generator().manual_seed(3))
    assert len(whole.unique()) > 0.99 * whole.numel(), "no two frames or items have the same noise"
    noise = student.noise(mel, torch.Generator().manual_seed(3))
    for chunk_frames, given in itertools.product((2, 9), (None, noise)):
        pieces = student.stream(mel, given, 0.7, torch.Generator().manual_seed(3), chunk_frames=chunk_frames)
        assert torch.equal(torch.cat(list(pieces), dim=-1), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_chunk_without_frames_is_no_error(dtype: torch.dtype) -> None:
    student = tiny_student(flows=1, layers=2).to(dtype)
    mel = random_log_mel(5, 2).to(dtype)
    noise = student.noise(mel)
    chunks = mel.split([0, 2, 0, 0, 3, 0], dim=-1)
    pieces = list(student.stream(iter(chunks), noise))
    assert all(piece.shape[-1] for piece in pieces)
    torch.testing.assert_close(torch.cat(pieces, dim=-1), student.sample(mel, noise), rtol=0, atol=1e-9)
    assert list(student.stream(iter([mel[..., :0]]))) == []
    refused(lambda: next(student.stream(mel[..., :0])), r"`mel` must be float .*F >= 1")


@pytest.mark.skipif(torch.bfloat16 not in dtypes(), reason="this processor does not multiply bfloat16")
@pytest.mark.parametrize("tiles", [True, False])  # where the processor has them
def test_bfloat16_is_near(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tiles:
        monkeypatch.setattr(products, "multiplies_tiles", lambda: False)
    student = student_of({"flows": 3, "layers": 5, "channels": 24})
    mel, noise, _ = case(student, 40)
    full, half = student.sample(mel, noise), student.sample(mel, noise, dtype=torch.bfloat16)
    assert 1e-6 < (half - full).square().mean().sqrt() / full.std() < 0.02
    assert fastest_dtype(student) in dtypes()


def test_a_precision_that_nothing_honors_is_refused_before_the_first_file() -> None:
    refused(lambda: matrix_dtype("bfloat16", tiny_student()), "`precision` must be float32 for this model on cpu, got bfloat16")


@compiling.compiled
def multiply(y, x, weights, rows):
    open_tiles(x)
    blocks.multiply(y, y.shape[1], x, x.shape[1], rows, weights, 0, y.shape[1] // 32)
    close_tiles(x)


@pytest.mark.parametrize("words", [None, packing.paired_words, packing.tile_words])
def test_products_of_words(words: packing.Words | None) -> None:
    dtype = torch.bfloat16 if words else torch.float32
    if dtype not in dtypes() or (words is packing.tile_words and not products.multiplies_tiles()):
        pytest.skip("this processor does not multiply these")
    x, weight = torch.randn(39, 64).to(dtype), torch.randn(1, 64, 96).float()
    packed = packing.tiles(weight, words)
    packed_x = np.zeros((64, 64 * dtype.itemsize // packed.itemsize), packed.dtype)
    packed_x[:39] = x.view(torch.int16).numpy().view(packed.dtype) if words else x.numpy()
    y = np.ones((64, 96), np.float32)
    multiply(y, packed_x, packed, 39)
    expected = 1 + x.double() @ weight[0].to(dtype).double()
    torch.testing.assert_close(torch.from_numpy(y[:39]).double(), expected, rtol=1e-4, atol=1e-4)


def test_machine_code_is_made_anew_when_any_file_of_the_folders_changes(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "two.py").write_text("")

    def stamp() -> tuple:
        compiling._stamp.cache_clear()
        names = runpy.run_path(str(tmp_path / "one.py"))
        return compiling.compiled(names["double"])._cache._cache_file._source_stamp

    before = stamp()
    assert stamp() == before
    assert set(compiling._stamp(Path(compiling.__file__).parent)) < set(before), "of the vectors that all functions are made of"
    (tmp_path / "two.py").write_text("# what the one calls may lie here")
    assert stamp() != before


@pytest.mark.parametrize(
    "model", [lambda: tiny_teacher().float(), lambda: tiny_flow("waveglow").float(), lambda: tiny_flow("waveflow").float()]
)
def test_refuses_what_it_can_not_draw(model: object) -> None:
    assert not ParallelEngine.supports(model())
    refused(lambda: ParallelEngine(model()), "`vocoder` must be a student on a CPU")
    refused(lambda: next(model().stream(random_log_mel(2).float())), "`vocoder` must be a student")


def test_errors_name_the_argument() -> None:
    student = student_of({"n_speakers": 3})
    mel, noise, speaker = case(student, 5)
    with pytest.raises(ValueError, match=re.escape("`dtype` must be one that this processor multiplies")):
        student.sample(mel, noise, speaker=speaker, dtype=torch.float16)
    refused(lambda: list(student.stream(mel, noise[:, :-1], speaker=speaker)), "`noise` ends after 79 samples, 80 are needed")
    refused(lambda: next(student.stream(mel, noise)), r"`speaker`: this model takes speaker ids")
    refused(lambda: student.sample(mel, noise, speaker=speaker + 1), r"speaker ids .B,. below 3, got")
    refused(lambda: next(student.stream(mel / 0.0, noise, speaker=speaker)), "`mel` must be finite")
    refused(lambda: next(student.stream(mel, noise, speaker=speaker, chunk_frames=0)), "`chunk_frames` must be at least 1")
    stream = student.engine().stream(2, speaker)
    refused(lambda: stream.push(mel[:1], Noise(noise)), "the stream's 2 items, got 1")
    stream.push(mel, Noise(noise), last=True)
    refused(lambda: stream.push(mel, Noise(noise)), "this stream has ended")
    assert list(student.stream(iter([]), noise)) == []
