"""Asks one store for the memories of many users at once, and looks for what is another's.

    python experiments/checks/cross_user_reads.py --calls=1000000

Threads add, update, delete, search and list memories of random users in one file. Each text names
its user, and whatever comes back must name the one who asked; at the end every user has exactly
what was acknowledged. The file lies in memory by default, where a commit costs no disk its time.
"""

import collections
import pathlib
import random
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # this clone, installed or not

from absl import app, flags

from agemem_jax.memory.embedders import HashedNGramEmbedder
from agemem_jax.memory.operations import Add, Clear, Delete, Operation, Retrieve, Update
from agemem_jax.serving.memory.sqlite_store import SQLiteStore

_THREADS = 4
_TICK = 16  # users in one call


class Asker(threading.Thread):
    """Asks for random users of its own, so that it knows what each of them must have."""

    def __init__(self, store: SQLiteStore, users: list[str], calls: int, seed: int):
        super().__init__()
        self.store, self.users, self.calls, self.rng = store, users, calls, random.Random(seed)
        self.known: dict[str, dict[str, str]] = {user: {} for user in users}
        self.done: collections.Counter = collections.Counter()
        self.error: BaseException | None = None

    def run(self):
        try:
            while self.done.total() < self.calls:
                users = self.rng.sample(self.users, min(_TICK, len(self.users)))
                asked = {user: self.operation(user) for user in users}
                for user, result in self.store.execute(asked, 1).items():
                    self.check(user, asked[user], result)
                user = self.rng.choice(self.users)
                found = self.store.contents(user)
                assert found == self.known[user], f"{user} has {found}, not {self.known[user]}"
        except BaseException as error:
            self.error = error

    def operation(self, user: str) -> Operation:
        known = list(self.known[user])
        text = f"[{user}] keeps {self.rng.randrange(100)} {self.rng.choice('abcdef')}"
        draw = self.rng.random()
        if draw < 0.3 or not known:
            # The id of another's memory means nothing here; nor does a name that was made up.
            foreign = self.known[self.rng.choice(self.users)]
            return Add(text) if draw < 0.25 or not foreign else Delete(next(iter(foreign)))
        if draw < 0.4:
            return Update(self.rng.choice(known), text)
        if draw < 0.5:
            return Delete(self.rng.choice(known))
        return Clear(user) if draw < 0.501 else Retrieve(f"what keeps {draw}", 5)

    def check(self, user: str, operation: Operation, result):
        self.done[type(operation).__name__] += 1
        known = self.known[user]
        for entry in result.entries:
            assert known[entry.memory_id] == entry.content, f"{user} was shown {entry}"
        assert all(f"[{user}]" in entry.content for entry in result.entries)
        match operation:
            case Add(content=text) | Update(content=text) if result.ok:
                known[result.memory_id] = text
            case Delete(memory_id=name):
                assert result.ok == (name in known)
                known.pop(name, None)
            case Clear():
                known.clear()


def run(calls: int, users: int, folder: str, seed: int) -> collections.Counter:
    """How many operations of each kind were asked, of a new file in `folder`.

    Raises:
      AssertionError: an answer was wrong.
    """
    names = [f"user{number}" for number in range(users)]
    cached = max(_TICK, users // 8)  # fewer than there are: the others are read from the file
    with (
        tempfile.TemporaryDirectory(dir=folder) as own,
        SQLiteStore(
            f"{own}/memory.db", HashedNGramEmbedder(), entries=64, cached_users=cached
        ) as store,
    ):
        askers = [
            Asker(store, names[i::_THREADS], calls // _THREADS, seed + i) for i in range(_THREADS)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        for asker in askers:
            if asker.error is not None:
                raise asker.error
        assert store.check() == []
    return sum((asker.done for asker in askers), collections.Counter())


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    given, began = flags.FLAGS, time.monotonic()
    done = run(given.calls, given.users, given.folder, given.seed)
    kinds = ", ".join(f"{count} {name}" for name, count in done.most_common())
    print(
        f"{done.total()} calls of {given.users} users in {time.monotonic() - began:.0f} s "
        f"({kinds}): nobody was shown or changed what is another's."
    )


if __name__ == "__main__":
    # Not where it is imported: other programs have flags of these names.
    flags.DEFINE_integer("calls", 1_000_000, "Operations in all.", 1)
    flags.DEFINE_integer("users", 1000, "How many users there are.", 4)
    flags.DEFINE_string("folder", "/dev/shm", "Where the file is made.")
    flags.DEFINE_integer("seed", 0, "Of users and operations.")
    app.run(main)
