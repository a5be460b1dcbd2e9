"""Teacher and student as a user meets them: roles, exact densities, speakers, bad input, and the files they live in."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import MEL, NET, PARALLEL_FLOWS, first_change, random_log_mel, tiny_flow, tiny_mel, tiny_student, tiny_teacher
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import wavflow.models
from wavflow import Vocoder, load_model, save_model
from wavflow.distributions import Gaussian, Logistic
from wavflow.models import fingerprint

DENSITIES = ["gaussian", "logistic", "mixture_of_gaussians", "mixture_of_logistics"]
MODELS: dict[str, Callable[..., Vocoder]] = {
    **{f"teacher {density}": lambda d=density, **changes: tiny_teacher(density=d, **changes) for density in DENSITIES},
    **{f"student {base}": lambda b=base, **changes: tiny_student(base=b, **changes) for base in DENSITIES[:2]},
    "student in groups": lambda **changes: tiny_student(group=4, **changes),
}
FLOWS = {name: lambda name=name, **changes: tiny_flow(name, **changes) for name in PARALLEL_FLOWS}
every_model = pytest.mark.parametrize("name", MODELS)
every_kind = pytest.mark.parametrize("make", (MODELS | FLOWS).values(), ids=MODELS | FLOWS)


def refused(action: Callable[[], Any], *words: str, error: type[Exception] = ValueError) -> None:
    """Holds that an action ends in one clear line that has these words."""
    with pytest.raises(error) as caught:
        action()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


@every_kind
@pytest.mark.parametrize("whitening", [0, 6])
def test_density_of_a_draw_is_its_score(make: Callable[..., Vocoder], whitening: int) -> None:
    model, mel = make(whitening=whitening), random_log_mel(2, batch=2)
    audio, log_prob = model.sample_and_log_prob(mel, temperature=0.7)
    assert audio.shape == log_prob.shape == (2, 32)
    torch.testing.assert_close(model.log_prob(audio, mel), log_prob, rtol=0, atol=1e-8)


@every_model
def test_density_of_audio_is_that_of_its_noise_under_the_jacobian(name: str) -> None:
    model, mel = MODELS[name](), random_log_mel(1)
    noise = model.noise(mel)
    jacobian = torch.autograd.functional.jacobian(lambda z: model.sample_and_log_prob(mel, z)[0], noise).reshape(16, 16)
    wanted = model.flow.base.log_prob(noise).sum() - torch.linalg.slogdet(jacobian).logabsdet
    assert (jacobian.triu(diagonal=1) == 0).all()
    torch.testing.assert_close(model.sample_and_log_prob(mel, noise)[1].sum(), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("base", DENSITIES[:2])
def test_untrained_models_are_the_identity_on_whitened_audio(base: str) -> None:
    mel, audio = random_log_mel(3), 0.1 * torch.randn(1, 48)
    teacher, student = tiny_teacher(std=None, density=base), tiny_student(std=None, base=base)
    u, log_slope = teacher.whiten(audio, mel)
    wanted = {"gaussian": Gaussian, "logistic": Logistic}[base]().log_prob(u).squeeze(1) + log_slope
    for model in (teacher, student):
        torch.testing.assert_close(model.log_prob(audio, mel), wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(model.draw(mel, u.squeeze(1)).u, u, rtol=0, atol=0)


@pytest.mark.parametrize("build", [tiny_teacher, tiny_student])
def test_noise_generator_and_temperature_fix_the_draw(build: Callable[..., Vocoder]) -> None:
    model, mel = build(), random_log_mel(2)
    first, same = (model.sample(mel, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    noise = model.noise(mel, torch.Generator().manual_seed(3))
    assert torch.equal(first, same)
    assert torch.equal(first, model.sample(mel, noise))
    torch.testing.assert_close(model.sample(mel, noise, temperature=0.5), model.sample(mel, 0.5 * noise))
    assert not torch.equal(first, model.sample(mel))
    assert not first.requires_grad


@pytest.mark.parametrize("density", DENSITIES)
def test_density_under_bfloat16_autocast_is_float32(density: str) -> None:
    torch.set_default_dtype(torch.float32)
    teacher, mel, audio = tiny_teacher(density=density), random_log_mel(4), 0.1 * torch.randn(1, 64)
    wanted = teacher.log_prob(audio, mel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = teacher.log_prob(audio, mel)
        draw = tiny_student().draw(mel, audio)
    assert log_prob.dtype == draw.log_prob.dtype == draw.log_scale.dtype == draw.u.dtype == torch.float32
    assert not torch.equal(log_prob, wanted), "autocast was not on"
    torch.testing.assert_close(log_prob, wanted, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("build", [tiny_teacher, tiny_student])
def test_speaker_embedding_changes_the_output(build: Callable[..., Vocoder]) -> None:
    model, mel = build(n_speakers=3), random_log_mel(2, batch=2)
    noise = model.noise(mel)
    ones, mixed = (model.sample(mel, noise, speaker=torch.tensor(ids)) for ids in ([1, 1], [1, 2]))
    assert torch.equal(ones[0], mixed[0])
    assert first_change(ones[1:], mixed[1:]) == 0
    audio, log_prob = model.sample_and_log_prob(mel, noise, speaker=torch.tensor([1, 2]))
    torch.testing.assert_close(model.log_prob(audio, mel, torch.tensor([1, 2])), log_prob, rtol=0, atol=1e-8)


@pytest.mark.parametrize("build", [tiny_teacher, tiny_student])
@pytest.mark.parametrize("use", ["log_prob", "sample", "sample_and_log_prob"])
def test_speaker_must_be_given_where_there_are_some(build: Callable[..., Vocoder], use: str) -> None:
    arguments = (torch.zeros(1, 32), random_log_mel(2)) if use == "log_prob" else (random_log_mel(2),)
    refused(lambda: getattr(build(n_speakers=2), use)(*arguments), "`speaker`", "ids (B,) below 2", "None")
    refused(lambda: getattr(build(), use)(*arguments, speaker=torch.tensor([0])), "`speaker`", "takes no speaker")


@pytest.mark.parametrize("build", [tiny_teacher, tiny_student])
@pytest.mark.parametrize(
    ("mel", "words"),
    [
        (torch.zeros(1, 9, 2), ["`mel`", "(B, 8, F)", "(1, 9, 2)", "'n_mels': 8"]),
        (torch.zeros(1, 8, 2, dtype=torch.int64), ["`mel`", "float", "int64"]),
        (torch.full((1, 8, 2), math.nan), ["`mel`", "finite"]),
    ],
    ids=["bands", "integers", "nan"],
)
def test_foreign_mels_are_refused(build: Callable[..., Vocoder], mel: Tensor, words: list[str]) -> None:
    model = build()
    for use in (lambda: model.log_prob(torch.zeros(1, 32), mel), lambda: model.sample(mel)):
        refused(use, *words)


@pytest.mark.parametrize("build", [tiny_teacher, tiny_student])
@pytest.mark.parametrize("samples", [31, 33, 16])
def test_signals_of_another_length_are_refused(build: Callable[..., Vocoder], samples: int) -> None:
    model, mel, signal = build(), random_log_mel(2), torch.zeros(1, samples)
    for use in (
        lambda: model.log_prob(signal, mel),
        lambda: model.sample(mel, noise=signal),
        lambda: model.sample_and_log_prob(mel, signal),
    ):
        refused(use, "`mel` has 2 frames of 16 samples", f"{samples} samples", "not 32", "cut or pad")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tiny_teacher(density="cauchy"), ["`density`", "mixture_of_logistics", "'cauchy'"]),
        (lambda: tiny_student(base="cauchy"), ["`base`", "gaussian, logistic", "'cauchy'"]),
        (lambda: tiny_student(flows=0), ["`flows` must be at least 1, got 0"]),
        (lambda: tiny_teacher(density="mixture_of_gaussians", n_components=0), ["`n_components`", "got 0"]),
        (lambda: wavflow.models.teacher(mel=MEL | {"hop_length": 0}), ["`hop_length`", "0"]),
    ],
)
def test_impossible_models_are_refused(make: Callable[[], Vocoder], words: list[str]) -> None:
    refused(make, *words)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("changes", [{}, {"n_speakers": 2, "upsampling": "smoothing", "whitening": 0}])
def test_a_model_survives_its_file_to_the_bit(
    make: Callable[..., Vocoder], dtype: torch.dtype, changes: dict, tmp_path: Path
) -> None:
    torch.set_default_dtype(dtype)
    model, path = make(**changes), tmp_path / "new" / "model.safetensors"
    mel, audio, speaker = random_log_mel(2), 0.1 * torch.randn(1, 32), torch.tensor([1]) if changes else None
    save_model(model, path, info={"steps": 7})
    loaded = load_model(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]
    assert loaded.config == model.config
    assert loaded.mel.spec == model.mel.spec
    assert loaded.info == {"steps": 7}
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert fingerprint(model) == fingerprint(loaded)
    torch.testing.assert_close(loaded.log_prob(audio, mel, speaker), model.log_prob(audio, mel, speaker))


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(tiny_student(), path)
    return path


def metadata_of(**changes: Any) -> dict[str, str]:
    config = {"_target_": "wavflow.models.student", "mel": MEL, "flows": 2, **NET}
    metadata = {"format": "wavflow", "format_version": "1", "config": json.dumps(config), "info": "{}"} | changes
    return {key: value for key, value in metadata.items() if value is not None}


def config_of(**changes: Any) -> str:
    return json.dumps(json.loads(metadata_of()["config"]) | changes)


def test_a_file_holds_config_mel_and_format(model_file: Path) -> None:
    with safe_open(model_file, framework="pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    assert (metadata["format"], metadata["format_version"]) == ("wavflow", "1")
    assert config["mel"] == tiny_mel().spec
    assert config["_target_"] == "wavflow.models.student"


def test_the_file_that_the_bad_ones_vary_is_a_good_one(tmp_path: Path) -> None:
    model, path = tiny_student(), tmp_path / "model.safetensors"
    save_file(model.state_dict(), path, metadata_of())
    assert fingerprint(load_model(path)) == fingerprint(model)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        refused(lambda path=path: load_model(path), "`path`", str(path), "wavflow.train", error=FileNotFoundError)


@pytest.mark.parametrize("damage", ["empty", "header cut", "weights cut", "random", "pickle"])
def test_damaged_files_are_refused(damage: str, model_file: Path) -> None:
    whole = model_file.read_bytes()
    content = {
        "empty": b"",
        "header cut": whole[:100],
        "weights cut": whole[:-100],
        "random": bytes(torch.randint(256, (5000,), dtype=torch.uint8).tolist()),
        "pickle": pickle.dumps({"weights": [1.0, 2.0]}),
    }[damage]
    model_file.write_bytes(content)
    refused(lambda: load_model(model_file), "`path`", str(model_file), "get it again")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, ["not a wavflow model"]),
        ({"format": "other"}, ["not a wavflow model"]),
        (metadata_of(format_version="2"), ["format '2'", "update wavflow"]),
        (metadata_of(format_version="soon"), ["soon"]),
        (metadata_of(format_version=None), ["update wavflow"]),
        (metadata_of(config=None), ["config"]),
        (metadata_of(config="{"), ["get it again"]),
        (metadata_of(config="[1]"), ["get it again"]),
        (metadata_of(info="{"), ["get it again"]),
        (metadata_of(config=config_of(_target_="wavflow.writing.write_audio")), ["_target_", "write_audio"]),
        (metadata_of(config=config_of(depth=3)), ["depth"]),
        (metadata_of(config=config_of(mel=MEL | {"n_bands": 3})), ["n_bands"]),
        (metadata_of(config=config_of(channels=7)), ["size mismatch"]),
        (metadata_of(config=config_of(flows=1)), ["Unexpected key"]),
        (metadata_of(config=config_of(_target_="wavflow.models.teacher", flows=3)), ["flows"]),
    ],
    ids=lambda value: None,
)
def test_files_that_do_not_hold_what_they_should_are_refused(
    metadata: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    """More of it, and that nothing else is built or run: tests/faults/test_files.py."""
    path = tmp_path / "model.safetensors"
    save_file(tiny_student().state_dict(), path, metadata)
    refused(lambda: load_model(path), "`path`", str(path), *words)


def test_a_file_without_all_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights = tiny_student().state_dict()
    del weights["upsampler.mix.weight"]
    save_file(weights, path, metadata_of())
    refused(lambda: load_model(path), "`path`", "upsampler.mix.weight")


def test_saving_below_a_file_fails_and_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    for path in (blocked / "model.safetensors", blocked / "deeper" / "model.safetensors"):
        refused(lambda path=path: save_model(tiny_student(), path), str(blocked), error=OSError)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert blocked.read_text() == "kept"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_saving_that_breaks_off_keeps_the_old_file(
    error: type[BaseException], model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write_bytes = model_file.read_bytes(), Path.write_bytes

    def break_off(path: Path, data: bytes) -> None:
        write_bytes(path, data[:50])
        raise error("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", break_off)
        with pytest.raises(error, match="No space left"):
            save_model(tiny_teacher(), model_file)
    assert [entry.name for entry in model_file.parent.iterdir()] == [model_file.name]
    assert model_file.read_bytes() == before


def test_a_model_put_together_by_hand_cannot_be_saved(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    by_hand = Vocoder(teacher.mel, teacher.upsampler, teacher.flow)
    refused(lambda: save_model(by_hand, tmp_path / "model.safetensors"), "`model` has no config", "models.teacher")
    assert list(tmp_path.iterdir()) == []


# --- where a model is loaded


@pytest.mark.parametrize("stored", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_loaded_model_has_the_dtype_of_its_file_and_not_the_default(
    default: torch.dtype, stored: torch.dtype, tmp_path: Path
) -> None:
    """Only doubles stay what they are; what was rounded to a half is in float32 again."""
    model = tiny_student()
    save_model(model.to(torch.float64 if stored == torch.float64 else torch.float32), tmp_path / "model.safetensors")
    if stored == torch.bfloat16:
        save_model(model, tmp_path / "model.safetensors", dtype=stored)
    torch.set_default_dtype(default)
    loaded = load_model(tmp_path / "model.safetensors")
    assert torch.get_default_dtype() == default
    wanted = torch.float64 if stored == torch.float64 else torch.float32
    assert {p.dtype for p in loaded.parameters()} == {loaded.mel.window.dtype} == {wanted}
    assert loaded.sample(random_log_mel(3)).dtype == wanted


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    refused(lambda: load_model("lj-student", device="abacus"), "`device` 'abacus' can't be used here", "try cpu")


def test_a_model_loaded_in_inference_mode_draws_and_trains(tmp_path: Path) -> None:
    save_model(tiny_student().float(), tmp_path / "model.safetensors")
    mel = random_log_mel(3).float()
    with torch.inference_mode():
        model = load_model(tmp_path / "model.safetensors")
        noise = model.noise(mel)
        audio = model.sample(mel, noise)
        assert torch.equal(torch.cat(list(model.stream(mel, noise)), dim=-1), audio)
    assert torch.equal(model.sample(mel, noise), audio)
    assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    model.requires_grad_(True)
    model.draw(mel, noise.clone()).log_prob.sum().backward()
    assert next(model.flow.parameters()).grad is not None
