"""Rows of a user's own data: checked field by field, and made into tasks.

A row is a JSON object with a question and its answer, or with an environment to act in, and
the messages that help. Files of JSON Lines and data sets of Hugging Face read their rows
here, so that a wrong one is told in the same words.
"""

import difflib
import json
from typing import Any

from agemem_jax.tasks.task import EnvironmentGoal, Question, Task

# Field -> what it should hold, as sentences say it.
SHARED = {
    "messages": "a list of texts, the messages of Stage 1 in the order they are said",
    "distractors": "a list of texts, the messages of Stage 2",
    "facts": "a list of texts, one sentence each that a memory should hold",
    "stale_facts": "a list of texts, facts that a later message made untrue",
    "id": "text or a whole number that no other row has",
    "category": "text that results are told apart by",
}
QUESTION = {"question": "the question as text", "answer": "the expected answer as text"}
ENVIRONMENT = {
    "environment": "the name of an environment, or package.module:attribute",
    "options": "an object, what the environment is built with",
    "instruction": "text, what is to be reached and how actions are written",
    "max_steps": "a whole number of at least 1, actions until the episode ends",
    "seed": "a whole number of at least 0, which the environment is reset with",
}
FIELDS = {**QUESTION, **ENVIRONMENT, **SHARED}
LISTS = ("messages", "distractors", "facts", "stale_facts")
_TEXTS = ("question", "answer", "environment", "instruction", "category")
_MAY_BE_BLANK = ("instruction", "category")
_LARGEST_SEED = 2**32 - 1


def to_task(row: Any, where: str, *, source: str, split: str, default_id: str) -> Task:
    """The task of a row.

    Args:
      row: as JSON decodes it.
      where: the row stands, such as "train.jsonl, line 7"; sentences begin with it.
      source: the name of the source.
      split: which part of it; the task's id is "source-split-id".
      default_id: of a row without an `id`.

    Raises:
      ValueError: the row is not as `FIELDS` says, in one sentence about its first fault.
    """
    check(row, where)
    if "environment" in row:
        given = {name: row[name] for name in ENVIRONMENT if name in row}
        goal = EnvironmentGoal(**given)
    else:
        goal = Question(row["question"], row["answer"])
    return Task(
        task_id=f"{source}-{split}-{row.get('id', default_id)}",
        goal=goal,
        messages=tuple(row.get("messages", ())),
        distractors=tuple(row.get("distractors", ())),
        supporting_facts=tuple(row.get("facts", ())),
        stale_facts=tuple(row.get("stale_facts", ())),
        category=row.get("category", ""),
        data_set=source,
    )


def check(row: Any, where: str) -> None:
    """Raises ValueError, one sentence, where a row is not as `FIELDS` says."""
    if not isinstance(row, dict):
        raise ValueError(
            f"{where}: a row must be a JSON object such as "
            '{"question": "...", "answer": "...", "messages": ["..."]}, not ' + _kind(row) + "."
        )
    for name in row:
        if name not in FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"fields are {', '.join(FIELDS)}."
            raise ValueError(f"{where}: there is no field {_shown(name)}; {hint}")
    _check_goal(row, where)
    for name in FIELDS:
        if name in row:
            fault = _fault(name, row[name])
            if fault:
                raise ValueError(f"{where}: field {name!r} {fault}; it should hold {FIELDS[name]}.")


def _check_goal(row: dict[str, Any], where: str) -> None:
    """A row asks, or names an environment: not both, and not half of one."""
    of_question = [name for name in QUESTION if name in row]
    of_environment = [name for name in ENVIRONMENT if name in row]
    if of_question and of_environment:
        raise ValueError(
            f"{where}: it has the field {of_question[0]!r} of a question and {of_environment[0]!r} "
            "of an environment; a row has one goal."
        )
    needed = ("environment",) if of_environment else (*QUESTION, "messages")
    for name in needed:
        if name not in row:
            raise ValueError(f"{where}: field {name!r} is missing; it should hold {FIELDS[name]}.")


def _fault(name: str, value: Any) -> str:
    """What is wrong with a field; "" where nothing is."""
    if name in LISTS:
        if not isinstance(value, list):
            return f"holds {_kind(value)}"
        for place, each in enumerate(value, start=1):
            fault = _text_fault(each)
            if fault:
                return f"{fault} at place {place}"
        return ""
    if name in _TEXTS:
        return _text_fault(value, may_be_blank=name in _MAY_BE_BLANK)
    if name == "id":
        if isinstance(value, int) and not isinstance(value, bool):
            return ""
        return _text_fault(value)
    if name == "options":
        return _options_fault(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return f"holds {_kind(value)}"
    lowest = 1 if name == "max_steps" else 0
    return "" if lowest <= value <= _LARGEST_SEED else f"holds {_shown(value)}"


def _text_fault(value: Any, may_be_blank: bool = False) -> str:
    if not isinstance(value, str):
        return f"holds {_kind(value)}"
    if not may_be_blank and not value.strip():
        return "holds empty text"
    return _half_pair(value)


def _options_fault(value: Any) -> str:
    if not isinstance(value, dict):
        return f"holds {_kind(value)}"
    try:
        return _half_pair(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError:  # JSON's 1e999 is read as infinite
        return "holds a number that is too large"


def _half_pair(text: str) -> str:
    """UTF-8 cannot hold half a surrogate pair, so no tokenizer and no record could."""
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half a surrogate pair (\\u{ord(text[error.start]):04x})"
    return ""


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}
    if value is None:
        return "null"
    return kinds.get(type(value), "a number" if isinstance(value, float) else "another kind")


def _shown(value: Any, longest: int = 40) -> str:
    text = json.dumps(value)  # in ASCII: half a pair can be printed, too
    return text if len(text) <= longest else text[:longest] + "..."
