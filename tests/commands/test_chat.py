"""The chat program on prepared responses: what is shown, commands, interruptions."""

import io
import json
import pathlib

import pytest
from rich.console import Console

from agemem_jax.commands import chat as program
from agemem_jax.commands.chat_view import plain
from tests.rollout.scripted import NOTED, answer, call
from tests.serving.agent.test_agent import chat, start  # noqa: F401  # chat is a fixture


class Lines(io.StringIO):
    """Messages of a pipe; an exception in between is raised where its line is read."""

    def __init__(self, *lines):
        super().__init__()
        self.left = list(lines)

    def readline(self):
        line = self.left.pop(0) if self.left else ""
        if isinstance(line, BaseException):
            raise line
        return line + "\n" if line else ""


def shown(agent, *lines, terminal=False, **options):
    console = Console(
        file=io.StringIO(), width=100, highlight=False, force_terminal=terminal, no_color=True
    )
    program.converse(agent, console, Lines(*lines), **options)
    return console.file.getvalue()


def test_a_conversation_shows_every_memory_operation_and_how_full_the_context_is(chat):  # noqa: F811
    agent, engine = start(chat, call("Add_memory", content="Ana lives in Rome."))
    text = shown(agent, "I live in Rome.")
    (entry,) = agent.memory
    name = entry.memory_id
    assert "ana has 0 memories." in text and "ana> I live in Rome." in text
    assert f"  + {name} Ana lives in Rome.\n(no answer: it did what is above)" in text
    assert "  … thought, 1 word\n" in text and "So." not in text, "thoughts are folded"
    assert f"context {agent.context_tokens} of 700 tokens, 1 memory\n" in text
    engine.replies = [
        call("Retrieve_memory", query="Ana"),
        call("Update_memory", memory_id=name, content="Ana lives in Oslo."), answer("Oslo."),
        call("Delete_memory", memory_id=name, confirmation=True),
        call("Filter_context", criteria="I live in Rome."), "What?", call("Nonsense", a=1),
    ]  # fmt: skip
    text = shown(
        agent, "Where do I live now?", "Forget it.", "Shorter.", "Odd.", "Odder.", thoughts=True
    )
    assert "  … So.\n  ? looked for: Ana\n" in text
    assert f"    {name} Ana lives in Rome. (" in text
    assert f"  ~ {name} Ana lives in Oslo. (was: Ana lives in Rome.)\n" in text
    assert "agent> Oslo.\n" in text
    assert f"  - {name} Ana lives in Oslo.\n" in text
    assert "  x Filter_context, " in text
    assert "  | What?\n  ! not as the protocol asks: Start with <think>...</think>.\n" in text
    assert '  ! Nonsense failed: There is no tool "Nonsense"' in text
    assert text.endswith("Bye.\n")


def test_commands_look_at_memories_search_edit_forget_and_export_them(
    chat,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    agent, _ = start(chat)
    monkeypatch.chdir(tmp_path)  # a longer path would be broken over lines
    out = pathlib.Path("out.json")
    shown(agent, "/add Ana lives in Rome.", "/add Bo likes tea.")
    first, second = (entry.memory_id for entry in agent.memory)
    text = shown(
        agent, "/memories", "/search tea", f"/edit {first} Ana lives in Oslo.", f"/export {out}",
        f"/export {out}", f"/forget {second}", "/forget all", "/memories", "/forget all of ana",
        f"/import {out}", "/user bo", "/memories",
    )  # fmt: skip
    assert text.index(first) < text.index(second) and "Ana lives in Rome." in text
    searched = text.split("/search tea")[1]
    assert searched.index("Bo likes tea.") < searched.index("Ana lives in Rome.")
    assert f"Updated {first}." in text and f"Wrote 2 memories to {out}." in text
    assert f"{out}: File exists." in text
    assert "This removes everything; write: /forget all of ana" in text
    assert "Removed 1 memories." in text and "Took 2 memories" in text
    assert text.endswith("bo has 0 memories. /help lists commands.\nbo> /memories\n"
                         "No memories.\nBye.\n")  # fmt: skip
    assert [e["content"] for e in json.loads(out.read_text())["memories"]] == [
        "Ana lives in Oslo.", "Bo likes tea.",
    ]  # fmt: skip


def test_wrong_commands_are_told_in_a_sentence_and_help_lists_all(chat):  # noqa: F811
    agent, engine = start(chat)
    text = shown(agent, "/memorise", "/xyzzy", "/edit", "/forget mem_1", "/help", "/quit", "no")
    assert "There is no command /memorise; did you mean /memories?" in text
    assert "There is no command /xyzzy; /help lists them." in text
    assert "Something is missing; write: /edit ID TEXT" in text
    assert "No memory has the id 'mem_1'" in text
    for name in ("memories", "search", "edit", "forget", "export", "new", "tell", "ask", "quit"):
        assert f"\n/{name}" in text
    assert not engine.requests and "ana> no" not in text, "nothing is read behind /quit"


def test_a_message_is_asked_or_told_whatever_it_ends_with(chat):  # noqa: F811
    agent, _ = start(chat, NOTED, answer("Oslo"))
    shown(agent, "/tell Did you know?", "/ask Name my town.", "/new", "/context")
    assert agent.context[1:] == (), "a new conversation"
    agent, _ = start(chat, NOTED, answer("Oslo"))
    text = shown(agent, "/tell Did you know?", "/ask Name my town.", "/context")
    assert "user> Did you know?" in text and "user> Question: Name my town." in text


def test_ctrl_c_stops_an_answer_and_twice_in_a_row_ends(chat):  # noqa: F811
    agent, engine = start(chat, KeyboardInterrupt(), NOTED)
    text = shown(agent, "Hello.", "Hello again.", KeyboardInterrupt(), KeyboardInterrupt(), "no")
    assert text.count("Stopped. What it has stored stays.") == 2
    assert "agent> Noted." in text and text.endswith("Bye.\n") and engine.cancelled == 1
    assert "Hello." not in dict(agent.context).get("user", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_an_answer_is_shown_once_streamed_or_not(chat, terminal):  # noqa: F811
    agent, _ = start(chat, answer("The answer is a long one, of several words."))
    text = shown(agent, "Well?", terminal=terminal)
    assert text.count("The answer is a long one, of several words.") == 1


def test_a_terminal_does_not_obey_what_a_memory_says(chat):  # noqa: F811
    agent, _ = start(chat)
    agent.memory.add("\x1b[2Jgone \u202eright to left [bold]markup[/bold]\x07")
    text = shown(agent, "/memories", "/search gone")
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert text.count("[bold]markup[/bold]") == 2
    assert plain("a\tb\nc") == "a\tb\nc"


def test_a_message_that_does_not_fit_is_refused_in_a_sentence(chat):  # noqa: F811
    agent, _ = start(chat)
    assert "and the context holds 700; say it in parts." in " ".join(
        shown(agent, "word " * 2000).split()
    )
