"""LoCoMo's files, read and checked: sessions of turns, and questions with their evidence.

The data is published in two layouts: one file for each conversation, and `locomo10.json`,
a list of them with the sessions one level deeper. Both are read, and hold the same.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

# The number of a category in the files -> its name.
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ADVERSARIAL = 5
NO_ANSWER = "Not mentioned in the conversation"
SINGLE_FILE = "locomo10.json"

# Some pieces of evidence hold several turns, and some are written "D:11:26" or "D30:05".
_TURN_ID = re.compile(r"D:?(\d+):(\d+)")
_SESSION = re.compile(r"session_(\d+)")


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one person said.

    Attributes:
      speaker: who said it.
      text: what was said.
      photo: what a photo that was sent with it shows, as a model described it; "" without one.
    """

    speaker: str
    text: str
    photo: str


@dataclasses.dataclass(frozen=True)
class Session:
    """A conversation of one day.

    Attributes:
      time: when it was, such as "1:56 pm on 8 May, 2023".
      turns: in order.
      numbers: of the turns, by which evidence names them.
    """

    time: str
    turns: tuple[Turn, ...]
    numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A question.

    Attributes:
      index: its place in the conversation's list.
      question: as text.
      answer: as text; `NO_ANSWER` where the data gives none, as for adversarial questions.
      category: a key of `CATEGORIES`.
      evidence: (number of the session, number of the turn) of what answers it; what points at
        no turn, as a few do, is left out.
    """

    index: int
    question: str
    answer: str
    category: int
    evidence: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Two people, their sessions by number in order of time, and the questions about them."""

    name: str
    speakers: tuple[str, str]
    sessions: dict[int, Session]
    entries: tuple[Entry, ...]


def read(data_dir: str) -> dict[str, Conversation]:
    """The conversations of a folder, or of one file, by name ("26" for "conv-26").

    Raises:
      ValueError: there are none, or a file is not as LoCoMo's are: its place and the reason.
    """
    path = Path(data_dir).expanduser()
    if path.is_file():
        files = [path]
    elif (path / SINGLE_FILE).is_file():
        files = [path / SINGLE_FILE]
    else:
        files = sorted(path.glob("*.json"))
    if not files:
        raise ValueError(
            f"LoCoMo's data_dir is {data_dir}, which holds no JSON file; it must hold "
            f"{SINGLE_FILE}, or a file for each conversation such as 26.json."
        )
    return _read(tuple((file, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=4)
def _read(files: tuple[tuple[Path, int], ...]) -> dict[str, Conversation]:
    found: dict[str, Conversation] = {}
    for path, _ in files:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # no JSON, or no UTF-8
            raise ValueError(
                f"{path.name} is not JSON ({error}); it may have been cut off while it was "
                "downloaded."
            ) from error
        except RecursionError as error:
            raise ValueError(f"{path.name} is nested too deep to be one of LoCoMo's.") from error
        for place, item in enumerate(data if isinstance(data, list) else [data]):
            where = f"{path.name}, conversation {place}" if isinstance(data, list) else path.name
            conversation = _conversation(item, path.stem, where)
            if conversation.name in found:
                raise ValueError(f"{where}: there is another conversation {conversation.name!r}.")
            found[conversation.name] = conversation
    return found


def _conversation(item: Any, stem: str, where: str) -> Conversation:
    def require(good: bool, what: str):
        if not good:
            raise ValueError(f"{where}: it must hold {what}, as LoCoMo's conversations do.")

    require(isinstance(item, dict), "an object")
    talk = item.get("conversation", item)
    require(isinstance(talk, dict), "an object as 'conversation'")
    name = item.get("sample_id", stem)
    require(_is_text(name), "text as 'sample_id'")
    speakers = (talk.get("speaker_a"), talk.get("speaker_b"))
    require(all(map(_is_text, speakers)), "two names, 'speaker_a' and 'speaker_b'")
    numbers = sorted(int(m[1]) for m in map(_SESSION.fullmatch, talk) if m)
    sessions = {}
    for number in numbers:
        key = f"session_{number}"
        turns, time = talk[key], talk.get(f"{key}_date_time")
        require(isinstance(turns, list), f"a list of turns as '{key}'")
        if turns:
            require(_is_text(time), f"the time of it as '{key}_date_time'")
            sessions[number] = _session(turns, time, f"{where}, {key}")
    require(bool(sessions), "sessions, such as 'session_1'")
    require(isinstance(item.get("qa"), list), "a list of questions as 'qa'")
    entries = tuple(
        _entry(each, index, sessions, f"{where}, question {index}")
        for index, each in enumerate(item["qa"])
    )
    return Conversation(name.removeprefix("conv-"), speakers, sessions, entries)


def _session(turns: list[Any], time: str, where: str) -> Session:
    said, numbers = [], []
    for place, turn in enumerate(turns, start=1):
        good = isinstance(turn, dict) and _is_text(turn.get("speaker")) and "text" in turn
        match = _TURN_ID.fullmatch(str(turn.get("dia_id"))) if good else None
        photo = turn.get("blip_caption", "") if good else ""
        if not (match and isinstance(turn["text"], str) and isinstance(photo, str)):
            raise ValueError(
                f"{where}, turn {place}: it must hold text as 'speaker' and 'text', and a "
                "'dia_id' such as \"D1:3\"."
            )
        said.append(
            Turn(
                turn["speaker"],
                " ".join(turn["text"].split()),
                photo.strip().removeprefix("a photo of "),
            )
        )
        numbers.append(int(match[2]))
    return Session(time, tuple(said), tuple(numbers))


def _entry(item: Any, index: int, sessions: dict[int, Session], where: str) -> Entry:
    def require(good: bool, what: str):
        if not good:
            raise ValueError(f"{where}: it must hold {what}.")

    require(isinstance(item, dict), "an object")
    category = item.get("category")
    require(type(category) is int and category in CATEGORIES, "a 'category' from 1 to 5")
    require(_is_text(item.get("question")), "text as 'question'")
    answer = item.get("answer", NO_ANSWER if category == ADVERSARIAL else None)
    numeric = isinstance(answer, int | float) and not isinstance(answer, bool)
    require(numeric or _is_text(answer), "text or a number as 'answer'")
    evidence = item.get("evidence", [])
    require(
        isinstance(evidence, list) and all(isinstance(each, str) for each in evidence),
        "a list of turns such as \"D1:3\" as 'evidence'",
    )
    pairs = ((int(m[1]), int(m[2])) for each in evidence for m in _TURN_ID.finditer(each))
    there = tuple(
        dict.fromkeys(
            (session, turn)
            for session, turn in pairs
            if session in sessions and turn in sessions[session].numbers
        )
    )
    return Entry(index, item["question"].strip(), str(answer).strip(), category, there)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
