"""Kills a process with SIGKILL while it writes memories, and looks at what is left.

    python experiments/checks/kill_memory_writes.py --kills=200

A process adds, updates and deletes memories of several users in one file, writes its log into the
database and purges it now and then, and tells of each operation before it and after it was
acknowledged. After every kill the file must pass its integrity check and hold exactly what was
acknowledged; the one operation that was under way may have happened or not, but not by half.
"""

import contextlib
import json
import multiprocessing
import pathlib
import random
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # this clone, installed or not

from absl import app, flags

from agemem_jax.memory.embedders import HashedNGramEmbedder
from agemem_jax.memory.operations import Add, Delete, Update
from agemem_jax.serving.memory.sqlite_store import SQLiteStore

# A server that has imported everything makes the writers: to fork a process in which JAX runs may
# hang, and to start each from nothing takes seconds.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["agemem_jax.serving.memory.sqlite_store"])
_KINDS = {"Add": Add, "Update": Update, "Delete": Delete}
_USERS = ("ana", "bo", "cy")
Memories = dict[str, dict[str, str]]


def write_until_killed(path: str, seed: int, pipe: Connection) -> None:
    """What the process that is killed does; never returns."""
    rng = random.Random(seed)

    def tell(*what):
        pipe.send_bytes(json.dumps(what).encode())

    with SQLiteStore(path, HashedNGramEmbedder()) as store:
        while True:
            user = rng.choice(_USERS)
            known = list(store.contents(user))
            kind = rng.choice(("Add", "Add", "Update", "Delete")) if len(known) > 3 else "Add"
            text = f"{user} {rng.random()} " + "x" * rng.choice((0, 10, 3000))
            arguments = [] if kind == "Add" else [rng.choice(known)]
            arguments += [] if kind == "Delete" else [text]
            tell("begins", user, kind, arguments)
            result = store.execute({user: _KINDS[kind](*arguments)}, 1)[user]
            tell("done", result.memory_id)
            if rng.random() < 0.05:
                rng.choice((store.purge, store.file.checkpoint))()


def apply(memories: Memories, user: str, kind: str, arguments: list, memory_id: str) -> Memories:
    """The memories after an operation."""
    own = dict(memories[user])
    if kind == "Delete":
        del own[memory_id]
    else:
        own[memory_id] = arguments[-1]
    return memories | {user: own}


def kill_once(path: str, seed: int, memories: Memories, after: float) -> tuple[Memories, int]:
    """Starts the writer, kills it, and checks the file.

    Args:
      path: of the file.
      seed: of the writer's operations.
      memories: what is in the file.
      after: seconds from the first acknowledgement to the kill.

    Returns:
      What is in the file now, and how many operations were acknowledged.

    Raises:
      AssertionError: the file does not hold what it must.
    """
    reading, writing = _PROCESSES.Pipe(duplex=False)
    writer = _PROCESSES.Process(target=write_until_killed, args=(path, seed, writing))
    writer.start()
    writing.close()
    told = [reading.recv_bytes(), reading.recv_bytes()]
    time.sleep(after)
    writer.kill()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL, "the writer ended by itself"
    with contextlib.suppress(EOFError):
        while True:
            told.append(reading.recv_bytes())
    reading.close()
    under_way, count = None, 0
    for what, *values in map(json.loads, told):
        if what == "begins":
            under_way = values
        else:
            memories = apply(memories, *under_way, values[0])
            under_way, count = None, count + 1
    with SQLiteStore(path, HashedNGramEmbedder()) as store:
        assert store.check() == [], store.check()
        now = {user: store.contents(user) for user in _USERS}
    if now != memories:
        assert under_way is not None, "something that was acknowledged is not there"
        user, kind, arguments = under_way
        new = [name for name in now[user] if name not in memories[user]]
        name = new[0] if kind == "Add" else arguments[0]
        assert now == apply(memories, user, kind, arguments, name), "half of something is there"
    return now, count


def run(kills: int, folder: str, seed: int) -> int:
    """Kills the writer so often; how many operations were acknowledged in all."""
    rng = random.Random(seed)
    memories: Memories = {user: {} for user in _USERS}
    acknowledged = 0
    for number in range(kills):
        after = rng.choice((0.0, 0.03, 0.3, 1.5)) * rng.random()
        memories, count = kill_once(f"{folder}/memory.db", rng.getrandbits(32), memories, after)
        acknowledged += count
        if number % 20 == 19:
            entries = sum(map(len, memories.values()))
            print(f"{number + 1} kills, {acknowledged} acknowledged, {entries} entries", flush=True)
    return acknowledged


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    given = flags.FLAGS
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        count = run(given.kills, folder, given.seed)
    print(
        f"{given.kills} kills: all of {count} acknowledged operations are there, and every "
        "integrity check passed."
    )


if __name__ == "__main__":
    # Not where it is imported: other programs have flags of these names.
    flags.DEFINE_integer("kills", 200, "How often the writer is killed.", 1)
    flags.DEFINE_string("folder", None, "Where the file is made; by default a new folder.")
    flags.DEFINE_integer("seed", 0, "Of operations and times.")
    app.run(main)
