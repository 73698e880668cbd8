"""Serves a backbone or a trained policy by OpenAI's interfaces, to many clients at once.

    agemem-serve --backbone=smollm2-135m
    agemem-serve --workdir=runs/a --checkpoint=best
    agemem-serve --workdir=runs/a --memory=memories.sqlite

Then `OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="-")` talks to it; docs/serving.md has
the fields of requests that it knows. With --memory the same policy is served as an agent, too,
that remembers each `user`, and its memories to other programs. It listens on this machine
alone. For others give --host and a key, in the environment variable AGEMEM_API_KEY or as the only
line of --api_key_file.
"""

import ipaddress
import os
import pathlib
from typing import Any

from absl import app, flags, logging

from agemem_jax.commands import cli
from agemem_jax.commands.checkpoint_flag import CHECKPOINT
from agemem_jax.memory.embedders import EMBEDDERS


def define_flags() -> None:
    """Defines the flags; not where this is imported, since other programs have some of them."""
    flags.DEFINE_string("backbone", None, "What to serve, as `agemem-backbones` tells.")
    flags.DEFINE_string("workdir", None, "The training run whose policy to serve.")
    flags.DEFINE_bool("before_rl", False, "With --workdir: the policy before RL.")
    flags.DEFINE_string("name", None, "Of the model, for clients; default: the backbone's.")
    dtypes = ["float32", "bfloat16"]
    flags.DEFINE_enum("compute_dtype", None, dtypes, "Default: the run's, or float32.")
    flags.DEFINE_enum("embedder", None, EMBEDDERS, "Default: the run's.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
    flags.DEFINE_integer("port", 8000, "Port to listen on; 0 is a free one.", 0, 65535)
    flags.DEFINE_string("api_key_file", None, "File with the key that clients must show.")
    flags.DEFINE_string(
        "memory", None, "SQLite file of the memories of users: serves the agent as well."
    )
    flags.DEFINE_integer("memory_entries", 4096, "Of a user's memory, at most.", 1)
    flags.DEFINE_integer("slots", 8, "Responses that are sampled side by side.", 1)
    flags.DEFINE_integer("max_length", 2048, "Tokens of a conversation and its answer.", 16)
    flags.DEFINE_integer("max_tokens", 4096, "Tokens of an answer, at most.", 1)
    flags.DEFINE_integer("max_waiting", 128, "Requests that may wait; others get 429.", 0)
    flags.DEFINE_float("max_seconds", 600.0, "Of a request, its wait included.", 0.0)
    flags.DEFINE_integer("max_body_bytes", 4 * 2**20, "Of a request.", 1)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    serve(flags.FLAGS)


def serve(given: Any) -> None:
    """Serves what `given` says, which has the flags' values, until the process is told to end."""
    if (given.backbone is None) == (given.workdir is None):
        raise app.UsageError("Give --backbone or --workdir, one of them.")
    key = _api_key(given)
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    try:
        from agemem_jax.commands import serve_setup  # behind wrong flags: it takes its time
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed; `pip install agemem_jax[serve]` brings it."
        ) from error
    serve_setup.run(given, CHECKPOINT.value, key)


def _api_key(given: Any) -> str | None:
    """The key that clients must show.

    Raises:
      ValueError: others than this machine can reach the server, and there is none.
    """
    if given.api_key_file is not None:
        key = pathlib.Path(given.api_key_file).read_text(encoding="utf-8").strip()
    else:
        key = os.environ.get("AGEMEM_API_KEY", "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ValueError("The API key must be one line of ASCII.")
    if not key and not _is_loopback(given.host):
        raise ValueError(
            f"--host is {given.host}, which others can reach; give a key in AGEMEM_API_KEY or by "
            "--api_key_file, or listen on 127.0.0.1."
        )
    return key or None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run():
    define_flags()
    cli.run(main)
