"""What `python -m wavflow.train` does: trains one stage."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from wavflow.arguments import about
from wavflow.audio_files import counted
from wavflow.checkpoints import Stopped
from wavflow.cli import given, newest_model, number, output_folder
from wavflow.data.batches import Batches
from wavflow.data.split import Split, read_split
from wavflow.data.utterances import TextDataModule
from wavflow.devices import pick_precision
from wavflow.files import sweep, write_text
from wavflow.mel import MelSpectrogram
from wavflow.models import Model, build, load_model
from wavflow.options import as_dict
from wavflow.progress import OneEventFile, ProgressBar, opening
from wavflow.record import changed_options, newest_run, read_record, run_of
from wavflow.resume import Checkpoint, check_unused, find_checkpoint, keep_curves
from wavflow.speakers import count_speakers, speaker_names
from wavflow.text_to_mel import TextToMel
from wavflow.vocoder import Vocoder


def run(cfg: DictConfig) -> None:
    """Trains one stage and prints where the results are."""
    pl.seed_everything(number("seed", cfg.seed, 0), workers=True, verbose=False)
    limit = time_limit(cfg)
    torch.set_float32_matmul_precision("high")
    if cfg.mel is None:
        cfg.audio.n_mels = 0
    earlier = run_to_go_on_with(cfg)
    record = read_record(earlier)
    teacher, start = load_models(cfg, record)
    config = chosen_net(cfg, record, start, teacher)
    if start is not None:
        check_start(cfg, start, teacher)
    with about("audio", *cfg.audio, within=True):
        mel = MelSpectrogram(**config["mel"])
    if speaks(cfg):
        if not cfg.data._target_.endswith(".AudioDataModule"):
            raise ValueError("`data` must be audio files with texts for stage=text: take data=folder, or a corpus.")
        cfg.data._target_ = "wavflow.data.TextDataModule"
    data = instantiate(cfg.data, mel=mel)
    keep_split(data, earlier, start or teacher)
    if config["n_speakers"] and teacher is None:
        config["n_speakers"] = count_speakers(config["n_speakers"], data.speakers)
    if isinstance(data, TextDataModule):
        with about("net", "alphabet"):
            config["symbols"] = data.use_symbols(config["alphabet"], config["symbols"] or None, config["states"])
    cfg.net = config
    changed = changed_options(record, as_dict(cfg)) if record else []
    with about("net", *config, within=True):
        net = build(config)
    task = instantiate(cfg.stage, net=net, seed=cfg.seed, **({} if teacher is None else {"teacher": teacher}))
    if start is not None:  # only now: a new student's task takes over parts of the teacher's
        take_weights(net, start, cfg)
    data.setup()
    if net.speakers is not None:
        net.info["speakers"] = data.speakers if teacher is None else speaker_names(teacher)
        data.number_speakers(net.info["speakers"])
    net.info["split"] = {part: names for part, names in data.split.items() if part != "train"}
    resume = find_checkpoint(cfg.resume, cfg.output, task)
    trainer = make_trainer(cfg, resume, limit)
    if trainer.is_global_zero:  # of several processes the first alone writes
        folder = output_folder(cfg.output, new=resume is None and not given("output"))
        if folder != Path(cfg.output):  # another run has it
            cfg.output = str(folder)
            trainer = make_trainer(cfg, resume, limit)
        prepare_output(cfg, resume, data.split, trainer.loggers[0])
        if resume is not None:
            print("\n  ".join([f"Going on with {resume.path}, after {counted(resume.step, 'step')}.", *changed]))
        for logger in trainer.loggers:
            logger.log_hyperparams(as_dict(cfg))
        print(opening(task, data, trainer, cfg.output, None if teacher is None else cfg.teacher), flush=True)
    events = next(logger for logger in trainer.loggers if isinstance(logger, OneEventFile))
    with contextlib.closing(events), telling_how_to_go_on(cfg):
        if resume is None:
            trainer.validate(task, data, verbose=False)  # the curves start with the untrained model
        trainer.fit(task, data, ckpt_path=resume and resume.path, weights_only=resume is not None)
        if task.validated_at != trainer.global_step:
            trainer.validate(task, data, verbose=False)
    if trainer.is_global_zero:
        done = counted(trainer.global_step, "step")
        print(f"{cfg.output}/model.safetensors after {done}: {in_words(trainer.callback_metrics)}")


def run_to_go_on_with(cfg: DictConfig) -> Path | None:
    """Returns the folder of the run that `resume` means, which is then the output where none was named; None for a new run."""
    if cfg.resume == "auto" and not given("output"):
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise ValueError("`resume`: auto can't find the runs of a sweep by itself: name its folders with output=...")
        cfg.output = str(newest_run(Path(cfg.output).parent) or cfg.output)
    run = run_of(cfg.resume, cfg.output)
    if cfg.resume == "auto" and run is None:
        where = cfg.output if given("output") else f"any run of {Path(cfg.output).parent}"
        rank_zero_only(print)(f"resume=auto: there is no checkpoint in {where}, so training begins from the beginning.")
    return run


def load_models(cfg: DictConfig, record: dict[str, Any]) -> tuple[Vocoder | None, Model | None]:
    """Loads the teacher and the model to begin with, if there are any; a run that goes on has those of its record."""
    teacher = start = None
    if "DistillationTask" in cfg.stage._target_:
        cfg.teacher = str(cfg.teacher or record.get("teacher") or newest_model("teacher"))
        teacher = load_teacher(cfg.teacher, as_dict(cfg.audio))
    if record:
        cfg.start = cfg.start or record.get("start")  # a resumed run has its weights from its checkpoint
    elif cfg.start is not None:
        with about("start", "path"):
            start = load_model(cfg.start, kind=TextToMel) if speaks(cfg) else load_model(cfg.start)
    return teacher, start


def chosen_net(cfg: DictConfig, record: dict[str, Any], start: Model | None, teacher: Vocoder | None) -> dict[str, Any]:
    """Returns the net's configuration: of the model to begin with, or as asked for; ValueError where it is not of the stage."""
    if start is not None:
        return net_config(config_of(start) | typed_of_net(cfg), teacher)
    if record.get("start"):
        return net_config(record["net"], teacher)
    asked = HydraConfig.get().runtime.choices
    made = cfg.net._target_.rpartition(".")[2]
    of_the_other = made == ("student" if teacher is None else "teacher")  # other flows may learn from a teacher too
    if of_the_other or (made == "text_to_mel") != speaks(cfg):
        fitting = {"student": "stage=student", "text_to_mel": "stage=text"}
        hint = "" if speaks(cfg) else f", or say {fitting[made] if teacher is None else 'net=student'}"
        raise ValueError(
            f"`net` must be one of the stage, got net={asked['net']} with stage={asked['stage']}: leave net=... out{hint}."
        )
    config = as_dict(cfg.net)
    if speaks(cfg) and record:
        config["symbols"] = record["net"]["symbols"]
    return net_config(config, teacher)


def net_config(config: dict[str, Any], teacher: Vocoder | None) -> dict[str, Any]:
    """Completes a student's configuration by what it takes from its teacher: mel, whitening, speakers."""
    shared = ("mel", "whitening", "pitch", "n_speakers")
    return config if teacher is None else config | {name: config_of(teacher)[name] for name in shared}


def typed_of_net(cfg: DictConfig) -> dict[str, Any]:
    """Returns the options of the net that were named in the command."""
    return {name: value for name, value in as_dict(cfg.net).items() if given(f"net.{name}")}


def speaks(cfg: DictConfig) -> bool:
    """Returns whether the stage is that of text to mel."""
    return cfg.stage._target_.endswith(".TextTask")


def config_of(model: Model) -> dict[str, Any]:
    """Returns the configuration that a loaded model has from its file."""
    assert model.config is not None
    return model.config


def keep_split(data: Batches, run: Path | None, model: Model | None) -> None:
    """Splits the data as before: as the run that goes on, or as for the model that a new run begins with or learns from."""
    if run is not None and (run / "split.json").is_file():
        data.follow(read_split(run / "split.json"), must_fit=True)
    elif model is not None and model.info.get("split"):
        data.follow(model.info["split"])


def make_trainer(cfg: DictConfig, resume: Checkpoint | None, limit: str | timedelta | None) -> pl.Trainer:
    """Returns Lightning's trainer, with its loggers and callbacks; see `time_limit` for `limit`."""
    place = {"save_dir": cfg.output, "name": "", "version": "logs"}
    loggers = [CSVLogger(**place), OneEventFile(**place, purge_step=resume and resume.step, default_hp_metric=False)]
    callbacks = list(instantiate(cfg.callbacks).values())
    if cfg.trainer.get("enable_progress_bar", True):
        callbacks.append(ProgressBar())
    precision = pick_precision(cfg.trainer.precision)
    return instantiate(cfg.trainer, logger=loggers, callbacks=callbacks, precision=precision, max_time=limit)


def time_limit(cfg: DictConfig) -> str | timedelta | None:
    """Returns the limit of a training in all: `trainer.max_time` where it is given, else `minutes`."""
    if cfg.trainer.max_time is not None or cfg.minutes is None:
        return cfg.trainer.max_time
    return timedelta(minutes=number("minutes", cfg.minutes, 0.0, above=True))


def prepare_output(cfg: DictConfig, resume: Checkpoint | None, split: Split, logger: Logger) -> None:
    """Makes the folder ready for a run that goes on from a checkpoint, or for a new one."""
    if resume is None:
        check_unused(cfg.output, cfg.overwrite)
    else:
        keep_curves(logger, resume.step)
    sweep(*(Path(cfg.output) / folder for folder in ("", "checkpoints", "logs", "samples")))
    OmegaConf.save(cfg, Path(cfg.output) / "config.yaml", resolve=True)  # only now: mistakes leave nothing behind
    if split:  # some shards' can't be known
        write_text(Path(cfg.output) / "split.json", json.dumps(split, indent=1))


@contextlib.contextmanager
def telling_how_to_go_on(cfg: DictConfig) -> Iterator[None]:
    """Prints the command to go on with, where a signal or the disk stopped a run."""
    hydra = HydraConfig.get()
    typed = list(hydra.overrides.task) if hydra.mode == RunMode.MULTIRUN else sys.argv[1:]  # of a sweep: this run's own
    typed = [option for option in typed if option.partition("=")[0] not in ("output", "resume", "overwrite", "teacher")]
    typed += [f"output={cfg.output}", "resume=auto", *([f"teacher={cfg.teacher}"] if cfg.teacher else [])]
    go_on = f"go on with `{shlex.join(['python', '-m', 'wavflow.train', *typed])}`"
    try:
        yield
    except Stopped as stop:
        rank_zero_only(tqdm.write)(f"wavflow: {stop}: {go_on}", file=sys.stderr)
        raise SystemExit(128 + stop.signum) from None  # as a shell counts it
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # before the first step or after the last; Lightning says nothing
            raise KeyboardInterrupt from None
        raise
    except OSError as error:
        raise OSError(f"{error}: what was saved before is whole. Make room, or put right what is wrong, and {go_on}") from error
    except ValueError as error:
        if "in DataLoader worker process" in str(error):  # torch puts the worker's traceback into the message
            raise ValueError(str(error).splitlines()[-1].removeprefix("ValueError: ")) from error
        raise


def load_teacher(path: str | Path, audio: dict[str, Any]) -> Vocoder:
    """Loads a teacher; raises ValueError where it is none, or of another mel or sample rate than the configured audio."""
    with about("teacher", "path"):
        teacher = load_model(path)
    if not teacher.scores_in_parallel:
        raise ValueError(f"`teacher`: {path} is a student: name a model of stage=teacher.")
    if teacher.mel.spec != audio:
        differs = differences(teacher.mel.spec, audio)
        raise ValueError(f"`teacher`: {path} was trained with {differs}: choose the same with audio=... as for the teacher.")
    return teacher


def check_start(cfg: DictConfig, start: Model, teacher: Vocoder | None) -> None:
    """Raises ValueError unless a model to begin with fits the stage, the audio and what a student takes from its teacher."""
    if isinstance(start, Vocoder) and start.scores_in_parallel != (teacher is None):
        kind = "a teacher" if start.scores_in_parallel else "a student"
        raise ValueError(f"`start`: {cfg.start} is {kind}: choose its stage.")
    own = config_of(start)
    for there, here in ((start.mel.spec, as_dict(cfg.audio)), (own, net_config(own, teacher))):
        if differs := differences(there, here):
            raise ValueError(f"`start`: {cfg.start} has {differs}: choose audio=... and teacher=... as there.")


def take_weights(net: Model, start: Model, cfg: DictConfig) -> None:
    """Loads the weights of the model to begin with; raises ValueError where options of the net ask for others."""
    shapes, needed = ({name: value.shape for name, value in model.state_dict().items()} for model in (start, net))
    if shapes != needed:
        typed = " ".join(f"net.{name}={value}" for name, value in typed_of_net(cfg).items())
        raise ValueError(f"`start`: the weights of {cfg.start} are not those of {typed}: leave out what the file decides.")
    net.load_state_dict(start.state_dict())


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Returns, in words, which values differ."""
    return ", ".join(f"{name} {value} instead of {here.get(name)}" for name, value in there.items() if value != here.get(name))


def in_words(metrics: dict[str, Any]) -> str:
    """Returns the last metrics of the validation as one line."""
    names = ("nats", "bits", "kl", "spectral", "rms_ratio")
    found = {name: metrics[f"validation/{name}"] for name in names if f"validation/{name}" in metrics}
    return ", ".join(f"{name} {float(value):.3f}" for name, value in found.items())
