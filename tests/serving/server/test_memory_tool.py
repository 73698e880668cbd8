import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.serving.memory.user_memory import UserMemory
from agemem_jax.serving.server.memory_tool import MemoryTool, MemoryToolError


@pytest.fixture
def memory():
    with SQLiteStore(None, make_embedder("hashed_ngrams"), entries=20) as store:
        yield UserMemory(store, "ana")


@pytest.fixture
def run(memory):
    tool = MemoryTool(memory)
    return lambda command, **arguments: tool.run({"command": command, **arguments})


def text(run, path):
    lines = run("view", path=path).split("\n")[1:]
    return "\n".join(line.split("\t", 1)[1] for line in lines)


def test_a_file_is_created_shown_edited_renamed_and_deleted(run, memory):
    path = "/memories/notes/a.txt"
    run("create", path=path, file_text="one\ntwo\nthree")
    assert run("view", path=path).endswith("\n     1\tone\n     2\ttwo\n     3\tthree")
    assert run("view", path=path, view_range=[2, -1]).split("\n")[1] == "     2\ttwo"
    run("str_replace", path=path, old_str="two", new_str="2")
    run("insert", path=path, insert_line=0, insert_text="zero\n")
    run("insert", path=path, insert_line=4, insert_text="four")
    assert text(run, path) == "zero\none\n2\nthree\nfour"
    assert [entry.content for entry in memory] == ["zero\none\n2\nthree\nfour"]
    run("rename", old_path="/memories/notes", new_path="/memories/old")
    assert text(run, "/memories/old/a.txt").startswith("zero")
    assert "21\t/memories/old/a.txt" in run("view", path="/memories")
    run("delete", path="/memories/old")
    assert not len(memory)


def test_what_the_agent_stored_is_a_file_and_a_file_is_what_it_finds(run, memory):
    name = memory.add("Ana lives in Oslo.")
    assert text(run, f"/memories/{name}.txt") == "Ana lives in Oslo."
    run("rename", old_path=f"/memories/{name}.txt", new_path="/memories/home.txt")
    run("str_replace", path="/memories/home.txt", old_str="Oslo", new_str="Rome")
    assert memory.search("Rome", 1)[0].content == "Ana lives in Rome."
    assert memory[name].metadata["path"] == "/memories/home.txt"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/memories/../etc/passwd", "/memories/..", "/memories/./a", "memories/a",
        "/memories//a", "/memories/a\x00b", "/memories/%2e%2e/a", "/memories\\a", "/memoriesx/a",
        "/memories/a/../../b", "/memories/...", "", "/", "/memories/" + "a/" * 20, None, 3,
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_refused(run, memory, path):
    for command in (
        {"command": "create", "file_text": "x"},
        {"command": "delete"},
        {"command": "view"},
    ):
        with pytest.raises(MemoryToolError, match="Error"):
            MemoryTool(memory).run({**command, "path": path})
    run("create", path="/memories/a", file_text="x")
    with pytest.raises(MemoryToolError):
        run("rename", old_path="/memories/a", new_path=path)
    assert [entry.content for entry in memory] == ["x"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ({"command": "view", "path": "/memories/none"}, "does not exist"),
        ({"command": "view", "path": "/memories/a", "view_range": [0, 1]}, "view_range"),
        ({"command": "view", "path": "/memories/a", "view_range": [9, 9]}, "view_range"),
        ({"command": "create", "path": "/memories/a", "file_text": "y"}, "exists already"),
        ({"command": "create", "path": "/memories/a/b", "file_text": "y"}, "is a file"),
        ({"command": "create", "path": "/memories", "file_text": "y"}, "exists already"),
        ({"command": "str_replace", "path": "/memories/a", "old_str": "z"}, "does not stand"),
        ({"command": "str_replace", "path": "/memories/a", "old_str": "l"}, "stands 2 times"),
        ({"command": "str_replace", "path": "/memories/d", "old_str": "l"}, "is a directory"),
        (
            {"command": "insert", "path": "/memories/a", "insert_line": 9, "insert_text": ""},
            "insert_line",
        ),
        ({"command": "delete", "path": "/memories"}, "cannot be deleted"),
        (
            {"command": "rename", "old_path": "/memories/a", "new_path": "/memories/d/b"},
            "exists already",
        ),
        (
            {"command": "rename", "old_path": "/memories/d", "new_path": "/memories/d/e"},
            "lies in",
        ),
        ({"command": "format"}, "Error"),
        ({"command": "view", "path": "/memories", "mode": 1}, "mode"),
        ({}, "Error"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(run, memory, command, said):
    run("create", path="/memories/a", file_text="hello")
    run("create", path="/memories/d/b", file_text="there")
    before = memory.export()
    with pytest.raises(MemoryToolError, match=said):
        MemoryTool(memory).run(command)
    assert memory.export() == before
