"""What is exchanged with a model, in a form that does not depend on the words of a prompt.

A library and our re-implementation ask for the same things in different words. An adapter reads
both into a `ModelRequest`; the scripted model answers that, and equal requests get equal replies.
"""

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agemem_jax.rollout.requests import Generate
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class ModelRequest:
    """A call of the model.

    Attributes:
      kind: what is asked for, in a word.
      data: what the prompt says beside instructions, as values of JSON.
    """

    kind: str
    data: Mapping[str, Any]

    @property
    def text(self) -> str:
        """One line that is the same for equal requests."""
        return json.dumps({"kind": self.kind, **self.data}, sort_keys=True, ensure_ascii=False)

    def choice(self, options: int, salt: str = "") -> int:
        """A number below `options` that only depends on the request and the salt."""
        return zlib.crc32(f"{salt} {self.text}".encode()) % options


@dataclasses.dataclass(frozen=True)
class NamedRequest(ModelRequest):
    """A request that shows entries, which stand in `data` without their ids.

    Attributes:
      ids: of the entries shown, in order. A reply has `#0` for the first of them, and so on.
    """

    ids: tuple[str, ...] = ()

    def with_ids(self, text: str) -> str:
        """The text of a reply with ids in the place of their numbers."""
        for place, name in enumerate(self.ids):
            text = text.replace(f'"#{place}"', f'"{name}"')
        return text


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the model answers: text, or calls of tools, each a name and arguments as text."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Operation:
    """One change of a store.

    Attributes:
      kind: "ADD", "UPDATE", "DELETE", or what an adapter calls another one.
      entry: the number of the entry, in the order in which entries were added to the store; -1
        where entries have no identity.
      text: the content after the change, or that of what was deleted.
    """

    kind: str
    entry: int
    text: str


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of one conversation.

    Attributes:
      operations: on the store, in order.
      requests: lines of the calls of the model while the conversation was told, in order.
      found: what was found for the question at the end, best first; sorted where a library
        promises no order.
    """

    operations: tuple[Operation, ...]
    requests: tuple[str, ...]
    found: tuple[str, ...]

    @property
    def short(self) -> "Run":
        """The same with checksums of the requests, which are long."""
        sums = (f"{zlib.crc32(line.encode()):08x}" for line in self.requests)
        return dataclasses.replace(self, requests=tuple(sums))


class Adapter(Protocol):
    """A memory system under comparison: one file each, named in `adapters.ADAPTERS`.

    Attributes:
      method: ours, as `--methods` names it.
    """

    method: str

    def request_of_library(self, body: Mapping[str, Any]) -> ModelRequest:
        """What the library asked, from the body that it sent to `/v1/chat/completions`."""

    def request_of_ours(self, request: Generate) -> ModelRequest:
        """What our method asked."""

    def answer(self, request: ModelRequest) -> Reply:
        """The scripted model: the same reply to the same request, wrong ones among them."""

    def as_text(self, request: ModelRequest, reply: Reply) -> str:
        """The reply as our method reads it, for which a call of a tool is text."""

    def run_of_ours(self, trajectory: Trajectory, requests: Sequence[ModelRequest]) -> Run:
        """What our method did, from its events."""

    def run_library(self, task: Task, url: str, requests: Sequence[ModelRequest]) -> Run:
        """Tells the library a conversation, with the model at `url`, and asks it the question.

        `requests` grows with every call of the model.

        Raises:
          ImportError: the library is not installed.
        """
