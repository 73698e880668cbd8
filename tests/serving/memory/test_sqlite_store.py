"""The store on disk answers as the one of rollouts does, and keeps what it acknowledged."""

import glob
import json
import os
import sqlite3
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from agemem_jax.memory.embedders import HashedNGramEmbedder
from agemem_jax.memory.operations import Add, Clear, Delete, Retrieve, Update
from agemem_jax.memory.store import MemoryStore
from agemem_jax.serving.memory import memory_file
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.serving.memory.user_memory import UserMemory
from experiments.checks import cross_user_reads

USERS = ("ana", "bo", "cy")
ENTRIES = 4
_TEXTS = ["", "a", "b", "ab", "abc", "bca", "ccc"]


class LetterEmbedder:
    """Letter counts over 8: sums of their products are exact in float32, in any order."""

    dim = 3

    def embed(self, texts):
        return np.array([[t.count(c) / 8 for c in "abc"] for t in texts], np.float32)


_metadata = st.none() | st.dictionaries(st.sampled_from(["topic", "source"]), st.integers(0, 1))
_picks = st.integers(0, 5)
_requests = st.one_of(
    st.builds(Add, st.sampled_from(_TEXTS), _metadata),
    st.builds(Add, st.sampled_from(_TEXTS), _metadata),
    st.builds(Add, st.just("b"), _metadata, st.sampled_from(["mem_00000005", "mem_0"])),
    st.tuples(st.just(Update), _picks, st.sampled_from(_TEXTS), _metadata),
    st.tuples(st.just(Delete), _picks),
    st.builds(Retrieve, st.sampled_from(_TEXTS), st.integers(0, ENTRIES + 1), _metadata),
    st.builds(Clear, st.integers(0, 3)),
)


class BothStores(RuleBasedStateMachine):
    """Random operations of three users, asked of both stores; the file is reopened on the way."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rollouts = MemoryStore.create(LetterEmbedder(), len(USERS), ENTRIES)
        for row, user in enumerate(USERS):
            self.rollouts.clear(row, user)  # from which the ids follow
        self.time = 0
        self.open()

    def open(self):
        self.disk = SQLiteStore(
            f"{self.folder.name}/m.db", LetterEmbedder(), entries=ENTRIES, cached_users=2
        )

    def teardown(self):
        self.disk.close()
        self.folder.cleanup()

    @rule(tick=st.dictionaries(st.integers(0, len(USERS) - 1), _requests), reopen=st.integers(0, 9))
    def run_tick(self, tick, reopen):
        self.time += 1
        if reopen == 0:
            self.disk.close()
            self.open()
        for row, request in tick.items():
            if isinstance(request, tuple):
                kind, pick, *rest = request
                names = [*self.rollouts.contents(row), "mem_00000000", "mem_12345678", "no" * 40]
                tick[row] = kind(names[pick % len(names)], *rest)
        wanted = self.rollouts.execute(tick, self.time)
        found = self.disk.execute({USERS[row]: request for row, request in tick.items()}, self.time)
        assert found == {USERS[row]: result for row, result in wanted.items()}
        for row, user in enumerate(USERS):
            for name in ("contents", "metadata"):
                one, other = getattr(self.disk, name)(user), getattr(self.rollouts, name)(row)
                assert list(one.items()) == list(other.items())


BothStores.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestBothStoresAnswerAlikeWhateverIsAsked = BothStores.TestCase


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "memory.db")


def bytes_on_disk(path):
    return b"".join(open(name, "rb").read() for name in glob.glob(f"{path}*"))


def test_real_embeddings_give_the_same_ranking_and_scores_as_rollouts_have(path):
    texts = [
        f"{name} lives in {town}." for name in ("Ana", "Bo", "Cy") for town in ("Rome", "Oslo")
    ]
    rollouts = MemoryStore.create(HashedNGramEmbedder(), 1, 16)
    rollouts.clear(0, "ana")
    with SQLiteStore(path, HashedNGramEmbedder(), entries=16) as store:
        for text in texts:
            assert (
                store.execute({"ana": Add(text)}, 1)["ana"]
                == rollouts.execute({0: Add(text)}, 1)[0]
            )
        for query in ("Where does Bo live?", "Oslo", "nothing alike"):
            (found,) = store.execute({"ana": Retrieve(query, 6)}, 2).values()
            (wanted,) = rollouts.execute({0: Retrieve(query, 6)}, 2).values()
            ranked = [[e.score for e in each.entries] for each in (found, wanted)]
            by_text = [{e.content: e.score for e in each.entries} for each in (found, wanted)]
            np.testing.assert_allclose(*ranked, atol=1e-6)
            assert by_text[0] == pytest.approx(by_text[1], abs=1e-6)
        pairs = [("Oslo", "Ana lives in Oslo."), ("Rome", "tea")]
        assert store.similarities(pairs) == rollouts.similarities(pairs)


def test_a_second_process_is_refused_in_one_sentence_and_the_file_is_free_afterwards(path):
    program = (
        "import sys\nfrom agemem_jax.serving.memory.memory_file import MemoryFile\n"
        f"try:\n    MemoryFile({path!r})\n"
        "except BlockingIOError as error:\n    sys.exit(str(error))"
    )
    with SQLiteStore(path, LetterEmbedder()):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.stderr == (
            f"{path} is in use by process {os.getpid()}; a memory is open in one process at a "
            "time, so end that one or take another file.\n"
        )
        with pytest.raises(BlockingIOError, match="is in use by process"):
            SQLiteStore(path, LetterEmbedder())
        # Whoever does not know the lock beside it is kept out by SQLite itself.
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(path, timeout=0).execute("SELECT * FROM users")
    SQLiteStore(path, LetterEmbedder()).close()


def test_a_memory_is_readable_for_its_owner_alone(path):
    with SQLiteStore(path, LetterEmbedder()) as store:
        store.execute({"ana": Add("a")}, 1)
        for name in glob.glob(f"{path}*"):
            assert os.stat(name).st_mode & 0o077 == 0, name


def test_a_file_that_is_no_memory_is_refused_and_left_as_it_is(tmp_path):
    text, other = tmp_path / "text", tmp_path / "other.db"
    text.write_text("Not a database, but long enough to look at." * 50)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE shopping (item)")
    connection.close()
    for each, told in ((text, "is no memory that can be read"), (other, "of another program")):
        before = each.read_bytes()
        with pytest.raises(ValueError, match=told):
            SQLiteStore(each, LetterEmbedder())
        assert each.read_bytes() == before


def test_a_file_of_a_newer_version_is_refused(path, monkeypatch):
    monkeypatch.setattr(memory_file, "MIGRATIONS", (*memory_file.MIGRATIONS, "CREATE TABLE n (x)"))
    SQLiteStore(path, LetterEmbedder()).close()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="version 2, and this program knows versions up to 1"):
        SQLiteStore(path, LetterEmbedder())


def test_an_earlier_file_is_brought_to_this_version_or_stays_whole(path, monkeypatch):
    with SQLiteStore(path, LetterEmbedder()) as store:
        store.execute({"ana": Add("abc")}, 1)
    good = "ALTER TABLE users ADD COLUMN colour TEXT; CREATE INDEX colours ON users (colour);"
    monkeypatch.setattr(
        memory_file, "MIGRATIONS", (*memory_file.MIGRATIONS, good + "CREATE TABLE users (x)")
    )
    with pytest.raises(ValueError, match="already exists"):
        SQLiteStore(path, LetterEmbedder())
    monkeypatch.undo()
    with SQLiteStore(path, LetterEmbedder()) as store:
        assert list(store.contents("ana").values()) == ["abc"]
    monkeypatch.setattr(memory_file, "MIGRATIONS", (*memory_file.MIGRATIONS, good))
    with SQLiteStore(path, LetterEmbedder()) as store:
        assert list(store.contents("ana").values()) == ["abc"]
        assert store.file.rows("SELECT name, colour FROM users") == [("ana", None)]


def test_another_embedder_finds_what_an_earlier_one_embedded(path):
    with SQLiteStore(path, LetterEmbedder()) as store:
        for text in ("Ana lives in Oslo.", "Tea is green."):
            store.execute({"ana": Add(text)}, 1)
    with SQLiteStore(path, HashedNGramEmbedder()) as store:
        (found,) = store.execute({"ana": Retrieve("green tea", 1)}, 2).values()
        assert found.entries[0].content == "Tea is green." and found.entries[0].score > 0.5
        assert store.check() == []


@pytest.mark.parametrize("how", ["user", "entry", "edit"])
def test_what_is_forgotten_is_nowhere_in_the_files(path, how):
    """Long and short texts, between others that were moved around, gone from every byte."""
    rng = np.random.default_rng(0)
    with SQLiteStore(path, HashedNGramEmbedder()) as store:
        mine, others = UserMemory(store, "secretary"), UserMemory(store, "bo")
        for number in range(30):
            mine.add(f"SECRET {number} " + "SECRET " * int(rng.integers(0, 900)), {"k": "SECRET"})
            name = others.add("other " * int(rng.integers(1, 300)))
            store.execute({"bo": Update(name, "another " * int(rng.integers(1, 300)))}, 1)
        mine.add("A SECRET of five words")
        vector = HashedNGramEmbedder().embed(["A SECRET of five words"])[0].astype("<f4").tobytes()
        assert b"SECRET" in bytes_on_disk(path) and vector in bytes_on_disk(path)
        if how == "user":
            assert mine.forget_all() == 31
            assert b"secretary" not in bytes_on_disk(path)
        for entry in mine.entries()[:-1] if how != "user" else ():
            store.execute({"secretary": Delete(entry.memory_id)}, 2)
        if how == "entry":
            mine.forget(mine.entries()[0].memory_id)
        elif how == "edit":
            last = mine.entries()[0].memory_id
            store.execute({"secretary": Update(last, "harmless", {})}, 3)
            mine.edit(last, "quite harmless")
        assert b"SECRET" not in bytes_on_disk(path)
        assert vector not in bytes_on_disk(path)
        assert len(others) == 30 and store.check() == []
    assert b"SECRET" not in bytes_on_disk(path)


def test_a_write_that_fails_is_not_acknowledged_and_changes_nothing(path):
    with SQLiteStore(path, LetterEmbedder()) as store:
        store.execute({"ana": Add("abc")}, 1)
        before = store.records("ana")
        pages = store.file.rows("PRAGMA page_count")[0][0]
        store.file.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.execute({"bo": Add("b"), "ana": Add("a" * 100_000)}, 2)
        store.file.connection.execute("PRAGMA max_page_count = 100000")
        assert store.records("ana") == before and store.records("bo") == {}
        assert store.execute({"ana": Add("a")}, 3)["ana"].ok
    with SQLiteStore(path, LetterEmbedder()) as store:
        assert list(store.contents("ana").values()) == ["abc", "a"]
        assert store.users() == {"ana": 2}


def test_what_a_file_would_give_back_as_something_else_is_refused(path):
    with SQLiteStore(path, LetterEmbedder()) as store:
        for operation, told in (
            (Add("\ud800"), "half of a character"),
            (Add("a", {"at": (1, 2)}), "values of JSON"),
            (Add("a", {"at": float("nan")}), "values of JSON"),
        ):
            with pytest.raises(ValueError, match=told):
                store.execute({"ana": operation}, 1)
        for name in ("", "x" * 257, "\udfff"):
            with pytest.raises(ValueError, match="the name must be text of 1 to 256"):
                store.execute({name: Add("a")}, 1)
        assert store.users() == {}


def test_an_export_is_json_that_another_file_takes_back_with_ids_and_times(path, tmp_path):
    out = tmp_path / "export.json"
    with SQLiteStore(path, LetterEmbedder()) as store:
        memory = UserMemory(store, "ana", now=lambda: 7)
        names = [memory.add(text) for text in ("a", "b é", "c")]
        store.execute({"ana": Update(names[1], "b é!")}, 9)
        memory.export_to(out)
        before = memory.entries()
        with pytest.raises(ValueError, match="has one of this id already"):
            memory.import_from(out)
        with pytest.raises(FileExistsError):
            memory.export_to(out)
    assert [each["content"] for each in json.loads(out.read_text())["memories"]] == [
        "a",
        "b é!",
        "c",
    ]
    with SQLiteStore(tmp_path / "other.db", LetterEmbedder(), entries=3) as store:
        memory = UserMemory(store, "ana")
        assert memory.import_from(out) == 3
        assert memory.entries() == before
        assert (before[1].created, before[1].modified) == (7, 9)
        assert [e.content for e in memory.search("c", 1)] == ["c"]
        with pytest.raises(ValueError, match="The memory is full"):
            UserMemory(store, "ana").add("d")
    out.write_text('{"format": "agemem memories", "version": 1, "memories": [{"id": "mem_1"}]}')
    with SQLiteStore(None, LetterEmbedder()) as store:
        with pytest.raises(ValueError, match="is no export of memories"):
            UserMemory(store, "ana").import_from(out)


def test_no_user_is_ever_shown_what_is_another_s(tmp_path):
    """experiments/checks/cross_user_reads.py asks a million times."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else str(tmp_path)
    done = cross_user_reads.run(2000, 40, folder, seed=1)
    assert done.total() >= 2000 and len(done) == 5
