"""Models by name: released ones, folders, and repositories of the Hugging Face hub, of which only safetensors are read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from wavflow.arguments import about, reason
from wavflow.files import write_text
from wavflow.models import load_model, released_models, save_model
from wavflow.vocoder import Vocoder

WEIGHTS, CARD = "model.safetensors", "README.md"


def from_pretrained(name: str | os.PathLike[str], revision: str | None = None, device: str | torch.device = "cpu") -> Vocoder:
    """Loads a model by `load_model` from what `find` finds; arguments and errors are theirs."""
    with about("name", "path"):
        return load_model(find(name, revision), device)


def find(name: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Returns the model file of a file, a folder, a released name or a hub repository `owner/model`, in this order.

    The network is asked for a repository alone, and only for its `model.safetensors`, which huggingface_hub caches. Without a
    network the cache is enough.

    Args:
        name: What to find; a path that is none of these is returned as it is.
        revision: Branch, tag or commit of a repository; its main branch if None.

    Raises:
        FileNotFoundError: When there is neither such a folder nor such a repository, or the hub can't be reached.
        ValueError: For a revision of anything but a repository, or where huggingface_hub is not installed.
    """
    path, name = Path(name), os.fspath(name)
    if path.is_dir():
        path = path / WEIGHTS
    elif not path.is_file() and name not in released_models() and name.count("/") == 1 and path.suffix != ".safetensors":
        return _download(name, revision)
    if revision is not None:
        raise ValueError(f"`revision` is of a hub repository, `owner/model`, got {revision!r} for {name}: leave it out.")
    return path


def save_pretrained(vocoder: Vocoder, folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Writes `model.safetensors` and a model card, README.md; a card that is there already stays as it is.

    Args:
        vocoder: A model that `wavflow.models` has built.
        folder: Where to.
        name: What the card calls the model; the folder if None.
    """
    save_model(vocoder, Path(folder) / WEIGHTS)
    if not (Path(folder) / CARD).exists():
        write_text(Path(folder) / CARD, model_card(vocoder, name or os.fspath(folder)))


def push_to_hub(
    vocoder: Vocoder, name: str, private: bool | None = None, revision: str | None = None, message: str = "Upload model"
) -> str:
    """Uploads what `save_pretrained` writes; the repository is made if need be, and a card that it has stays as it is.

    Args:
        vocoder: A model that `wavflow.models` has built.
        name: The repository, `owner/model`; the token is that of `hf auth login` or HF_TOKEN.
        private: Whether a new repository is private; None for what its owner has set.
        revision: The branch to commit to, which must exist; main if None.
        message: Of the commit.

    Returns:
        The commit's address.

    Raises:
        OSError: When the hub can't be reached or refuses.
        ValueError: Where huggingface_hub is not installed.
    """
    hub = _library()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(vocoder, folder, name)
        try:
            api = hub.HfApi()
            api.create_repo(name, private=private, exist_ok=True)
            kept = [CARD] if api.file_exists(name, CARD, revision=revision) else []
            commit = api.upload_folder(
                repo_id=name, folder_path=folder, commit_message=message, revision=revision, ignore_patterns=kept
            )
        except (OSError, ValueError, hub.errors.HTTPError) as error:
            raise OSError(f"`name`: the hub did not take {name} ({reason(error)}): see `hf auth login`.") from error
    return str(commit.commit_url)


def model_card(vocoder: Vocoder, name: str) -> str:
    """Returns the text of a model card, with the metadata that the hub reads."""
    mel, info = vocoder.mel, vocoder.info
    kind = str((vocoder.config or {}).get("_target_", "")).rpartition(".")[2]
    facts = [f"- {key}: {value}" for key, value in info.items() if isinstance(value, str | int | float)]
    return "\n".join([
        "---",
        "library_name: wavflow",
        "pipeline_tag: audio-to-audio",
        "tags: [vocoder, speech-synthesis, normalizing-flow]",
        "---",
        f"# {name}",
        "",
        f"A {kind} of wavflow, a vocoder with exact densities: {sum(p.numel() for p in vocoder.parameters()):,} parameters, "
        f"{mel.sample_rate} Hz.",
        "",
        "```python",
        "from wavflow import Vocoder",
        "",
        f"vocoder = Vocoder.from_pretrained({name!r})",
        "```",
        "",
        f"Its mel, by `wavflow.MelSpectrogram`: {', '.join(f'{key}={value}' for key, value in mel.spec.items())}.",
        *(["", "## Training", "", *facts] if facts else []),
        "",
    ])  # fmt: skip


def _download(name: str, revision: str | None) -> Path:
    hub = _library()
    try:
        return Path(hub.hf_hub_download(name, WEIGHTS, revision=revision))
    except (OSError, ValueError, hub.errors.EntryNotFoundError, hub.errors.HTTPError) as error:
        at = "" if revision is None else f" at revision {revision}"
        raise FileNotFoundError(
            f"`name`: there is no folder {name}, and no {WEIGHTS} was had from the hub repository of that name{at} "
            f"({reason(error)}): correct the name, or try again with a network."
        ) from error


def _library() -> Any:
    try:
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError("`name`: a hub repository needs huggingface_hub: pip install 'wavflow[hub]'.") from error
    return huggingface_hub
