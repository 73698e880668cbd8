"""Tokenizers of backbones, as transformers' fast tokenizers; none of them needs torch.

Each satisfies `agemem_jax.protocol.chat_formats.Tokenizer`.
"""

import os
import pathlib
import tempfile

import gguf
import tokenizers
import transformers
from absl import logging

from agemem_jax.models import gguf_import

_VERSION = 1  # of what `gguf_import.read_tokenizer` makes of a file; a change makes all anew
_CLOSING = "}\n"


def from_file(path: str | os.PathLike) -> transformers.PreTrainedTokenizerFast:
    """Loads a tokenizer.json.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a tokenizer.json.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no tokenizer file {path}.")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the library raises the bare class
        raise ValueError(f"{path} cannot be read as a tokenizer.json ({error}).") from error
    return _wrap(tokenizer)


def from_gguf(
    path: str | os.PathLike, reader: gguf.GGUFReader | None = None
) -> transformers.PreTrainedTokenizerFast:
    """Loads the tokenizer that a GGUF file carries.

    Making one takes seconds, so the result is kept beside the file as
    `<name>.tokenizer.json` where the folder can be written to, together with a hash of what
    it was made from: it serves a file that says the same, and no other.

    Args:
      path: of the file.
      reader: the same file where it is open already.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, or carries a tokenizer of an unknown kind.
    """
    path = pathlib.Path(path)
    reader = reader or gguf_import.open_gguf(path)
    kept = path.with_name(f"{path.name}.tokenizer.json")
    opening = _opening(gguf_import.tokenizer_digest(reader))
    tokenizer = _read_kept(kept, opening)
    if tokenizer is not None:
        return _wrap(tokenizer)
    tokenizer = gguf_import.read_tokenizer(reader)
    try:
        _write(opening + tokenizer.to_str() + _CLOSING, kept)
    except OSError as error:
        logging.info("The tokenizer is not kept beside %s: %s", path, error)
    return _wrap(tokenizer)


def from_directory(path: str | os.PathLike) -> transformers.PreTrainedTokenizerFast:
    """Loads the tokenizer of a Hugging Face model directory, its chat template included.

    Raises:
      FileNotFoundError: there is no tokenizer.json.
      ValueError: it cannot be read.
    """
    from_file(pathlib.Path(path) / "tokenizer.json")  # for its errors
    # Not AutoTokenizer: it may build another tokenizer than the one that is in the file.
    return transformers.PreTrainedTokenizerFast.from_pretrained(
        os.fspath(path), clean_up_tokenization_spaces=False, local_files_only=True
    )


def _opening(digest: str) -> str:
    return f'{{"version": {_VERSION}, "made_from": "{digest}", "tokenizer": '


def _read_kept(path: pathlib.Path, opening: str) -> tokenizers.Tokenizer | None:
    """What `from_gguf` kept under this opening, or None."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(opening) and text.endswith(_CLOSING):
            return tokenizers.Tokenizer.from_str(text[len(opening) : -len(_CLOSING)])
    except FileNotFoundError:
        pass
    except Exception as error:  # the library raises the bare class; the file is made anew
        logging.info("%s cannot be read: %s", path, error)
    return None


def _wrap(tokenizer: tokenizers.Tokenizer) -> transformers.PreTrainedTokenizerFast:
    # Clean-up would change spaces before punctuation: decoded text must be what was encoded.
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False
    )


def _write(text: str, path: pathlib.Path) -> None:
    """Writes whole or not at all: another process may be loading the same file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
