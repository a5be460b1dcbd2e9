"""Text to mel: the density is that of the samples, the alignment is the best one, padding changes nothing."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from flow_checks import assert_round_trip, assert_total_log_det_is_exact
from helpers import refused

from wavflow.flows.base import log_det_of_identity
from wavflow.flows.linear import InvertibleLinear
from wavflow.flows.reshape import Grouped
from wavflow.kernels.alignment import align_monotonically
from wavflow.mel_scale import audible, check_scale
from wavflow.models import load_model, save_model
from wavflow.nn.upsampler import Conditioning
from wavflow.text_to_mel import TextToMel, best_durations, text_to_mel
from wavflow.vocoder import Vocoder

SYMBOLS = [" ", ".", *"abcde"]


def tiny(n_speakers: int = 0, states: int = 1) -> TextToMel:
    """A text model of random weights for 4 bands."""
    mel = {"sample_rate": 8000, "n_fft": 256, "hop_length": 64, "win_length": 256, "n_mels": 4, "f_max": 4000.0}
    model = text_to_mel(mel, SYMBOLS, "characters", 8, 1, 1, 0.1, 2, 2, 16, 3, 4, n_speakers, states).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def voice(model: TextToMel, speaker: torch.Tensor | None = None) -> Conditioning:
    """What conditions the flow."""
    return Conditioning(model._voice(speaker, 1 if speaker is None else len(speaker)).unsqueeze(-1))


def durations_of(scores: np.ndarray, symbols: list[int], frames: list[int]) -> np.ndarray:
    durations = np.zeros((len(scores), scores.shape[2]), np.int64)
    align_monotonically(scores.copy(), np.array(symbols), np.array(frames), durations)
    return durations


def test_the_flow_is_exact_both_ways() -> None:
    alone, speakers = tiny(), tiny(2)
    assert_total_log_det_is_exact(alone.flow.transform, torch.randn(1, 4, 6), voice(alone))
    assert_round_trip(speakers.flow.transform, torch.randn(2, 4, 10), voice(speakers, torch.tensor([0, 1])))


@pytest.mark.parametrize(("symbols", "frames"), [(1, 1), (1, 5), (3, 3), (3, 7), (5, 8)])
def test_no_monotonic_path_is_better(symbols: int, frames: int) -> None:
    scores = np.random.default_rng(symbols * frames).normal(size=(1, frames, symbols))
    found = durations_of(scores, [symbols], [frames])[0]

    def total(durations: np.ndarray | tuple[int, ...]) -> float:
        return float(scores[0, np.arange(frames), np.repeat(np.arange(symbols), durations)].sum())

    every = (d for d in itertools.product(range(1, frames + 1), repeat=symbols) if sum(d) == frames)
    assert total(found) == pytest.approx(max(map(total, every)), abs=1e-12)


def test_a_batch_of_alignments_agrees_with_another_implementation() -> None:
    oracle = pytest.importorskip("monotonic_alignment_search")
    scores = torch.randn(3, 40, 9)
    symbols, frames = [9, 4, 1], [40, 25, 3]
    mask = torch.zeros(3, 9, 40)
    for item, n, f in zip(mask, symbols, frames, strict=True):
        item[:n, :f] = 1.0
    theirs = oracle.maximum_path(scores.transpose(1, 2).float().contiguous(), mask.float())
    ours = durations_of(scores.float().numpy(), symbols, frames)
    np.testing.assert_array_equal(ours, theirs.sum(dim=2).numpy())


@pytest.mark.parametrize("states", [1, 2])
def test_padding_changes_neither_likelihood_nor_alignment(states: int) -> None:
    model = tiny(states=states)
    mels, texts = [torch.randn(1, 4, n) for n in (12, 8)], [torch.randint(0, 7, (1, n)) for n in (5, 3)]
    alone = [model.log_prob(*pair) for pair in zip(mels, texts, strict=True)]
    mel = torch.cat([mels[0], torch.cat([mels[1], 9.0 + torch.randn(1, 4, 4)], dim=2)])
    symbols = torch.cat([texts[0], torch.cat([texts[1], torch.ones(1, 2, dtype=torch.long)], dim=1)])
    both = model.log_prob(mel, symbols, None, torch.tensor([12, 8]), torch.tensor([5, 3]))
    for i, (one, n, s) in enumerate(zip(alone, (12, 8), (5, 3), strict=True)):
        torch.testing.assert_close(both.log_prob[i, :n], one.log_prob[0], atol=1e-10, rtol=0)
        torch.testing.assert_close(both.log_durations[i, :s], one.log_durations[0], atol=1e-10, rtol=0)
        assert both.durations[i, :s].tolist() == one.durations[0].tolist()
        assert both.durations[i, s:].sum() == 0
    assert both.log_prob[1, 8:].abs().max() == 0


@pytest.mark.parametrize(("states", "symbols"), [(1, torch.tensor([[2, 3]])), (2, torch.tensor([[3]]))])
def test_the_likelihood_is_that_of_gaussians_around_the_states(states: int, symbols: torch.Tensor) -> None:
    model, mel = tiny(states=states), torch.randn(1, 4, 6)
    scored = model.log_prob(mel, symbols)
    z, log_det = model.flow.transform(mel, voice(model))
    means, _ = model._read(symbols, torch.ones(symbols.shape), model._voice(None, 1))
    best = -torch.inf
    for n in range(1, 6):
        spread = torch.cat([means[..., :1].expand(-1, -1, n), means[..., 1:].expand(-1, -1, 6 - n)], dim=2)
        best = max(best, (torch.distributions.Normal(spread, 1.0).log_prob(z).sum() + log_det.sum()).item())
    assert scored.log_prob.sum().item() == pytest.approx(best, abs=1e-10)


def test_samples_without_noise_are_where_the_means_are() -> None:
    model = tiny(2)
    mel = model.sample("abc", temperature=0.0, guidance=1.0, speaker=torch.tensor([1]))
    assert mel.shape[:2] == (1, 4)
    assert mel.shape[2] % 2 == 0
    z, _ = model.flow.transform(mel, voice(model, torch.tensor([1])))
    means, _ = model._read(model.encode("abc"), torch.ones(1, 5), model._voice(torch.tensor([1]), 1))
    assert all(min((z[0, :, f] - m).abs().max() for m in means[0].T) < 1e-6 for f in range(z.shape[2]))


def test_training_leaves_out_a_part_of_what_couplings_keep() -> None:
    model, mel, symbols = tiny(), torch.randn(1, 4, 40), torch.tensor([[2, 3]])
    torch.testing.assert_close(model.log_prob(mel, symbols).log_prob, model.log_prob(mel, symbols).log_prob)
    model.encoder.eval()
    model.flow.train()
    assert (model.log_prob(mel, symbols).log_prob != model.log_prob(mel, symbols).log_prob).any()


def test_guidance_multiplies_how_far_the_means_are_from_their_average() -> None:
    model = tiny()
    z = {}
    for guidance in (0.0, 1.0, 2.5):
        mel = model.sample("abc de.", temperature=0.0, guidance=guidance)
        z[guidance], _ = model.flow.transform(mel, voice(model))
    center = z[1.0].mean(dim=2, keepdim=True)
    assert z[1.0].std(dim=2).max() > 0.1
    torch.testing.assert_close(z[0.0], center.expand_as(z[0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(z[2.5], center + 2.5 * (z[1.0] - center), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loudness", [3.0, 1e4])
def test_what_is_sampled_too_loud_becomes_a_mel_that_a_sound_can_have(loudness: float) -> None:
    model, mel = tiny(), loudness + torch.randn(1, 4, 40)
    mel[..., :20] = -5.0
    refused(lambda: check_scale(mel, model.mel), "full-scale")
    quieter = audible(mel, model.mel)
    check_scale(quieter, model.mel)
    torch.testing.assert_close(quieter[..., :20], mel[..., :20])


def test_twice_the_length_scale_is_half_as_fast() -> None:
    model = tiny()
    with torch.no_grad():
        model.durations.last.weight.zero_()
        model.durations.last.bias.fill_(np.log(5.0))
    assert model.sample("abcd").shape[2] == 30
    assert model.sample("abcd", length_scale=2.0).shape[2] == 60


def test_unknown_symbols_are_named_once_and_left_out() -> None:
    model = tiny()
    with pytest.warns(UserWarning, match="never heard 'z'"):
        assert model.encode("abz").tolist() == model.encode("ab").tolist()
    model.encode("az")
    with pytest.warns(UserWarning, match="'w'"), pytest.raises(ValueError, match="`text` must hold something"):
        model.encode("w w")


@pytest.mark.parametrize("text", ["", "   ", ".", ". ."])
def test_nothing_to_say_is_an_error(text: str) -> None:
    refused(lambda: tiny().encode(text), "`text` must hold something.*this model reads")


def test_a_text_longer_than_its_mel_is_an_error() -> None:
    refused(lambda: tiny().log_prob(torch.randn(1, 4, 4), torch.zeros(1, 5, dtype=torch.long)), "no more than 4, got 5")


@pytest.mark.parametrize(
    "arguments", [{"temperature": -1.0}, {"length_scale": 0.0}, {"guidance": -1.0}, {"speaker": torch.tensor([0])}]
)
def test_wrong_arguments_are_named(arguments: dict) -> None:
    refused(lambda: tiny().sample("abc", **arguments), next(iter(arguments)))


def test_a_model_file_speaks_the_same(tmp_path: Path) -> None:
    model = tiny(3)
    save_model(model, tmp_path / "text.safetensors", {"speakers": ["x", "y", "z"]})
    loaded = load_model(tmp_path / "text.safetensors", kind=TextToMel)
    speaker, seed = torch.tensor([2]), torch.Generator().manual_seed
    expected = model.sample("abc de.", speaker=speaker, generator=seed(1))
    torch.testing.assert_close(loaded.sample("abc de.", speaker=speaker, generator=seed(1)), expected)
    refused(lambda: load_model(tmp_path / "text.safetensors"), "holds a text model, and a vocoder is needed")
    refused(lambda: load_model("lj-student-fast", kind=TextToMel), "holds a vocoder, and a text model is needed")
    assert isinstance(load_model("lj-student-fast"), Vocoder)


def test_groups_share_one_matrix() -> None:
    linear, x = InvertibleLinear(4), torch.randn(2, 12, 5)
    z, log_det = Grouped(linear)(x)
    picked = [2, 3, 8, 9]  # the second group: two neighbors of each half
    torch.testing.assert_close(z[:, picked], linear(x[:, picked])[0])
    torch.testing.assert_close(log_det, 3 * linear(x[:, :4])[1])
    back, _ = Grouped(linear).inverse(z)
    torch.testing.assert_close(back, x)
    assert log_det_of_identity(x).shape == log_det.shape
    refused(lambda: Grouped(linear)(torch.randn(1, 6, 2)), "multiple of 4")


def test_letters_of_a_known_alignment_are_found_again() -> None:
    """Each symbol's frames lie around its own mean: the search finds the boundaries that made them."""
    means, durations = 3.0 * torch.randn(1, 4, 6), torch.tensor([[3, 1, 7, 2, 5, 4]])
    z = means.repeat_interleave(durations[0], dim=2) + 0.1 * torch.randn(1, 4, 22)
    assert best_durations(z, means, torch.tensor([6]), torch.tensor([22])).tolist() == durations.tolist()


def test_bfloat16_training_does_not_round_alignments() -> None:
    means, durations = 4.0 + 0.1 * torch.randn(1, 80, 6).float(), torch.tensor([[3, 1, 7, 2, 5, 4]])
    z = means.repeat_interleave(durations[0], dim=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert best_durations(z, means, torch.tensor([6]), torch.tensor([22])).tolist() == durations.tolist()
