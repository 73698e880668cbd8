"""The server as a program: what it refuses before anything is loaded, and that it serves."""

import re
import signal
import subprocess
import sys
import time
import types

import httpx
import pytest
from absl import app
from absl.testing import flagsaver

from agemem_jax.commands import serve, serve_setup

SERVE = [sys.executable, "-m", "experiments.serve"]


def flags(**values):
    given = {"backbone": None, "workdir": None, "host": "127.0.0.1", "api_key_file": None}
    rest = {"before_rl": False, "embedder": None, "compute_dtype": None}
    return types.SimpleNamespace(**given | rest | values)


@pytest.mark.parametrize("given", [{}, {"backbone": "tiny", "workdir": "runs/a"}])
def test_one_of_backbone_and_workdir_is_needed(given):
    with pytest.raises(app.UsageError, match="one of them"):
        serve.serve(flags(**given))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.com"])
def test_others_are_served_only_with_a_key(host, monkeypatch, tmp_path):
    monkeypatch.delenv("AGEMEM_API_KEY", raising=False)
    with pytest.raises(ValueError, match="give a key in AGEMEM_API_KEY"):
        serve.serve(flags(backbone="nothing", host=host))
    (tmp_path / "key").write_text("two\nlines")
    with pytest.raises(ValueError, match="one line of ASCII"):
        serve.serve(flags(backbone="nothing", host=host, api_key_file=str(tmp_path / "key")))
    (tmp_path / "key").write_text("secret\n")
    served = []
    monkeypatch.setattr(serve_setup, "run", lambda *given: served.append(given[-1]))
    with flagsaver.as_parsed((serve.CHECKPOINT, "last")):
        serve.serve(flags(backbone="nothing", host=host, api_key_file=str(tmp_path / "key")))
    assert served == ["secret"]


def test_it_serves_until_it_is_told_to_end(tmp_path):
    options = ["--backbone=tiny", "--port=0", "--slots=1", "--max_length=512"]
    memory = tmp_path / "memories.sqlite"
    with subprocess.Popen(
        [*SERVE, *options, f"--memory={memory}"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = next(
                found[1] for line in process.stderr if (found := re.search(r" on (http\S+)", line))
            )
            assert httpx.get(f"{address}/healthz").status_code == 200
            models = httpx.get(f"{address}/v1/models").json()["data"]
            assert [m["id"] for m in models] == ["tiny", "hashed_ngrams", "tiny-agent"]
            assert memory.exists()
        finally:
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            process.wait(30)
            assert time.monotonic() - began < 25
