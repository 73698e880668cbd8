"""Requests to stop: by signal, and by notice of the machine's maintenance."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from agemem_jax.training.interruption import EXIT_STATUS, Interrupted, Interruption


def test_nothing_happens_until_somebody_asks():
    interruption = Interruption()
    interruption.check()
    interruption.ask("Somebody")
    assert interruption.asked
    with pytest.raises(Interrupted):
        interruption.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_a_second_ctrl_c_ends_at_once(number):
    interruption = Interruption()
    before = signal.getsignal(number)
    with interruption.listening():
        interruption.begin(lambda: True)
        os.kill(os.getpid(), number)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, EXIT_STATUS), (signal.SIGINT, 1)])
def test_while_a_program_is_set_up_a_signal_ends_it_at_once(number, status):
    interruption = Interruption()
    with interruption.listening(), pytest.raises(Interrupted, match="while setting up") as stopped:
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert stopped.value.status == status


# Nothing of Python runs in the main thread while the hash is computed, as when XLA compiles.
DEAF = """
import hashlib, sys
from agemem_jax.training.interruption import Interruption
interruption = Interruption()
tries = []
def rescue():
    tries.append(1)
    print("rescue", flush=True)
    return len(tries) == 2
with interruption.listening():
    if sys.argv[1] == "running":
        interruption.begin(rescue, patience=0.5)
    else:
        interruption._patience = 0.5
    print("deaf", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize(
    "state, number, status, told",
    [
        ("running", signal.SIGTERM, EXIT_STATUS, "the same command goes on"),
        ("setting up", signal.SIGTERM, EXIT_STATUS, "the same command starts again"),
        ("setting up", signal.SIGINT, 1, "Error: Interrupted while setting up"),
    ],
)
def test_a_program_that_does_not_hear_is_ended_once_what_can_be_saved_is(
    state, number, status, told
):
    with subprocess.Popen(
        [sys.executable, "-c", DEAF, state],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "deaf\n"
        time.sleep(0.2)
        begun = time.monotonic()
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert process.returncode == status
    assert told in errors.splitlines()[-1]
    assert output.splitlines() == ["rescue"] * (2 if state == "running" else 0)


@pytest.fixture
def metadata(monkeypatch):
    """A metadata server whose answers are listed; after the last it is silent."""
    answers, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Metadata-Flavor"]))
            if not answers:
                time.sleep(5)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers.pop(0).encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    yield answers, asked
    server.shutdown()


def test_a_notice_of_maintenance_asks(metadata):
    answers, asked = metadata
    answers += ["NONE", "TERMINATE_ON_HOST_MAINTENANCE"]
    interruption = Interruption()
    interruption.watch_maintenance()
    deadline = time.monotonic() + 10
    while not interruption.asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    path, flavor = asked[0]
    assert path.endswith("maintenance-event?wait_for_change=true") and flavor == "Google"


def test_without_a_metadata_server_there_are_no_notices(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")  # nobody listens there
    interruption = Interruption()
    interruption.watch_maintenance()
    time.sleep(0.2)
    assert not interruption.asked
