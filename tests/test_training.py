"""Both stages by Lightning, on tiny nets and a tiny folder of sound."""

import math
import time
from collections.abc import Callable
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile as sf
import torch
from commands import curves, make_sounds
from helpers import VOICE, refused, voiced_log_mel
from pytorch_lightning.callbacks import Checkpoint, Timer
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.optim.swa_utils import AveragedModel

from wavflow import MelSpectrogram, models
from wavflow.audio_density import check_pair
from wavflow.callbacks import Listen, MovingAverage, SaveModel, SkipNonFinite, warm_ema
from wavflow.checkpoints import KeepCheckpoint
from wavflow.data import AudioDataModule
from wavflow.losses import ContrastiveDivergence, DensityDistillation, MultiResolutionSTFTLoss, PowerLoss
from wavflow.models import fingerprint
from wavflow.progress import ProgressBar
from wavflow.training import DistillationTask, LikelihoodTask, Task
from wavflow.training.measures import clamp_fraction, interval
from wavflow.vocoder import Vocoder

pytestmark = pytest.mark.usefixtures("one_thread")
MEL = {"sample_rate": 8000, "n_fft": 256, "hop_length": 64, "win_length": 256, "n_mels": 12, "f_max": 4000.0}
TINY = {"mel": MEL, "layers": 3, "channels": 8, "kernel_size": 2, "dilation_cycle": 3, "features": 6, "whitening": 8}
SPECTRAL = partial(MultiResolutionSTFTLoss, (128, 64), (32, 16), (128, 64))


@pytest.fixture(autouse=True)
def _float32() -> None:
    torch.set_default_dtype(torch.float32)  # conftest.py sets it back


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sounds(tmp_path_factory.mktemp("sounds"), (0.4,) * 6)


teacher_net = partial(models.teacher, **TINY)
student_net = partial(models.student, **TINY, flows=2)


def randomized(net: Vocoder) -> Vocoder:
    """A net in whose last layers something stands."""
    with torch.no_grad():
        for parameter in net.flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def likelihood(net: Vocoder | None = None, **arguments: Any) -> LikelihoodTask:
    adam = partial(torch.optim.Adam, lr=1e-2)
    return LikelihoodTask(net or teacher_net(), adam, **{"warmup_steps": 3} | arguments)


def distillation(
    net: Vocoder | None = None, teacher: Vocoder | None = None, form: str = "closed", **arguments: Any
) -> DistillationTask:
    net, teacher = net or student_net(), teacher or randomized(teacher_net())
    arguments = {"spectral": SPECTRAL(), "warmup_steps": 3} | arguments
    loss = DensityDistillation(form, regularization=4.0)
    return DistillationTask(net, teacher, loss, partial(torch.optim.Adam, lr=1e-2), **arguments)


def data(folder: Path, task: Task, **arguments: Any) -> AudioDataModule:
    shape = {"segment_length": 512, "batch_size": 4, "validation": 0.3, "test": 0.2}
    return AudioDataModule(task.net.mel, folder, **shape | arguments)


def trainer(path: Path, max_steps: int, callbacks: list[pl.Callback] | None = None, **arguments: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    often = {"log_every_n_steps": 1, "check_val_every_n_epoch": None, "val_check_interval": 10}
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        gradient_clip_val=1.0,
        logger=CSVLogger(path, name="", version="logs"),
        callbacks=callbacks or [],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks or []),
        **quiet | often | arguments,
    )


def columns(path: Path) -> dict[str, list[float]]:
    """What was logged, by name."""
    found: dict[str, list[float]] = {}
    for row in curves(path):
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


class AfterEachStep(pl.Callback):
    """Calls a function with the task after each training step, and keeps what it returns."""

    def __init__(self, look: Callable[[Task], Any]) -> None:
        self.look, self.seen = look, []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Task, *_: Any) -> None:
        self.seen.append(self.look(pl_module))


def weights(net: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


# --- the two stages


def test_maximum_likelihood_gains_and_logs_its_terms(folder: Path, tmp_path: Path) -> None:
    task = likelihood()
    trainer(tmp_path, 40).fit(task, data(folder, task))
    logged = columns(tmp_path)
    assert logged.keys() >= {"train/loss", "train/nats", "train/bits", "train/clamp_fraction", "validation/nats"}
    assert np.mean(logged["train/nats"][-5:]) > np.mean(logged["train/nats"][:5]) + 0.1
    assert logged["validation/nats"][-1] > logged["validation/nats"][0]
    assert logged["train/bits"][-1] == pytest.approx((math.log(32768) - logged["train/nats"][-1]) / math.log(2), 1e-4)
    assert logged["train/loss"] == [-nats for nats in logged["train/nats"]]


@pytest.mark.parametrize("form", ["closed", "rao_blackwell", "path"])
def test_distillation_lowers_its_loss_and_logs_its_terms(form: str, folder: Path, tmp_path: Path) -> None:
    weights_of = {"density_weight": 1.0, "spectral_weight": 0.1, "contrastive_weight": 0.01}
    task = distillation(form=form, contrastive=ContrastiveDivergence(), **weights_of)
    runs = trainer(tmp_path, 30)
    before = runs.validate(task, data(folder, task), verbose=False)[0]
    runs.fit(task, data(folder, task))
    after = runs.validate(task, data(folder, task), verbose=False)[0]
    logged = columns(tmp_path)
    terms = {"loss", "kl", "entropy", "cross_entropy", "regularizer", "clamp_fraction", "kl_interval", "rms_ratio"}
    assert logged.keys() >= {f"train/{term}" for term in terms | {"spectral", "contrastive"}}
    assert logged.keys() >= {f"validation/{term}" for term in terms | {"spectral"}}
    assert after["validation/loss"] < before["validation/loss"] - 0.03
    assert after["validation/kl"] < 0.75 * before["validation/kl"]
    for term, density_weight in (("kl", 1.0), ("regularizer", 1.0), ("spectral", 0.1), ("contrastive", -0.01)):
        logged["train/loss"] = list(np.subtract(logged["train/loss"], density_weight * np.array(logged[f"train/{term}"])))
    np.testing.assert_allclose(logged["train/loss"], 0.0, atol=1e-4)  # nothing else is in the loss
    assert (np.array(logged["train/regularizer"]) > 0).all() == (form == "closed")


@pytest.mark.parametrize("make", [likelihood, distillation])
def test_autocast_to_bfloat16_keeps_losses_and_weights_in_float32(
    make: Callable[[], Task], folder: Path, tmp_path: Path
) -> None:
    task = make()
    losses = []
    step = task.training_step
    task.training_step = lambda *batch: losses.append(step(*batch)) or losses[-1]
    runs = trainer(tmp_path, 4, precision="bf16-mixed")
    runs.fit(task, data(folder, task))
    assert len(losses) == 4
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)
    assert all(value.dtype == torch.float32 for value in runs.callback_metrics.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in task.net.parameters())


def test_rms_ratio_is_that_of_the_student_to_the_recording(folder: Path) -> None:
    task = distillation()
    batch = next(iter(data(folder, task).val_dataloader()))
    noise = task.net.noise(batch["mel"])
    ratio = task._values(batch, noise)[0]["rms_ratio"]
    louder = task._values(batch | {"audio": 2.0 * batch["audio"]}, noise)[0]["rms_ratio"]
    drawn = task.net.sample(batch["mel"], noise, passes=0)
    torch.testing.assert_close(ratio, drawn.square().mean().sqrt() / batch["audio"].square().mean().sqrt())
    torch.testing.assert_close(louder, ratio / 2)


def test_the_spectral_loss_hears_the_equalized_draw_and_the_power_loss_the_draw_itself() -> None:
    batch = {"audio": 0.1 * torch.randn(2, 640), "mask": torch.ones(2, 640)}
    loss = PowerLoss()
    task = distillation(power=loss, spectral=lambda drawn, audio: (drawn - audio).abs().mean(), passes=2)
    batch["mel"] = task.net.mel(batch["audio"])
    noise = task.net.noise(batch["mel"])
    values, _ = task._values(batch, noise)
    drawn = task.net.sample(batch["mel"], noise, passes=0)
    equalized = task.net.equalizer(drawn, batch["mel"], 2)
    torch.testing.assert_close(values["spectral"], (equalized - batch["audio"]).abs().mean())
    torch.testing.assert_close(values["power"], loss(drawn, batch["audio"]))
    assert (equalized - drawn).abs().max() > 1e-3


def test_clamp_fraction_and_interval() -> None:
    log_slope, mask = torch.tensor([[0.0, -8.9, 8.9, 8.9]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert clamp_fraction(log_slope, mask) == pytest.approx(2 / 3)
    values = torch.randn(10_000)
    assert interval(values) == pytest.approx(1.96 / 100, rel=0.05)
    assert interval(values[:1]).isnan()


# --- the frozen teacher


def test_teacher_is_frozen_and_no_part_of_the_task(folder: Path, tmp_path: Path) -> None:
    task = distillation()
    teacher = task.teacher
    before, student_before = fingerprint(teacher), weights(task.net)
    keep = KeepCheckpoint(tmp_path / "checkpoints")
    runs = trainer(tmp_path, 3, [keep])
    runs.fit(task, data(folder, task))
    assert fingerprint(teacher) == before
    assert not torch.equal(weights(task.net), student_before)
    assert not teacher.training
    theirs = {id(parameter) for parameter in teacher.parameters()}
    assert theirs.isdisjoint(id(parameter) for parameter in task.parameters())
    assert theirs.isdisjoint(id(p) for group in runs.optimizers[0].param_groups for p in group["params"])
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == {f"net.{name}" for name in task.net.state_dict()}


def test_a_teacher_that_changes_is_noticed(folder: Path, tmp_path: Path) -> None:
    task = distillation()
    meddle = AfterEachStep(lambda task: next(task.teacher.parameters()).data.add_(1e-6))
    with pytest.raises(RuntimeError, match="frozen teacher's weights changed"):
        trainer(tmp_path, 2, [meddle]).fit(task, data(folder, task))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mel": MEL | {"n_mels": 10}}, "another mel: .*'n_mels': 12.*'n_mels': 10"),
        ({"whitening": 0}, r"whitens by \{'order': 8.*\}, the student by None"),
        ({"whitening": 6}, r"'order': 8.*the student by \{'order': 6"),
        ({"n_speakers": 2}, "knows 0 speakers, the student 2"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    refused(lambda: distillation(student_net(**arguments)), f"`teacher`.*{message}")
    refused(lambda: check_pair(student_net(), teacher_net(**arguments)), "`teacher`")


def test_an_estimator_that_does_not_fit_is_refused_before_training() -> None:
    refused(lambda: distillation(teacher=teacher_net(density="mixture_of_logistics")), "use 'rao_blackwell'")


def test_student_starts_from_the_teachers_upsampler_and_speakers() -> None:
    student, teacher = student_net(n_speakers=3), teacher_net(n_speakers=3)
    assert fingerprint(student.upsampler) != fingerprint(teacher.upsampler)
    distillation(student, teacher)
    assert fingerprint(student.upsampler) == fingerprint(teacher.upsampler)
    assert fingerprint(student.speakers) == fingerprint(teacher.speakers)
    narrow = student_net(features=4)
    before = fingerprint(narrow.upsampler)
    distillation(narrow, teacher_net())
    assert fingerprint(narrow.upsampler) == before


# --- the first samples of a crop


def test_first_samples_of_a_crop_are_left_out_of_the_loss(folder: Path) -> None:
    """Cut in the middle of a loud sound, a crop's first samples cannot be predicted: zeros stand for what was before."""
    task = likelihood()
    batches = list(islice(data(folder, task).train_dataloader(), 20))
    batch = {name: torch.cat([each[name] for each in batches]) for name in ("audio", "mel", "mask")}
    known = task._known(batch)
    assert (known["mask"][:, :8] == 0).all()
    assert (known["mask"][:, 8:] == 1).all()
    assert (batch["mask"] == 1).all(), "the batch itself stays as it was"
    with torch.no_grad():
        u, log_det = task.net.whiten(batch["audio"], batch["mel"])
        nats = (task.net.flow.base_log_prob(u) + log_det).mean(dim=0)
        cost = task._values(known)["nats"] - task._values(batch)["nats"]
    assert nats[:8].mean() < nats[8:].mean() - 0.4
    assert cost > 0.4 * 8 / 512  # what that is in the mean over a crop of 512
    torch.testing.assert_close(cost, nats[8:].mean() - nats.mean(), rtol=1e-3, atol=1e-3)


def test_what_the_loss_counts_of_a_crop_is_whitened_as_in_the_whole_file() -> None:
    """The comb looks back a whole period of a low voice, much further than the linear prediction."""
    task, hop = likelihood(teacher_net(mel=VOICE)), VOICE["hop_length"]
    mel, audio = voiced_log_mel(MelSpectrogram(**VOICE), 40), torch.randn(1, 40 * hop)
    crop = {"audio": audio[:, 20 * hop :], "mel": mel[..., 20:], "mask": torch.ones(1, 20 * hop)}
    known = task._known(crop)["mask"]
    whole, part = task.net.whiten(audio, mel)[0][..., 20 * hop :], task.net.whiten(crop["audio"], crop["mel"])[0]
    off = (whole - part).abs()[:, 0, hop:-hop]  # interpolation needs the frame beside the first and the last
    assert (off * known[:, hop:-hop]).max() < 1e-12
    assert off.max() > 1e-3
    assert (known == 1).sum() == 20 * hop - task.net.whitening.context_of("forward")[0]
    with pytest.raises(ValueError, match=r"`data.segment_length` must be above \d+, .*got 64"):
        task._known({name: values[..., : 1 if name == "mel" else hop] for name, values in crop.items()})


# --- learning rate, averages, files


def test_learning_rate_rises_and_decays_to_the_end_of_the_budget(folder: Path, tmp_path: Path) -> None:
    task = likelihood(warmup_steps=5, final_fraction=0.1)
    rates = AfterEachStep(lambda task: task.trainer.optimizers[0].param_groups[0]["lr"])
    trainer(tmp_path, 20, [rates]).fit(task, data(folder, task))
    factors = np.array([1.0 / 5, *np.array(rates.seen) / 1e-2])  # before step 0, 1, ... 20
    cosine = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(21) / 20))
    np.testing.assert_allclose(factors[1:], (np.minimum(1, np.arange(1, 22) / 5) * cosine)[1:], rtol=1e-6)
    assert factors[-1] == pytest.approx(0.1)


def test_learning_rate_follows_the_clock_where_time_is_the_budget(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Timer(duration={"minutes": 10})
    task = likelihood(warmup_steps=0, final_fraction=0.0)
    trainer(tmp_path, -1, [clock], max_epochs=1, limit_train_batches=1).fit(task, data(folder, task))
    monkeypatch.setattr(clock, "time_elapsed", lambda: 450.0)
    monkeypatch.setattr(clock, "time_remaining", lambda: 150.0)
    assert task._learning_rate_factor(1) == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    monkeypatch.setattr(clock, "time_remaining", lambda: -1.0)  # a last step may end after the bell
    assert task._learning_rate_factor(1) == pytest.approx(0.0)


def ema_of_a_ramp(average: Callable[..., None], updates: int) -> float:
    weight = nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(weight, multi_avg_fn=average)
    for value in range(updates):
        nn.init.constant_(weight.weight, value)
        averaged.update_parameters(weight)
    return float(averaged.module.weight.detach())


def test_ema_lies_near_the_later_weights() -> None:
    assert 60 < ema_of_a_ramp(warm_ema(0.9), 101) < 100
    # A long memory is short at first: 0.999 alone would stand at 4.8.
    assert ema_of_a_ramp(warm_ema(0.999), 101) > 60
    fading = warm_ema(0.9)
    assert ema_of_a_ramp(lambda averaged, current, n: fading(averaged, current, 0 * n), 101) > 98, "decay .1 all along"


def test_model_file_holds_the_averaged_weights(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    steps = AfterEachStep(lambda task: weights(task.net))
    in_between = AfterEachStep(lambda task: weights(models.load_model(path)) if path.exists() else None)
    task = likelihood()
    average = MovingAverage(0.999)
    runs = trainer(tmp_path, 12, [steps, in_between, SaveModel(str(path)), average])
    runs.fit(task, data(folder, task))
    averages = [steps.seen[0]]
    for n, weight in enumerate(steps.seen[1:], start=1):
        decay = (1 + n) / (10 + n)
        averages.append(decay * averages[-1] + (1 - decay) * weight)
    model = models.load_model(path)
    torch.testing.assert_close(weights(model), averages[-1])
    torch.testing.assert_close(weights(task.net), averages[-1])
    assert not torch.allclose(averages[-1], steps.seen[-1], rtol=1e-3)
    torch.testing.assert_close(in_between.seen[10], averages[9])  # written by the validation after step 10
    assert model.info["steps"] == 12
    assert model.info["stage"] == "LikelihoodTask"
    assert 0 < model.info["seconds"] < 600
    assert not list(tmp_path.glob(".*"))


def test_resume_goes_on_where_the_last_checkpoint_stood(folder: Path, tmp_path: Path) -> None:
    teacher = randomized(teacher_net())

    def run(max_steps: int, resume: Path | None = None) -> tuple[DistillationTask, AfterEachStep]:
        task = distillation(teacher=teacher)
        look = AfterEachStep(lambda task: (task.global_step, task.trainer.optimizers[0].param_groups[0]["lr"]))
        checkpoint = KeepCheckpoint(tmp_path / "checkpoints")
        average = MovingAverage()
        runs = trainer(tmp_path / str(max_steps), max_steps, [look, average, checkpoint])
        runs.fit(task, data(folder, task), ckpt_path=resume, weights_only=resume is not None)
        step = {float(state["step"]) for state in runs.optimizers[0].state.values()}
        assert step == {max_steps}, "the optimizer goes on, too"
        assert average._average_model.n_averaged == max_steps
        return task, look

    run(5)
    task, look = run(9, tmp_path / "checkpoints" / "last.ckpt")
    assert [step for step, _ in look.seen] == [6, 7, 8, 9]
    wanted = [1e-2 * task._learning_rate_factor(step) for step in (6, 7, 8, 9)]
    assert [rate for _, rate in look.seen] == pytest.approx(wanted)


def test_model_file_counts_the_seconds_of_all_pieces_of_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("wavflow.callbacks.time.monotonic", lambda: now[0])

    def run(max_steps: int, resume: Path | None = None) -> float:
        task, path = likelihood(), tmp_path / "model.safetensors"
        save, checkpoint = SaveModel(str(path)), KeepCheckpoint(tmp_path / "checkpoints")
        now[0] += 500.0  # before and between the pieces: not counted
        tick = AfterEachStep(lambda _: now.__setitem__(0, now[0] + 3.0))
        runs = trainer(tmp_path / str(max_steps), max_steps, [tick, save, checkpoint], val_check_interval=2)
        runs.fit(task, data(folder, task), ckpt_path=resume, weights_only=resume is not None)
        return models.load_model(path).info["seconds"]

    assert run(2) == 6.0
    assert run(4, tmp_path / "checkpoints" / "last.ckpt") == 12.0


@pytest.mark.parametrize("make", [likelihood, distillation])
def test_listen_draws_the_same_clip_each_time(make: Callable[[], Task], folder: Path, tmp_path: Path) -> None:
    task = make()
    listen = Listen(str(tmp_path / "samples"), seconds=0.2, stepwise_seconds=0.05)
    trainer(tmp_path, 4, [listen], val_check_interval=2).fit(task, data(folder, task))
    names = {path.name for path in (tmp_path / "samples").iterdir()}
    assert names == {f"step-000000{step}.{ending}" for step in (2, 4) for ending in ("wav", "png")}
    length = sf.info(tmp_path / "samples" / "step-0000004.wav").frames
    assert length == (0.2 if task.net.draws_in_parallel else 0.05) * 8000 // 64 * 64


# --- what keeps a run going (more of it in tests/faults)


def test_checkpoints_are_taken_by_the_clock_and_after_validations(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saved = [0.0], []
    monkeypatch.setattr("wavflow.callbacks.time.monotonic", lambda: now[0])
    tick = AfterEachStep(lambda _: now.__setitem__(0, now[0] + 60.0))
    keep = KeepCheckpoint(tmp_path / "checkpoints", minutes=3.0)
    task = likelihood()
    runs = trainer(tmp_path, 14, [tick, keep])  # validates after step 10
    save = runs.save_checkpoint
    monkeypatch.setattr(runs, "save_checkpoint", lambda path: saved.append(task.global_step) or save(path))
    runs.fit(task, data(folder, task))
    assert saved == [3, 6, 9, 10, 13, 14]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    for name, step in (("previous", 13), ("last", 14)):
        assert torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["global_step"] == step


def test_no_checkpoint_is_taken_among_the_batches_of_a_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    task = likelihood()
    runs = trainer(tmp_path, 4, [KeepCheckpoint(tmp_path / "checkpoints", minutes=0.0)], accumulate_grad_batches=3)
    save = runs.save_checkpoint
    monkeypatch.setattr(runs, "save_checkpoint", lambda path: batches.append(runs.fit_loop.total_batch_idx + 1) or save(path))
    runs.fit(task, data(folder, task))
    assert batches == [3, 6, 9, 12]


@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_leaves_the_weights(what: str, folder: Path, tmp_path: Path) -> None:
    task = likelihood()
    step, parameter = task.training_step, next(task.net.flow.parameters())
    bad = {2, 5, 6}
    if what == "gradient":
        parameter.register_hook(lambda gradient: gradient / (task.global_step not in bad))
    else:  # the gradient of inf is finite
        spoilt = {"nan": lambda loss: loss * torch.nan, "inf": lambda loss: loss + torch.inf}[what]
        task.training_step = lambda *batch: spoilt(step(*batch)) if task.global_step in bad else step(*batch)
    skip, look = SkipNonFinite(limit=3), AfterEachStep(lambda task: weights(task.net))
    with pytest.warns(
        UserWarning, match=r"is skipped, the [12]\. so far: the loss or gradient of step [25] is not finite .*\.wav from 0\."
    ) as caught:
        trainer(tmp_path, 8, [skip, look]).fit(task, data(folder, task))
    assert [torch.equal(one, two) for one, two in pairwise(look.seen)] == [False, True, False, False, True, True, False]
    assert all(each.isfinite().all() for each in look.seen)
    assert columns(tmp_path)["train/skipped"] == [0, 0, 1, 1, 1, 2, 3, 3]
    assert len([each for each in caught if "skipped" in str(each.message)]) == 2, "one for all in a row"
    refused(lambda: SkipNonFinite(limit=0), "`limit` must be at least 1, got 0")


@pytest.mark.filterwarnings("ignore:A step is skipped")
def test_the_count_of_skipped_steps_goes_on_in_a_resumed_run(folder: Path, tmp_path: Path) -> None:
    def run(max_steps: int, resume: Path | None) -> None:
        task = likelihood()
        step = task.training_step
        task.training_step = lambda *batch: step(*batch) * (torch.nan if task.global_step > 0 else 1.0)
        keep = KeepCheckpoint(tmp_path / "checkpoints")
        runs = trainer(tmp_path / str(max_steps), max_steps, [SkipNonFinite(limit=4), keep])
        runs.fit(task, data(folder, task), ckpt_path=resume, weights_only=resume is not None)

    run(4, None)
    with pytest.raises(ValueError, match=r"4 steps in a row .* of step 4 is not finite \(loss nan.*clamp fraction 0"):
        run(9, tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("make", [likelihood, distillation])
def test_what_a_step_draws_depends_on_seed_and_batch_alone(make: Callable[..., Task], folder: Path, tmp_path: Path) -> None:
    def drawn(name: str, **arguments: Any) -> torch.Tensor:
        task = make(**arguments)
        step, seen = task.training_step, []
        task.training_step = lambda *batch: seen.append(torch.randn(3)) or step(*batch)
        trainer(tmp_path / name, 3).fit(task, data(folder, task))
        return torch.stack(seen)

    one = drawn("one", seed=1)
    torch.rand(5)
    assert torch.equal(drawn("again", seed=1), one)
    assert len(torch.cat([one, drawn("other", seed=2)]).unique()) == 18


def test_the_bar_counts_to_the_end_of_training(folder: Path, tmp_path: Path) -> None:
    bar, task = ProgressBar(), likelihood()
    seen = AfterEachStep(lambda _: (bar.train_progress_bar.n, bar.train_progress_bar.total))
    trainer(tmp_path, 2, [bar, seen], accumulate_grad_batches=2, enable_progress_bar=True).fit(task, data(folder, task))
    assert seen.seen == [(0, 2), (1, 2), (1, 2), (2, 2)]


def test_the_bar_counts_minutes_where_time_is_the_limit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bar, task = ProgressBar(), likelihood()
    seen = AfterEachStep(lambda _: (bar.train_progress_bar.n, bar.train_progress_bar.total))
    runs = trainer(tmp_path, 3, [bar, seen], max_time="00:02:00:00", enable_progress_bar=True)
    runs.fit(task, data(folder, task))
    assert [total for _, total in seen.seen] == pytest.approx([120.0] * 3, abs=0.01)
    assert all(0 < n < 10 for n, _ in seen.seen)
    assert "of 120.0 minutes, step=3" in capsys.readouterr().out
    late = AfterEachStep(lambda _: time.sleep(0.6))
    trainer(tmp_path / "late", 9, [late, bar], max_time="00:00:00:01", enable_progress_bar=True).fit(task, data(folder, task))
    assert len(late.seen) < 9
    assert bar.train_progress_bar.n == bar.train_progress_bar.total
