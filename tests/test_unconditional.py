"""Models without a mel: their density and their draws, by every engine, and the commands from training to the lossless file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from commands import TRAIN, contents, is_refused, make_sounds, succeeds
from helpers import MEL, assert_log_det_is_exact, random_log_mel, refused, tiny_flow, tiny_mel, tiny_student, tiny_teacher
from test_score import table

import wavflow
from wavflow.audio_density import check_pair
from wavflow.data import AudioDataModule
from wavflow.flows.linear_prediction import LinearPrediction
from wavflow.synthesis.parallel import ParallelEngine
from wavflow.synthesis.steps import StepEngine
from wavflow.training.distillation import share_upsampler

NO_MEL = {"mel": MEL | {"n_mels": 0}}
BUILDS = {
    "teacher": lambda: tiny_teacher(**NO_MEL),
    "mixture": lambda: tiny_teacher(**NO_MEL, density="mixture_of_logistics"),
    "student": lambda: tiny_student(**NO_MEL),
    "speakers": lambda: tiny_teacher(**NO_MEL, n_speakers=2),
    "unwhitened": lambda: tiny_student(**NO_MEL, whitening=0),
    "smoothing": lambda: tiny_student(**NO_MEL, upsampling="smoothing", group=4),
    "waveglow": lambda: tiny_flow("waveglow", **NO_MEL),
}


def speaker_of(model: wavflow.Vocoder, batch: int = 1) -> torch.Tensor | None:
    return None if model.speakers is None else torch.arange(batch) % 2


@pytest.mark.parametrize("name", ["teacher", "mixture", "student", "speakers"])
def test_the_density_is_exact(name: str) -> None:
    model, audio = BUILDS[name](), 0.1 * torch.randn(1, 1, 32)
    mel, speaker = model.no_mel(32 / 8000), speaker_of(model)

    def to_noise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, whitened = model.whiten(x.squeeze(1), mel)
        z, log_det = model.flow.transform(u, model.conditioning(mel, speaker))
        return z, log_det + whitened

    assert_log_det_is_exact(to_noise, audio)
    z, log_det = to_noise(audio)
    expected = model.flow.base_log_prob(z) + log_det
    torch.testing.assert_close(model.log_prob(audio.squeeze(1), speaker=speaker), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", BUILDS)
def test_every_way_to_draw_is_the_same_and_knows_its_density(name: str) -> None:
    model = BUILDS[name]().float()
    mel = model.no_mel(11 * 16 / 8000, batch=2)
    noise, speaker = model.noise(mel, torch.Generator().manual_seed(1)), speaker_of(model, 2)
    assert mel.shape == (2, 0, 11)
    assert noise.shape == (2, 176)
    audio, log_prob = model.sample_and_log_prob(mel, noise, speaker=speaker)
    assert audio.std() > 1e-3
    kind = {"teacher": StepEngine, "student": ParallelEngine}.get(name)
    assert kind is None or isinstance(model.engine(), kind)
    torch.testing.assert_close(model.sample(mel, noise, speaker=speaker), audio, rtol=1e-3, atol=1e-5)
    again = model.log_prob(audio.detach(), speaker=speaker)
    torch.testing.assert_close(again, log_prob, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["engine", "flow"])
def test_a_stream_is_the_whole(dtype: torch.dtype) -> None:
    model = tiny_student(**NO_MEL).to(dtype)
    mel = model.no_mel(9 * 16 / 8000)
    noise = model.noise(mel)
    for frames in (1, 4):
        pieces = torch.cat(list(model.stream(mel, noise, chunk_frames=frames)), dim=-1)
        torch.testing.assert_close(pieces, model.sample(mel, noise), rtol=0, atol=1e-10)


def test_untrained_it_is_noise_of_the_usual_spectrum_and_level() -> None:
    mel = tiny_mel(n_mels=0, sample_rate=22050, n_fft=1024, win_length=1024, hop_length=256, f_max=8000.0)
    model = tiny_teacher(None, mel=mel.spec, whitening=32)
    nothing = model.no_mel(4.0)
    audio = model.unwhiten(model.noise(nothing).unsqueeze(1), nothing)[0][0]
    assert audio.square().mean().sqrt() == pytest.approx(0.1, rel=0.1)
    windows = audio[: len(audio) // 1024 * 1024].reshape(-1, 1024) * torch.hann_window(1024)
    power = torch.fft.rfft(windows).abs().square().mean(dim=0)
    octave = 10 * torch.log10(power[80:110].mean() / power[160:220].mean())
    assert octave == pytest.approx(6.0, abs=0.7)
    white = torch.distributions.Normal(0.0, audio.std()).log_prob(audio).mean()
    assert model.log_prob(audio[None]).mean() > white + 0.5


def test_the_whitening_is_the_same_for_all_audio() -> None:
    prediction = LinearPrediction(tiny_mel(n_mels=0), 6)
    coefficients, log_gain = prediction.predictor(torch.zeros(2, 0, 3))
    assert coefficients.shape == (2, 12, 6)
    torch.testing.assert_close(coefficients, coefficients[:1, :1].expand(2, 12, 6))
    torch.testing.assert_close(log_gain, log_gain[:1, :1].expand(2, 12))
    assert 1e-3 < log_gain[0, 0].exp() < 0.1


def test_what_the_model_does_not_take_is_refused() -> None:
    model, audio = tiny_teacher(**NO_MEL), 0.1 * torch.randn(1, 48)
    mel = random_log_mel()
    refused(lambda: model.log_prob(audio, mel), r"`mel` must be float \(B, 0, F\).*\(1, 8, 3\): this model takes none")
    refused(lambda: tiny_teacher().log_prob(audio), "`mel` must be given, since this model needs one")
    refused(lambda: model.log_prob(audio[:, :40]), "`mel` has 2 frames of 16 samples")
    refused(lambda: check_pair(tiny_student(), model), "`teacher` was trained on another mel")
    refused(lambda: tiny_mel(n_mels=-1), "`n_mels` must be a whole number >= 0, got -1")


def test_a_file_brings_the_model_back_and_a_student_starts_from_its_teacher(tmp_path: Path) -> None:
    teacher, student = tiny_teacher(**NO_MEL), tiny_student(**NO_MEL)
    share_upsampler(student, teacher)
    mel = teacher.no_mel(0.01)
    torch.testing.assert_close(student.conditioning(mel).frames, teacher.conditioning(mel).frames, rtol=0, atol=0)
    assert student.conditioning(mel).frames.std(dim=1).min() > 0, "each channel has a constant of its own"
    wavflow.save_model(teacher, tmp_path / "teacher.safetensors")
    again = wavflow.load_model(tmp_path / "teacher.safetensors")
    assert again.config == teacher.config
    assert again.mel.n_mels == 0
    audio = 0.1 * torch.randn(1, 160)
    torch.testing.assert_close(again.log_prob(audio), teacher.log_prob(audio), rtol=0, atol=0)


def test_an_item_holds_a_mel_of_no_bands_and_its_audio(tmp_path: Path) -> None:
    sounds = make_sounds(tmp_path, (0.3, 0.01, 0.2))
    batch = next(iter(AudioDataModule(tiny_mel(n_mels=0), sounds, segment_length=1024, batch_size=4).train_dataloader()))
    assert batch["mel"].shape == (4, 0, 64)
    assert batch["audio"].shape == (4, 1024)
    assert batch["audio"].std() > 1e-3


class Chain(NamedTuple):
    """A folder of sounds, and the models that the commands made of it."""

    sounds: Path
    teacher: Path
    student: Path
    options: list[str]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root = tmp_path_factory.mktemp("unconditional")
    sounds = make_sounds(root / "sounds")
    options = [*TRAIN, "mel=null", f"data.path={sounds}"]
    listen = ["net.whitening=8", "callbacks.listen.stepwise_seconds=0.02"]
    succeeds("train", *options, *listen, f"output={root / 'teacher'}")
    teacher, student = (root / stage / "model.safetensors" for stage in ("teacher", "student"))
    pair = ["stage=student", "net.flows=2", f"teacher={teacher}", *options, "~callbacks.listen"]
    is_refused(root, "train", *pair, f"output={root / 'no'}", words="`stage.spectral`|spectral=none stage.power=null")
    succeeds("train", *pair, "spectral=none", "stage.power=null", f"output={student.parent}")
    return Chain(sounds, teacher, student, options)


def test_training_needs_no_mel(chain: Chain) -> None:
    for path in (chain.teacher, chain.student):
        model = wavflow.load_model(path)
        assert (model.mel.n_mels, model.sample_rate, model.hop_length) == (0, 8000, 16)
        assert model.whitening.order == 8
        assert (path.parent / "logs" / "metrics.csv").is_file()
    assert soundfile.info(chain.teacher.parent / "samples" / "step-0000002.wav").frames == 160


def test_synthesis_takes_a_length_and_seeds(chain: Chain, tmp_path: Path) -> None:
    for model in (chain.teacher, chain.student):
        options = [f"model={model}", "seconds=0.1"]
        succeeds("synthesize", *options, "count=2", "seed=3", f"output={tmp_path / 'out'}")
        assert contents(tmp_path / "out") == {"seed-3.wav", "seed-4.wav"}
        first, second = (soundfile.read(tmp_path / "out" / f"seed-{seed}.wav")[0] for seed in (3, 4))
        assert len(first) == len(second) == 800
        assert np.abs(first - second).max() > 1e-3
        succeeds("synthesize", *options, "seed=4", f"output={tmp_path / 'one.wav'}")
        np.testing.assert_array_equal(soundfile.read(tmp_path / "one.wav")[0], second)
    succeeds("synthesize", *options, "seed=4", "stream=true", f"output={tmp_path / 'streamed.wav'}")
    np.testing.assert_array_equal(soundfile.read(tmp_path / "streamed.wav")[0], second)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["seconds=1", "input=a.wav"], "`input` and `seconds` exclude each other, got a.wav and 1"),
        ([], "`input` is needed|or seconds=<value> for a model without a mel"),
        (["seconds=-1"], "`seconds` must be a number above 0.0, got -1"),
        (["seconds=1", "count=0"], "`count` must be a whole number of at least 1, got 0"),
        (["seconds=1", "count=2", "output=a.wav"], "`output` must be a folder for 2 clips, got a.wav"),
    ],
)
def test_wrong_calls_of_synthesis_are_refused(chain: Chain, tmp_path: Path, options: list[str], words: str) -> None:
    options = [f"model={chain.student}", f"output={tmp_path}", *options]
    is_refused(tmp_path, "synthesize", *options, words=words)


def test_a_model_is_given_what_it_draws_from(chain: Chain, tmp_path: Path) -> None:
    wavflow.save_model(tiny_student(), tmp_path / "with.safetensors")
    words = "`seconds` must be left out, since this model makes audio as long as its mel"
    is_refused(tmp_path, "synthesize", f"model={tmp_path / 'with.safetensors'}", "seconds=1", words=words)
    words = "`input` must be left out, since this model takes no mel, got|say seconds=5 instead"
    is_refused(tmp_path, "synthesize", f"model={chain.student}", f"input={chain.sounds}", f"output={tmp_path}", words=words)


def test_scores_rank_and_show_recordings(chain: Chain, tmp_path: Path) -> None:
    succeeds("score", f"model={chain.teacher}", f"input={chain.sounds}", f"output={tmp_path}", "pictures=1")
    rows = table(tmp_path / "scores.csv")
    assert len(rows) == 4
    assert all(4 < float(row["bits/sample"]) < 16 for row in rows)
    assert len(list((tmp_path / "pictures").iterdir())) == 1


def test_compression_is_lossless_and_tells_no_mel(chain: Chain, tmp_path: Path) -> None:
    source, coded, again = chain.sounds / "0.wav", tmp_path / "a.wavflow", tmp_path / "a.wav"
    outcome = succeeds("compress", f"model={chain.teacher}", f"input={source}", f"output={coded}")
    assert "0.000 of mel" in outcome.out
    succeeds("compress", f"model={chain.teacher}", f"input={coded}", f"output={again}")
    np.testing.assert_array_equal(*(soundfile.read(path, dtype="int16")[0] for path in (again, source)))


def test_evaluation_keeps_what_needs_no_pair(chain: Chain, tmp_path: Path) -> None:
    data = [option for option in chain.options if option.startswith(("data=", "data.path", "audio."))]
    models = [f"teacher={chain.teacher}", f"student={chain.student}"]
    succeeds("evaluate", *models, *data, "data.test=0.5", "clips=2", "jobs=1", f"output={tmp_path}")
    report = (tmp_path / "report.md").read_text()
    for kept in ("level dB", "teacher", "student", "FLAC", "whitening alone", "untrained student", "no listening test"):
        assert kept in report
    for left_out in ("M-STFT", "ESTOI", "Griffin-Lim", "random phase", "voicing", "DIO"):
        assert left_out not in report
    assert "report.html" in contents(tmp_path)
