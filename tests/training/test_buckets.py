"""A work directory in a bucket of Google Cloud, which an emulator stands for."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PROGRAM = """
import json, os, socket

from gcp_storage_emulator.server import create_server
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
server.start()
address = f"http://127.0.0.1:{port}"
os.environ["STORAGE_EMULATOR_HOST"] = address  # gcsfs
os.environ["TENSORSTORE_GCS_HTTP_URL"] = address  # Orbax's arrays
os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "none"

from agemem_jax.models.config import DecoderConfig
from agemem_jax.training.checkpoints import Checkpoints
from agemem_jax.training.metrics import MetricsWriter, read_metrics
from tests.training.test_checkpoints import assert_same_bits, make_iterator, make_state

config = DecoderConfig(
    vocab_size=64, num_layers=1, width=8, num_heads=1, num_kv_heads=1, head_dim=8, ffn_width=8
)
checkpoints = Checkpoints("gs://bucket/run/checkpoints", keep=2)
for step in (1, 2, 3):
    checkpoints.save(step, make_state(config, step), make_iterator(step), {"at": step})
checkpoints.save(3, make_state(config, 4), phase_end="one")
checkpoints.close()

again = Checkpoints("gs://bucket/run/checkpoints", keep=2)
state, position = again.restore_latest(make_state(config))
assert_same_bits(state, make_state(config, 4))
metrics = MetricsWriter("gs://bucket/run")
for step in (1, 2, 3):
    metrics.write(step, {"loss": 0.5}, {})
metrics.close()
print(json.dumps({
    "checkpoints": [str(info.path) for info in again.all()],
    "lines": [line["step"] for line in read_metrics("gs://bucket/run/metrics.jsonl")],
}))
server.stop()
"""


@pytest.mark.skipif(
    importlib.util.find_spec("gcp_storage_emulator") is None,
    reason="gcp-storage-emulator stands for the bucket and is not installed",
)
def test_checkpoints_and_metrics_are_kept_in_a_bucket():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    folder = "gs://bucket/run/checkpoints"
    assert told["checkpoints"] == [
        f"{folder}/phases/one/3",
        f"{folder}/steps/3",
        f"{folder}/steps/2",
    ]
    assert told["lines"] == [1, 2, 3]
