"""How the programs end: a sentence for what a person can mend, a traceback for what is a bug."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from agemem_jax.commands import out_of_memory
from agemem_jax.rollout import engine


def run(code, tmp_path, *arguments):
    """A program whose `main` is `code`."""
    path = tmp_path / "program.py"
    body = "\n".join(f"    {line}" for line in code.splitlines())
    path.write_text(
        f'"""A program."""\nfrom agemem_jax.commands import cli\ndef main(argv):\n{body}\n'
        'if __name__ == "__main__":\n    cli.run(main)\n'
    )
    return subprocess.run(
        [sys.executable, str(path), *arguments], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "code, told",
    [
        ("open('/no/such/file')", "/no/such/file: No such file or directory."),
        ("import pathlib; pathlib.Path('/proc/x').mkdir()", "/proc/x: "),
        ("raise ValueError('This is wrong.')", "This is wrong."),
        ("raise KeyboardInterrupt", "Interrupted."),
        ("import numpy; numpy.ones(10**15)", "Memory ran out while the program ran; lower "),
        ("import jax; jax.numpy.ones(10**13) + 1", "Memory ran out while the program ran; lower "),
    ],
)
def test_what_a_person_can_mend_is_one_sentence_and_status_1(tmp_path, code, told):
    done = run(code, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"Error: {told}")


def test_a_bug_keeps_its_traceback(tmp_path):
    done = run("import json; json.loads('{')", tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_threads_that_are_busy_in_a_library_do_not_abort_the_end(tmp_path):
    code = (
        "import atexit, threading, time, jax\n"
        "atexit.register(print, 'cleaned up')\n"
        "def spin():\n"
        "    x = jax.numpy.ones(100_000)\n"
        "    while True:\n"
        "        x = (x + 1).block_until_ready()\n"
        "for _ in range(4):\n"
        "    threading.Thread(target=spin, daemon=True).start()\n"
        "threading.Thread(target=lambda: (time.sleep(2), print('waited for'))).start()\n"
        "time.sleep(1)"
    )
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "waited for\ncleaned up\n"


@pytest.mark.parametrize("code, status", [("", 0), ("None", 0), ("75", 75), ("'Why.'", 1)])
def test_the_status_is_that_of_sys_exit(tmp_path, code, status):
    done = run(f"import sys; sys.exit({code})", tmp_path)
    assert done.returncode == status
    assert done.stderr == ("Why.\n" if status == 1 else "")


def test_a_request_to_stop_while_setting_up_is_a_sentence(tmp_path):
    code = (
        "import os, signal, time\n"
        "from agemem_jax.training.interruption import Interruption\n"
        "with cli.stoppable(Interruption()):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(5)"
    )
    done = run(code, tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: Interrupted while setting up")


def test_memory_that_runs_out_names_the_options_of_what_was_under_way(monkeypatch):
    def refuse(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(engine.kv_cache, "init_cache", refuse)
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        fake = type("E", (), {"config": engine.EngineConfig(), "_model": None, "_mesh": None})()
        engine.Engine._empty_cache(fake)
    text = out_of_memory.sentence(raised.value)
    assert "while episodes were played; lower engine.slots" in text and "9 bytes" in text
    assert out_of_memory.is_out_of_memory(MemoryError())
    assert not out_of_memory.is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))


def test_an_impossible_allocation_on_the_host_is_recognised():
    with pytest.raises(MemoryError) as raised:
        np.ones(10**15)
    assert out_of_memory.is_out_of_memory(raised.value)
