"""File search: the history is a file, and the policy searches it.

Letta's file system baseline ("Benchmarking AI Agent Memory: Is a Filesystem All You Need?",
August 2025), which reached 74.0 % on LoCoMo with nothing but the conversations in files and
tools to search them, more than systems that extract memories.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from agemem_jax.methods.history_file import HistoryFile
from agemem_jax.methods.listening import Listening, listening_config
from agemem_jax.protocol import prompts
from agemem_jax.protocol.events import RetrievalEvent
from agemem_jax.protocol.messages import Kind
from agemem_jax.protocol.tools import Parameter, ToolResult, ToolSpec
from agemem_jax.rollout.episode import EpisodeRules, Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.tool_use import Play
from agemem_jax.rollout.tools.memory import MAX_TOP_K
from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class FileSearch:
    """All of Stage 1 in a file, which two tools search in Stages 2 and 3.

    What differs from Letta's agent:

    - That must begin with a search. Here the episode makes this first search itself, by the words
      of the goal (`first`), so that a policy too small to know the tools has the baseline, too;
      all others are the policy's.
    - `Search_history` ranks by words (BM25), where Letta's embeds; `Grep_history` looks for a text,
      not for a regular expression. There is no tool that opens a file at a place: a passage is
      found whole.

    The file counts as the memory where that is measured (MQ, hygiene): it holds everything.

    Attributes:
      first: whether the `episode.top_k` best passages are shown with the goal.
      passage_words: above which a message of several lines becomes several passages.
    """

    title: ClassVar[str] = "File search"
    trained: ClassVar[bool] = False
    first: bool = True
    passage_words: int = 60

    def __post_init__(self):
        if self.passage_words < 1:
            raise ValueError(f"passage_words is {self.passage_words}; it must be at least 1.")

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        start = functools.partial(
            FileSearchEpisode, first=self.first, passage_words=self.passage_words
        )
        return player.rules(listening_config(episode, tools=(SEARCH, GREP)), start)


class FileSearchEpisode(Listening):
    """An episode that writes Stage 1 into a file."""

    def __init__(self, rules: EpisodeRules, task: Task, first: bool, passage_words: int):
        super().__init__(rules, task)
        self.history = HistoryFile(passage_words)
        self._first = first

    def end_session(self) -> Play:
        for message in self.context.messages:
            if message.kind is Kind.TASK_MESSAGE:
                self.history.write(message.text)
        self.memory = dict(self.history.passages)
        yield from super().end_session()

    def with_step_retrieval(self, text: str) -> Play:
        """The goal is the first message of Stage 3."""
        if self.stage != 3 or not self._first:
            return (yield from super().with_step_retrieval(text))
        self._first = False
        found = self.history.search(self.task.query, self.config.top_k)
        self.events.append(RetrievalEvent(self.stage, self.step, self.task.query, found))
        return prompts.task_message_text(text, found)


def _search(episode: FileSearchEpisode, arguments: Mapping[str, Any]) -> Play:
    yield from ()  # needs nobody's answer
    top_k = arguments.get("top_k") or episode.config.top_k
    return _found(episode.history.search(arguments["query"], top_k))


def _grep(episode: FileSearchEpisode, arguments: Mapping[str, Any]) -> Play:
    yield from ()
    return _found(episode.history.grep(arguments["text"], MAX_TOP_K))


def _found(entries) -> ToolResult:
    return ToolResult(prompts.memories_text(entries), effect="retrieved", retrieved=entries)


SEARCH = ToolSpec(
    name="Search_history",
    target="other",
    parameters=(
        Parameter("query", str, True, "Words to look for; rare ones count most."),
        Parameter(
            "top_k", int, False, f"How many passages, 1 to {MAX_TOP_K}.", default=3,
            minimum=1, maximum=MAX_TOP_K,
        ),
    ),
    description="Brings the passages of the earlier conversation that fit these words best.",
    summary="search the earlier conversation",
    example={"query": "Ana lives"},
    handler=_search,
)  # fmt: skip
GREP = ToolSpec(
    name="Grep_history",
    target="other",
    parameters=(Parameter("text", str, True, "What a passage must contain, word for word."),),
    description="Brings the passages of the earlier conversation that contain exactly this text.",
    summary="passages with exactly this text",
    example={"text": "Ana"},
    handler=_grep,
)
