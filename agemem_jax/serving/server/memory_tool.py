"""Anthropic's memory tool (`memory_20250818`) over a user's memories.

A model that was trained for the tool asks for commands on files below /memories; here each file
is an entry of the store, so that the agent finds what is in it. A file's name is kept in the
entry's metadata under `path`. Entries that no command made are files as well: /memories/ID.txt.
There is no file system behind, so no path leads out of a user's memory.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, TypeAdapter

from agemem_jax.memory.operations import Update
from agemem_jax.serving.memory.user_memory import MemoryEntry, UserMemory, seconds_now

TOOL = {"type": "memory_20250818", "name": "memory"}
_ROOT = "/memories"
_NAME = re.compile(r"[^/\\\x00-\x1f\x7f%]{1,200}")
_DEPTH = 8
_LEVELS = 2  # of a directory that are shown
_LINES = 999_999


class MemoryToolError(Exception):
    """A command that did nothing; the model reads the sentence as the tool's result."""


def _checked(path: str) -> str:
    """A path in its one spelling."""
    parts = path.rstrip("/").split("/")
    if parts[:2] != _ROOT.split("/") or len(parts) > _DEPTH + 2:
        raise ValueError(f"a path must begin with {_ROOT}, and have up to {_DEPTH} names behind it")
    if any(not _NAME.fullmatch(name) or name.strip(". ") == "" for name in parts[2:]):
        raise ValueError("names in a path must not be empty, dots, or hold one of \\ % or controls")
    return "/".join(parts)


Path = Annotated[str, Field(max_length=2000), pydantic.AfterValidator(_checked)]
Text = Annotated[str, Field(max_length=100_000)]


class _Command(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class View(_Command):
    command: Literal["view"]
    path: Path
    view_range: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None


class Create(_Command):
    command: Literal["create"]
    path: Path
    file_text: Text


class StrReplace(_Command):
    command: Literal["str_replace"]
    path: Path
    old_str: Annotated[Text, Field(min_length=1)]
    new_str: Text = ""


class Insert(_Command):
    command: Literal["insert"]
    path: Path
    insert_line: Annotated[int, Field(ge=0)]
    insert_text: Text


class Delete(_Command):
    command: Literal["delete"]
    path: Path


class Rename(_Command):
    command: Literal["rename"]
    old_path: Path
    new_path: Path


Command = Annotated[
    View | Create | StrReplace | Insert | Delete | Rename, Field(discriminator="command")
]
_COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)


class MemoryTool:
    """Runs the tool's commands on one user's memories."""

    def __init__(self, memory: UserMemory):
        self._memory = memory

    def run(self, arguments: Mapping[str, Any]) -> str:
        """The result of a `tool_use` block's `input`.

        Raises:
          MemoryToolError: nothing was done, and why; give it back with `is_error`.
        """
        try:
            command = _COMMANDS.validate_python(dict(arguments))
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"][1:])
            told = first["msg"].removeprefix("Value error, ")
            raise MemoryToolError(f"Error: {place or 'command'}: {told}.") from None
        with self._memory.store.file.lock:  # between reading and writing nobody else comes
            try:
                return getattr(self, f"_{command.command}")(command)
            except ValueError as error:  # of the store
                raise MemoryToolError(f"Error: {error}") from None

    def _files(self) -> dict[str, MemoryEntry]:
        """All entries by path."""
        files: dict[str, MemoryEntry] = {}
        for entry in self._memory.entries():
            path = entry.metadata.get("path")
            named = isinstance(path, str) and path not in files
            files[path if named else f"{_ROOT}/{entry.memory_id}.txt"] = entry
        return files

    def _file(self, path: str) -> MemoryEntry:
        files = self._files()
        if path in files:
            return files[path]
        kind = "is a directory" if _below(files, path) else "does not exist"
        raise MemoryToolError(f"Error: {path} {kind}; it must be a file.")

    def _view(self, command: View) -> str:
        files = self._files()
        if command.path not in files:
            below = _below(files, command.path)
            if not below and command.path != _ROOT:
                raise MemoryToolError(f"Error: {command.path} does not exist.")
            return _directory(command.path, {path: files[path] for path in below})
        lines = files[command.path].content.split("\n")
        first, last = command.view_range or (1, -1)
        last = len(lines) if last == -1 else last
        if not 1 <= first <= last or first > len(lines):
            raise MemoryToolError(
                f"Error: view_range must lie between 1 and {len(lines)}, the file's lines."
            )
        shown = list(enumerate(lines, 1))[first - 1 : min(last, _LINES)]
        numbered = "\n".join(f"{number:6}\t{line}" for number, line in shown)
        return f"{command.path}, with line numbers:\n{numbered}"

    def _create(self, command: Create) -> str:
        files = self._files()
        if command.path == _ROOT or command.path in files or _below(files, command.path):
            raise MemoryToolError(f"Error: {command.path} exists already.")
        self._check_parents(files, command.path)
        self._memory.add(command.file_text, {"path": command.path, "source": "memory tool"})
        return f"Created {command.path}."

    def _str_replace(self, command: StrReplace) -> str:
        entry = self._file(command.path)
        count = entry.content.count(command.old_str)
        if count != 1:
            found = "does not stand" if not count else f"stands {count} times"
            raise MemoryToolError(
                f"Error: old_str {found} in {command.path}; it must be there once. Nothing changed."
            )
        self._memory.edit(entry.memory_id, entry.content.replace(command.old_str, command.new_str))
        return f"Edited {command.path}."

    def _insert(self, command: Insert) -> str:
        entry = self._file(command.path)
        lines = entry.content.split("\n")
        if command.insert_line > len(lines):
            raise MemoryToolError(
                f"Error: insert_line is {command.insert_line}, and {command.path} has "
                f"{len(lines)} lines."
            )
        lines.insert(command.insert_line, command.insert_text.removesuffix("\n"))
        self._memory.edit(entry.memory_id, "\n".join(lines))
        return f"Edited {command.path}."

    def _delete(self, command: Delete) -> str:
        files = self._files()
        gone = [command.path] if command.path in files else _below(files, command.path)
        if command.path == _ROOT or not gone:
            told = "cannot be deleted" if command.path == _ROOT else "does not exist"
            raise MemoryToolError(f"Error: {command.path} {told}.")
        for path in gone:
            self._memory.forget(files[path].memory_id)
        return f"Deleted {command.path}."

    def _rename(self, command: Rename) -> str:
        files, old, new = self._files(), command.old_path, command.new_path
        moved = [old] if old in files else _below(files, old)
        if old == _ROOT or not moved:
            raise MemoryToolError(f"Error: {old} does not exist, or is no file or directory.")
        if new == _ROOT or new in files or _below(files, new) or f"{new}/".startswith(f"{old}/"):
            raise MemoryToolError(f"Error: {new} exists already, or lies in {old}.")
        self._check_parents(files, new)
        targets = {path: _checked_or_told(new + path.removeprefix(old)) for path in moved}
        for path, target in targets.items():
            entry = files[path]
            metadata = {**entry.metadata, "path": target}
            operation = Update(entry.memory_id, entry.content, metadata)
            result = self._memory.store.execute({self._memory.user: operation}, seconds_now())
            if not result[self._memory.user].ok:
                raise MemoryToolError(f"Error: {result[self._memory.user].error}")
        return f"Renamed {old} to {new}."

    def _check_parents(self, files: Mapping[str, MemoryEntry], path: str) -> None:
        parts = path.split("/")
        for end in range(3, len(parts)):
            if "/".join(parts[:end]) in files:
                raise MemoryToolError(f"Error: {'/'.join(parts[:end])} is a file.")


def _checked_or_told(path: str) -> str:
    try:
        return _checked(path)
    except ValueError as error:
        raise MemoryToolError(f"Error: {error}.") from None


def _below(files: Mapping[str, MemoryEntry], path: str) -> list[str]:
    return sorted(each for each in files if each.startswith(f"{path}/"))


def _directory(path: str, files: Mapping[str, MemoryEntry]) -> str:
    """Sizes and paths of what lies in a directory, two levels deep."""
    sizes: dict[str, int] = {path: 0}
    for each, entry in files.items():
        size = len(entry.content.encode())
        names = each.removeprefix(f"{path}/").split("/")
        for depth in range(min(len(names), _LEVELS) + 1):
            place = "/".join([path, *names[:depth]])
            sizes[place] = sizes.get(place, 0) + size
    listed = "\n".join(f"{size}\t{place}" for place, size in sorted(sizes.items()))
    return f"Files in {path}, up to {_LEVELS} levels deep, with their bytes:\n{listed}"
