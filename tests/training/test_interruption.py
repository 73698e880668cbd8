"""Requests to stop: by signal, and by notice of the machine's maintenance."""

import http.server
import os
import signal
import threading
import time

import pytest

from agemem_jax.training.interruption import Interrupted, Interruption


@pytest.fixture
def handlers():
    """Puts the process's signal handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_happens_until_somebody_asks():
    interruption = Interruption()
    interruption.check()
    interruption.ask("Somebody")
    assert interruption.asked
    with pytest.raises(Interrupted):
        interruption.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_a_second_ctrl_c_ends_at_once(handlers, number):
    interruption = Interruption()
    interruption.listen()
    os.kill(os.getpid(), number)
    assert interruption.asked
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


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
