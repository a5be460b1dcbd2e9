"""Every option of every configuration group composes, and what it describes can be built."""

import re
from datetime import timedelta
from importlib import resources
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import tiny_teacher
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from wavflow.commands.train import net_config, time_limit
from wavflow.data import AudioDataModule
from wavflow.mel import MelSpectrogram
from wavflow.models import build
from wavflow.training import DistillationTask, LikelihoodTask, TextTask
from wavflow.vocoder import PASSES

CONF = resources.files("wavflow.conf")
GROUPS = re.findall(r"^  - (\w+):", (CONF / "train.yaml").read_text(), flags=re.MULTILINE)
OPTIONS = [(g, f.name.removesuffix(".yaml")) for g in GROUPS for f in (CONF / g).iterdir() if f.name.endswith(".yaml")]
SMALL = ["net.layers=2", "net.channels=4", "net.features=4"]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("wavflow.conf", version_base="1.3"):
        return compose("train", ["output=out", *overrides])


def options_of(group: str) -> list[str]:
    return [option for name, option in OPTIONS if name == group]


def plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def test_the_groups_are_those_that_a_user_reads_of() -> None:
    assert set(GROUPS) >= {"audio", "data", "stage", "net", "spectral", "trainer", "callbacks"}
    assert len(OPTIONS) >= 2 * len(GROUPS) - 2
    assert {"cpu_small", "cpu_hours", "cpu_fast", "lj_h200"} <= set(options_of("experiment"))


# Those of audio and spectral compose whole in tests below.
@pytest.mark.parametrize(("group", "option"), [each for each in OPTIONS if each[0] not in ("audio", "spectral")])
def test_option_composes_and_leaves_nothing_open(group: str, option: str) -> None:
    with_path = ("folder", "shards", "ljspeech", "vctk", "libritts", "cmuarctic", "yesno", "wine", "csv")
    path = ["data.path=wavs"] if option in with_path or group == "experiment" else []
    assert plain(composed(f"{group}={option}", *path)).keys() >= set(GROUPS) - {"experiment"}


@pytest.mark.parametrize("option", options_of("audio"))
def test_audio_is_a_mel_spectrogram_and_a_net_is_built_on_it(option: str) -> None:
    cfg = composed(f"audio={option}", *SMALL)
    assert build(plain(cfg)["net"]).mel.spec == MelSpectrogram(**cfg.audio).spec == plain(cfg)["audio"]


@pytest.mark.parametrize("option", [option for option in options_of("net") if option != "text"])
def test_net_is_built_and_is_of_its_stage(option: str) -> None:
    stage = option.split("_")[0]
    stage = stage if stage in ("teacher", "student") else "flow"
    net = build(plain(composed(f"stage={stage}", f"net={option}", *SMALL))["net"])
    assert net.draws_in_parallel == (stage != "teacher")
    assert net.scores_in_parallel == (stage != "student")


def test_a_text_model_is_of_its_stage() -> None:
    cfg = composed("stage=text", "net.channels=8", "net.block_channels=8", "net.blocks=1", "net.symbols=[a,b]")
    model = build(plain(cfg)["net"])
    assert isinstance(instantiate(cfg.stage, net=model), TextTask)
    assert model.numbers == {"a": 0, "b": 1}


def test_stage_brings_its_net() -> None:
    assert composed("stage=student").net._target_ == "wavflow.models.student"
    assert composed("stage=student", "net=student_small").net.channels == 32
    assert composed().net._target_ == "wavflow.models.teacher"
    assert composed("stage=flow").net._target_ == "wavflow.models.waveglow"
    assert composed("stage=flow", "net=waveflow_small").net.channels == 32


def test_the_teachers_stage_becomes_a_task() -> None:
    cfg = composed(*SMALL)
    teacher = build(plain(cfg)["net"])
    task = instantiate(cfg.stage, net=teacher)
    assert isinstance(task, LikelihoodTask)
    assert isinstance(task.optimizer(teacher.parameters()), torch.optim.Adam)


@pytest.mark.parametrize("spectral", options_of("spectral"))
def test_the_students_stage_becomes_a_task(spectral: str) -> None:
    cfg = composed("stage=student", f"spectral={spectral}", "stage.contrastive=null", *SMALL)
    teacher = tiny_teacher(mel=plain(cfg)["audio"], whitening=5)
    net = build(net_config(plain(cfg)["net"], teacher))
    task = instantiate(cfg.stage, net=net, teacher=teacher)
    assert isinstance(task, DistillationTask)
    assert (task.spectral is None) == (spectral == "none")
    assert net.whitening.order == 5, "a student takes its whitening from its teacher, not from its own defaults"


def test_bundled_data_brings_its_sample_rate_unless_another_is_named() -> None:
    assert composed().audio.sample_rate == composed("data=bundled").audio.sample_rate == 16000
    assert composed("audio=24k").audio.sample_rate == composed("data=bundled", "audio=24k").audio.sample_rate == 24000
    assert composed("data=folder", "data.path=wavs").audio.sample_rate == 22050


def test_data_trainer_and_callbacks_are_built() -> None:
    cfg = composed("trainer.max_steps=3", "trainer.accelerator=cpu")
    data = instantiate(cfg.data, mel=MelSpectrogram(**cfg.audio))
    assert isinstance(data, AudioDataModule)
    assert data.segment_length == 8192
    callbacks = instantiate(cfg.callbacks)
    trainer = instantiate(cfg.trainer, logger=False, callbacks=list(callbacks.values()), enable_progress_bar=False)
    assert isinstance(trainer, pl.Trainer)
    assert trainer.max_steps == 3
    assert list(callbacks).index("save") < list(callbacks).index("ema"), "see wavflow.callbacks.SaveModel"


@pytest.mark.parametrize("experiment", ["lj_h200", "cpu_small", "cpu_hours", "cpu_fast"])
@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_an_experiment_is_a_recipe_for_each_stage(experiment: str, stage: str) -> None:
    options = [f"experiment={experiment}", f"stage={stage}", "data.path=wavs"]
    cfg = composed(*options)
    assert cfg.net._target_ == f"wavflow.models.{stage}"
    assert cfg.data.segment_length % cfg.audio.hop_length == 0
    assert cfg.audio.sample_rate == 22050, "data=bundled would bring 16 kHz"
    assert cfg.data.resident == (experiment == "lj_h200")
    assert time_limit(cfg) == timedelta(minutes=cfg.minutes)
    typed = composed(*options, "net.channels=4", "data.batch_size=3", "minutes=0.5")
    assert (typed.net.channels, typed.data.batch_size) == (4, 3), "what is typed wins"
    assert time_limit(typed) == timedelta(seconds=30)


def test_an_interval_of_the_trainer_goes_before_the_minutes() -> None:
    assert time_limit(composed("minutes=0.5", "trainer.max_time=00:01:00:00")) == "00:01:00:00"


def test_commands_have_the_passes_of_python() -> None:
    files = (file for file in resources.files("wavflow.conf").iterdir() if file.name.endswith(".yaml"))
    configs = [OmegaConf.create(file.read_text()) for file in files]
    assert [cfg.passes for cfg in configs if "passes" in cfg] == [PASSES] * 4
