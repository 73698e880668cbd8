"""Talks with an agent in the terminal, and shows what it remembers.

    agemem-chat --workdir=runs/quickstart --memory=memories.db --user=ana
    agemem-chat --backbone=smollm2-135m --memory=memories.db

Gives an agent from a training run, or a backbone as it is. Its long-term memory is in the file of
--memory, by user, and outlives the conversation; without the flag it ends with it. /help lists
what can be asked of the program itself: to look at memories, search, edit, forget and export them.
Messages are read line by line where the input is no terminal. Ctrl-C stops an answer; Ctrl-D ends.
"""

import sys

from absl import app, flags, logging
from rich.console import Console

from agemem_jax.commands import cli
from agemem_jax.commands.chat_commands import Commands
from agemem_jax.commands.chat_view import View, plain
from agemem_jax.commands.checkpoint_flag import CHECKPOINT


def define_flags() -> None:
    """Defines the flags; not where this is imported, since other programs have some of them."""
    flags.DEFINE_string("workdir", None, "Directory of the training run, or one checkpoint of it.")
    flags.DEFINE_string("backbone", None, "What to talk with, as agemem-backbones tells.")
    flags.DEFINE_bool("before_rl", False, "With --workdir: the policy before RL.")
    flags.DEFINE_string("memory", None, "File of the long-term memory; made where it is missing.")
    flags.DEFINE_string("user", "user", "Whose memories it reads and writes.")
    flags.DEFINE_float(
        "temperature", None, "0 is greedy; default: the run's, or 0 with --backbone.", 0.0
    )
    flags.DEFINE_integer("seed", 0, "Of what is sampled.", 0)
    flags.DEFINE_bool("thoughts", False, "Show thoughts unfolded; /thoughts changes it.")
    flags.DEFINE_string("prompt_style", None, "full or compact; default: the run's.")
    flags.DEFINE_integer("max_context_tokens", None, "Budget of the context.", 1)
    flags.DEFINE_integer("max_response_tokens", None, "Of one response.", 1)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    given = flags.FLAGS
    if (given.backbone is None) == (given.workdir is None):
        raise app.UsageError("Give --workdir or --backbone, one of them.")
    logging.set_verbosity(min(logging.get_verbosity(), logging.WARNING))
    from agemem_jax.library.loading import find_run, load_agent  # they take their time

    if given.workdir is not None and find_run(given.workdir, CHECKPOINT.value)[0] is None:
        raise ValueError(
            f"--workdir is {given.workdir!r}, which holds no training run; a backbone is given by "
            "--backbone."
        )
    names = ("prompt_style", "max_context_tokens", "max_response_tokens")
    agent = load_agent(
        given.workdir or given.backbone, given.memory, given.user,
        checkpoint=CHECKPOINT.value, before_rl=given.before_rl, temperature=given.temperature,
        seed=given.seed,
        episode={name: given[name].value for name in names if given[name].value is not None},
    )  # fmt: skip
    with agent:
        converse(agent, Console(highlight=False), sys.stdin, given.thoughts)


def converse(agent, console: Console, lines, thoughts: bool = False) -> None:
    """Reads messages until there are no more, or one says so.

    Args:
      agent: to talk with.
      console: to show it on.
      lines: a file of messages. Where it is the terminal, lines can be edited.
      thoughts: whether they are shown unfolded.
    """
    view = View(console, thoughts)
    commands = Commands(agent, view)
    view.begin(agent)
    interrupted = False
    while not commands.ended:
        try:
            text = _read(view, agent.user, lines)
            if text is None:
                break
            if text.strip():
                _do(agent, view, commands, text.strip())
            interrupted = False
        except KeyboardInterrupt:
            view.stop()
            if interrupted:
                break
            interrupted = True
            view.note("Stopped. What it has stored stays. Ctrl-C again, Ctrl-D or /quit ends.")
    view.note("Bye.")


def _read(view: View, user: str, lines) -> str | None:
    """The next message; None at the end."""
    if lines.isatty():
        try:
            import readline  # noqa: F401  # lines can be edited from now on
        except ImportError:
            pass
        try:
            return input(f"{plain(user)}> ")
        except EOFError:
            return None
    line = lines.readline()
    if line.strip():
        view.say(user, line.strip())
    return line or None


def _do(agent, view: View, commands: Commands, text: str) -> None:
    asked = None
    if text.startswith("/"):
        message = commands.run(text)
        if message is None:
            return
        asked, text = message
    view.wait()
    try:
        reply = agent.chat(text, view.show, asked=asked)
    except ValueError as error:
        view.stop()
        view.note(str(error), "red")
        return
    view.finish(reply, len(agent.memory))


def run():
    define_flags()
    cli.run(main)
