"""What can be asked of the chat program itself: lines that begin with a slash."""

import difflib
import inspect
from collections.abc import Callable

from agemem_jax.commands.chat_view import View
from agemem_jax.serving.agent.agent import Agent

Message = tuple[bool, str]  # whether it is a question, and its text


class Commands:
    """Runs commands; each is a method, whose docstring is what /help shows.

    Attributes:
      ended: whether the conversation is to end.
    """

    def __init__(self, agent: Agent, view: View):
        self.agent, self.view = agent, view
        self.ended = False
        self._table: dict[str, Callable[[str], Message | None]] = {
            name.removeprefix("do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("do_")
        }

    def run(self, line: str) -> Message | None:
        """Runs one line; what is wrong with it is shown in a sentence.

        Returns:
          What the agent is to be told or asked; None where nothing is.
        """
        name, _, rest = line[1:].partition(" ")
        command = self._table.get(name)
        if command is None:
            close = difflib.get_close_matches(name, self._table, n=1)
            hint = f"did you mean /{close[0]}?" if close else "/help lists them."
            self.view.note(f"There is no command /{name}; {hint}", "red")
            return None
        try:
            return command(rest.strip())
        except OSError as error:
            self.view.note(f"{error.filename}: {error.strerror}.", "red")
        except (ValueError, KeyError) as error:
            self.view.note(str(error.args[0]), "red")
        return None

    def do_help(self, rest: str) -> None:
        """/help: this list."""
        for command in self._table.values():
            self.view.note(inspect.getdoc(command), "default")

    def do_memories(self, rest: str) -> None:
        """/memories: everything that it remembers of you, oldest first."""
        self.view.entries(self.agent.memory)

    def do_search(self, rest: str) -> None:
        """/search TEXT: the five memories nearest to the text."""
        self.view.entries(self.agent.memory.search(_needed(rest, "/search TEXT")))

    def do_add(self, rest: str) -> None:
        """/add TEXT: stores a memory yourself."""
        self.view.note(f"Added {self.agent.memory.add(_needed(rest, '/add TEXT'))}.")

    def do_edit(self, rest: str) -> None:
        """/edit ID TEXT: replaces the text of a memory."""
        name, _, text = rest.partition(" ")
        self.agent.memory.edit(name, _needed(text.strip(), "/edit ID TEXT"))
        self.view.note(f"Updated {name}.")

    def do_forget(self, rest: str) -> None:
        """/forget ID: removes a memory for good. "/forget all of USER" removes all of them."""
        memory = self.agent.memory
        if rest.startswith("all"):
            if rest != f"all of {memory.user}":
                raise ValueError(f"This removes everything; write: /forget all of {memory.user}")
            self.view.note(f"Removed {memory.forget_all()} memories.")
        else:
            memory.forget(_needed(rest, "/forget ID"))
            self.view.note(f"Removed {rest}.")
        if len(self.agent.context) > 1:
            self.view.note("The conversation may still say it; /new begins another one.")

    def do_export(self, rest: str) -> None:
        """/export FILE: writes your memories into a new file, as JSON."""
        self.agent.memory.export_to(_needed(rest, "/export FILE"))
        self.view.note(f"Wrote {len(self.agent.memory)} memories to {rest}.")

    def do_import(self, rest: str) -> None:
        """/import FILE: takes the memories of an exported file."""
        count = self.agent.memory.import_from(_needed(rest, "/import FILE"))
        self.view.note(f"Took {count} memories from {rest}.")

    def do_context(self, rest: str) -> None:
        """/context: what the agent sees of the conversation now."""
        for role, text in self.agent.context:
            self.view.say(role, text)
        used, budget = self.agent.context_tokens, self.agent.max_context_tokens
        self.view.note(f"{used} of {budget} tokens")

    def do_new(self, rest: str) -> None:
        """/new: begins another conversation; only memories stay."""
        self.agent.forget_conversation()
        self.view.note("A new conversation.")

    def do_thoughts(self, rest: str) -> None:
        """/thoughts: shows thoughts unfolded from now on, or folded again."""
        self.view.thoughts = not self.view.thoughts
        self.view.note(f"Thoughts are {'shown' if self.view.thoughts else 'folded'}.")

    def do_user(self, rest: str) -> None:
        """/user NAME: becomes another user, in another conversation."""
        self.agent.user = _needed(rest, "/user NAME")
        self.view.begin(self.agent)

    def do_ask(self, rest: str) -> Message:
        """/ask TEXT: asks something that does not end with a question mark."""
        return True, _needed(rest, "/ask TEXT")

    def do_tell(self, rest: str) -> Message:
        """/tell TEXT: tells something that ends with a question mark, or begins with a slash."""
        return False, _needed(rest, "/tell TEXT")

    def do_quit(self, rest: str) -> None:
        """/quit: ends the program, as Ctrl-D does."""
        self.ended = True


def _needed(text: str, usage: str) -> str:
    if not text:
        raise ValueError(f"Something is missing; write: {usage}")
    return text
