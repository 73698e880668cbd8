"""Models on the Hugging Face hub, kept in the hub's own cache."""

import json
import pathlib
import re
from collections.abc import Sequence

import huggingface_hub

_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template*",
    "model*.safetensors",
    "model.safetensors.index.json",
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_repository(name: str) -> bool:
    """Whether `name` reads like a repository id, such as "Qwen/Qwen3-4B"."""
    return bool(_REPOSITORY.fullmatch(name))


def download(
    repository: str,
    files: Sequence[str] = _FILES,
    advice: str = "check its name, the network and, for a model behind a licence, HF_TOKEN; or "
    "name a local directory",
) -> pathlib.Path:
    """The folder of a model, fetched unless it is there already.

    Args:
      repository: id of the model.
      files: patterns of what is wanted of it.
      advice: what to do when it does not come, as the end of a sentence.

    Raises:
      ConnectionError: the hub did not give it.
    """
    try:
        folder = huggingface_hub.snapshot_download(repository, allow_patterns=list(files))
    except Exception as error:  # the hub's errors share no base class with the network's
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConnectionError(
            f"The hub did not give {repository} ({reason[0]}); {advice}."
        ) from error
    return pathlib.Path(folder)


def cached(repository: str) -> pathlib.Path | None:
    """The folder of a model that was fetched whole, or None."""
    config = cached_file(repository, "config.json")
    if config is None:
        return None
    folder = config.parent
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    whole = all((folder / name).is_file() for name in {*names, "tokenizer.json"})
    return folder if whole else None


def cached_file(repository: str, name: str) -> pathlib.Path | None:
    """One file of a model, or None where it was not fetched."""
    found = huggingface_hub.try_to_load_from_cache(repository, name)
    return pathlib.Path(found) if isinstance(found, str) else None
