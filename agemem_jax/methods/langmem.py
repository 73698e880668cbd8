"""LangMem: a background manager searches the store, then inserts, patches and deletes by calls.

The store manager of langmem 0.0.30 with deletions, one message at a time: a search, a call of the
model that makes all operations at once, and calls that repair what cannot be run. What differs:

- The instructions are in our own words, and short in the compact style. Calls are written in this
  library's `<tool_call>`, and are not forced by the sampler where the library forces one.
- Texts are embedded as they are; the library embeds the JSON of an entry, and queries with a
  header. It searches with the newest message alone, and so does this.
- A repair has instructions of its own; like the library's, it does not see the memory.
- A reply is one JSON array of calls: what is no JSON in one of them takes the others along.
- A reply that the library would ask for again until its graph gives up is asked for `max_attempts`
  times; after a repair without any call the library asks once more, then loses the message.
- A patch may copy eight times at most, since each time can double it.
- A call of an internal tool that was not on offer is repaired; the library stores its arguments.
- A prompt beyond T_max is cut, and the store has a capacity; the library knows neither limit.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jsonpatch

from agemem_jax.methods.langmem_prompts import EXTRACT, MANAGE, REPAIR
from agemem_jax.methods.memory_system import MemorySystem, Pipeline, SystemEpisode
from agemem_jax.protocol import prompts
from agemem_jax.protocol.parser import InvalidCall, parse
from agemem_jax.protocol.tools import ToolCall, ToolError, shown
from agemem_jax.rollout.requests import Generate
from agemem_jax.rollout.tool_use import Play

_MESSAGE, _MEMORY = "Message:\n", "\nMemory:\n"  # in front of the parts of a prompt
_MAX_DEPTH = 32
_MAX_COPIES = 8  # each of the whole document doubles it


@dataclasses.dataclass(frozen=True)
class LangMem(MemorySystem):
    """LangMem's store manager, with insertions, updates and deletions.

    Attributes:
      query_limit: how many entries near the message the manager sees; the library's number.
      max_attempts: how many calls of the model in a row one message may take, repairs of the same
        calls included; the library's number.
    """

    title: ClassVar[str] = "LangMem"

    query_limit: int = 5
    max_attempts: int = 3

    def __post_init__(self):
        super().__post_init__()
        for name in ("query_limit", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    def instructions(self, style: str) -> tuple[str, ...]:
        return (EXTRACT[style], MANAGE[style], REPAIR[style])

    def begin(self, episode: SystemEpisode) -> "Manager":
        return Manager(episode, self)

    def demonstrate(self, request: Generate, agent: Any) -> Any:
        if request.purpose not in ("extract", "manage"):
            return None
        told, _, memory = request.context.messages[-1].text.partition(_MEMORY)
        listed = map(json.loads, memory.splitlines())
        known = {each["content"]: each["json_doc_id"] for each in listed}
        calls = []
        for fact in agent.facts_in(told.removeprefix(_MESSAGE)):
            stale = agent.replaced_by(fact)
            event = agent.change() if stale in known else "ADD"
            if fact in known or event == "NONE":
                continue
            arguments: dict[str, Any] = {"content": fact}
            if event == "UPDATE":
                edit = {"op": "replace", "path": "/content", "value": fact}
                arguments = {"json_doc_id": known[stale], "patches": [edit]}
            calls.append(("PatchDoc" if event == "UPDATE" else "Memory", arguments))
        if not calls:
            return "<think>Nothing to keep.</think><answer>nothing</answer>"
        return f"<think>Worth keeping.</think>{prompts.tool_call_text(calls)}"


@dataclasses.dataclass
class _Call:
    """A call of the manager on its way to the store.

    Attributes:
      name: the tool, as written.
      arguments: as written; of a patch, the patched document.
      document: the id of the entry that was patched.
    """

    name: str
    arguments: Mapping[str, Any]
    document: str | None = None


class _AskAgain(ValueError):
    """A reply of which nothing can be used, in a sentence; the library asks for another."""


class _GaveUp(ValueError):
    """Nothing of a message's operations is done, and why."""


class Manager(Pipeline):
    """The manager in one episode. All that it knows is in the store."""

    def __init__(self, episode: SystemEpisode, method: LangMem):
        super().__init__(episode)
        self._method, self._style = method, episode.config.prompt_style

    def remember(self, message: str) -> Play:
        found = yield from self.episode.search(message, self._method.query_limit)
        documents = {entry.memory_id: entry.content for entry in found}
        try:
            calls = yield from self._calls(message, documents)
        except _GaveUp as error:
            self.episode.malformed(str(error))
            return
        yield from self._store(calls, documents)

    def _calls(self, message: str, documents: Mapping[str, str]) -> Play:
        """Calls that can be run. Raises _GaveUp."""
        calls, attempts = yield from self._first_calls(message, documents)
        wrong = {place: _error(call, documents) for place, call in enumerate(calls)}
        while any(wrong.values()) and attempts < self._method.max_attempts:
            # All that are wrong are repaired side by side, the last one first, as in the library.
            for place in [place for place in reversed(wrong) if wrong[place]]:
                yield from self._repair(calls[place], wrong[place], message)
            wrong = {place: _error(call, documents) for place, call in enumerate(calls)}
            attempts += 1
        for error in filter(None, wrong.values()):
            self.episode.malformed(error)
        return [call for place, call in enumerate(calls) if not wrong[place]]

    def _first_calls(self, message: str, documents: Mapping[str, str]) -> Play:
        """The calls of the first reply that can be used, and how many replies it took."""
        memory = [
            _json({"json_doc_id": memory_id, "content": content})
            for memory_id, content in documents.items()
        ]
        parts = (f"{_MESSAGE}{message}", *((_MEMORY.strip(), *memory) if memory else ()))
        purpose = "manage" if documents else "extract"
        instructions = (MANAGE if documents else EXTRACT)[self._style]
        wrong: list[str] = []
        for attempt in range(1, self._method.max_attempts + 1):
            reply = yield from self.episode.ask(purpose, instructions, [*wrong, *parts])
            try:
                calls = self._read(reply)
                return (self._resolve(calls, documents) if documents else calls), attempt
            except _AskAgain as error:
                if not documents:
                    raise _GaveUp(str(error)) from error
                self.episode.malformed(str(error))
                wrong = [f"Your last reply was wrong: {error}"]
        raise _GaveUp(f"No reply of {self._method.max_attempts} could be used.")

    def _read(self, reply: str) -> list[_Call]:
        """The calls in a reply, whatever they call; none where it has none. Raises _AskAgain."""
        parsed = parse(reply, _AnyCalls())
        if parsed.answer is None and not parsed.calls:
            self.episode.malformed(parsed.errors[-1])
        for call in parsed.calls:
            if isinstance(call, InvalidCall):
                raise _AskAgain(call.error)
        return [_Call(call.name, call.arguments) for call in parsed.calls]

    def _resolve(self, calls: Sequence[_Call], documents: Mapping[str, str]) -> list[_Call]:
        """The calls with patched documents in place of patches; patches that fail are left out.

        Every patch is of the document as it was searched, also behind another one of it.
        """
        resolved = []
        for call in calls:
            if call.name != "PatchDoc":
                resolved.append(call)
                continue
            if "json_doc_id" not in call.arguments:
                raise _AskAgain("PatchDoc needs a json_doc_id.")
            memory_id = call.arguments["json_doc_id"]
            patches = read_patches(call.arguments)
            if not isinstance(memory_id, str) or memory_id not in documents:
                self.episode.malformed(f"There is no memory {shown(memory_id)} to patch.")
            elif patches:
                try:
                    patched = _patched({"content": documents[memory_id]}, patches)
                except ValueError as error:
                    self.episode.malformed(str(error))
                    continue
                if not isinstance(patched, Mapping):
                    raise _AskAgain("A patch leaves no JSON object.")
                resolved.append(_Call("Memory", patched, memory_id))
        return resolved

    def _repair(self, call: _Call, error: str, message: str) -> Play:
        """Changes a call that cannot be run as the model says. Raises _GaveUp."""
        written = _json({"name": call.name, "arguments": call.arguments})
        parts = (f"Call: {written}\nError: {error}", f"{_MESSAGE}{message}")
        reply = yield from self.episode.ask("repair", REPAIR[self._style], parts)
        try:
            repairs = self._read(reply)
        except _AskAgain as wrong:
            raise _GaveUp(str(wrong)) from wrong
        if not repairs:
            raise _GaveUp("A repair holds no call, so that nothing of its message is stored.")
        name, arguments = call.name, call.arguments
        for repair in repairs:  # each is of the call as it was
            if repair.name == "PatchFunctionName" and repair.arguments.get("fixed_name"):
                name = str(repair.arguments["fixed_name"])
            elif repair.name in ("PatchFunctionErrors", "PatchDoc"):
                try:
                    patched = _patched(call.arguments, read_patches(repair.arguments))
                except ValueError as failed:
                    self.episode.malformed(str(failed))
                else:
                    arguments = patched
        call.name, call.arguments = name, arguments

    def _store(self, calls: Sequence[_Call], documents: Mapping[str, str]) -> Play:
        """What was decided: updates in the order of the search, insertions, then deletions.

        Of several calls for one entry the last one counts.
        """
        final: dict[str, str | None] = {}
        inserted = []
        for call in calls:
            if call.name == "RemoveDoc":
                final[call.arguments["json_doc_id"]] = None
            elif call.document is not None:
                final[call.document] = call.arguments["content"]
            else:
                inserted.append(call.arguments["content"])
        for memory_id, old in documents.items():
            new = final.get(memory_id)
            if new is not None and new != old:
                yield from self.episode.update(memory_id, new)
        for content in inserted:
            yield from self.episode.add(content)
        for memory_id, new in final.items():
            if new is None:
                yield from self.episode.delete(memory_id)


class _AnyCalls:
    """In place of a table of tools: every call can be read, whatever it calls."""

    def validate(self, name: Any, arguments: Any) -> ToolCall:
        if not isinstance(name, str):
            raise ToolError(f"The name of a call must be a string, not {shown(name)}.")
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, Mapping):
            raise ToolError(f"Arguments must be a JSON object, not {shown(arguments)}.")
        return ToolCall(name, arguments)


def _error(call: _Call, documents: Mapping[str, str]) -> str | None:
    """What is wrong with a call, in a sentence; None where it can be run."""
    arguments = call.arguments
    if call.name == "Memory":
        if not isinstance(arguments, Mapping) or not isinstance(arguments.get("content"), str):
            return 'Memory needs "content", a string.'
    elif call.name == "RemoveDoc" and documents:
        memory_id = arguments.get("json_doc_id") if isinstance(arguments, Mapping) else None
        if not isinstance(memory_id, str) or memory_id not in documents:
            return f'RemoveDoc needs "json_doc_id", one of {", ".join(documents)}.'
    else:
        names = "Memory, PatchDoc or RemoveDoc" if documents else "Memory"
        return f"There is no tool {shown(call.name)}; correct its name to {names}."
    return None


def read_patches(arguments: Mapping[str, Any]) -> list[Any]:
    """The list under "patches", which may be written as a string; empty where there is none.

    Of a string that is no JSON list, the first part in brackets that pair counts.
    """
    patches = arguments.get("patches")
    if isinstance(patches, list):
        return patches
    if not isinstance(patches, str):
        return []
    depth, start = 0, patches.find("[")
    inside = ""
    for place in range(start, len(patches)) if start >= 0 else ():
        depth += (patches[place] == "[") - (patches[place] == "]")
        if depth == 0:
            inside = patches[start : place + 1]
            break
    for text in (patches, inside):
        try:
            value = json.loads(text) if not _is_deep(text) else None
        except ValueError:
            continue
        if isinstance(value, list):
            return value
    return []


def _is_deep(text: str) -> bool:
    """Whether brackets are nested deeper than in calls, which `protocol.parser` bounds."""
    depth = deepest = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest > _MAX_DEPTH


def _patched(document: Any, patches: Sequence[Any]) -> Any:
    """The document after RFC 6902 operations. Raises ValueError, whatever is wrong with them."""
    copies = sum(isinstance(each, Mapping) and each.get("op") == "copy" for each in patches)
    if copies > _MAX_COPIES:
        raise ValueError(f"A patch copies {copies} times; {_MAX_COPIES} times is the most.")
    try:
        return jsonpatch.apply_patch(document, patches)
    except Exception as error:  # elements of any kind, which raise whatever they lead to
        raise ValueError(f"A patch cannot be applied: {shown(str(error))}.") from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
