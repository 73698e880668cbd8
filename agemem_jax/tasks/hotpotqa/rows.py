"""Rows of HotpotQA's official JSON files (distractor setting), read and checked.

The files hold one JSON array of up to 566 MB. Rows are decoded one by one, so that
memory holds the text but never all rows as Python objects.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = ("bridge", "comparison")

# Field of the official format -> what it should hold, as error messages say it.
FIELDS = {
    "_id": "the id of the question as text",
    "question": "the question as text",
    "answer": "the answer as text",
    "type": 'the kind of question, "bridge" or "comparison"',
    "level": 'the difficulty as text ("easy", "medium" or "hard")',
    "supporting_facts": "a list of [title, sentence index] pairs, at least one of them "
    "about a paragraph of context",
    "context": "a list of [title, list of sentences] pairs with different titles",
}

_SPACE = re.compile(r"[ \t\n\r]*")


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """One paragraph of a question's context.

    Attributes:
      title: of the Wikipedia article.
      sentences: in order; all but the first usually begin with a space.
    """

    title: str
    sentences: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
      row_id: the official `_id`.
      question, answer: as text; the answer may be "yes" or "no".
      kind: "bridge" or "comparison".
      level: "easy", "medium" or "hard".
      supporting_facts: (index of the paragraph in `context`, index of the sentence in it).
        Pairs that point at nothing, of which the official files have a few, are left out.
      context: gold and distracting paragraphs, in the order of the file.
    """

    row_id: str
    question: str
    answer: str
    kind: str
    level: str
    supporting_facts: tuple[tuple[int, int], ...]
    context: tuple[Paragraph, ...]


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yields the rows of an official JSON file.

    Raises ValueError, naming the file, the row and the field, where a row is not as the
    official format says, and where the file is no JSON array.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    decoder = json.JSONDecoder()
    position = _skip_space(text, 0)
    if text[position : position + 1] != "[":
        raise ValueError(f"{path.name} must hold one JSON array of questions.")
    position = _skip_space(text, position + 1)
    index = 0
    while text[position : position + 1] != "]":
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path.name}, row {index}: not valid JSON ({error}); the file may have been "
                "cut off while it was downloaded."
            ) from error
        yield parse_row(row, path.name, index)
        index += 1
        position = _skip_space(text, position)
        separator = text[position : position + 1]
        if separator == ",":
            position = _skip_space(text, position + 1)
        elif separator != "]":
            raise ValueError(
                f"{path.name}, after row {index - 1}: expected ',' or ']'; the file may have "
                "been cut off while it was downloaded."
            )


def parse_row(row: Any, file_name: str, index: int) -> Row:
    """Checks one decoded row. `file_name` and `index` are for error messages."""
    if not isinstance(row, dict):
        raise ValueError(
            f"{file_name}, row {index}: a row must be a JSON object with the fields "
            f"{', '.join(FIELDS)}, not {type(row).__name__}."
        )
    row_id = row.get("_id")
    where = f"{file_name}, row {index}" + (f" (_id {row_id})" if row_id is not None else "")

    def require(field: str, good: bool):
        if not good:
            problem = "is missing" if field not in row else f"holds {_shorten(row[field])}"
            raise ValueError(f"{where}: field {field!r} {problem}; it should hold {FIELDS[field]}.")

    for field in ("_id", "question", "answer", "level"):
        require(field, isinstance(row.get(field), str) and bool(row[field].strip()))
    require("type", row.get("type") in KINDS)
    require("context", _is_context(row.get("context")))
    require("supporting_facts", _is_pairs(row.get("supporting_facts"), int))

    context = tuple(Paragraph(title, tuple(sentences)) for title, sentences in row["context"])
    place = {paragraph.title: i for i, paragraph in enumerate(context)}
    supporting = tuple(
        (place[title], sentence)
        for title, sentence in row["supporting_facts"]
        if title in place and 0 <= sentence < len(context[place[title]].sentences)
    )
    require("supporting_facts", bool(supporting))
    return Row(
        row_id=row["_id"],
        question=row["question"],
        answer=row["answer"],
        kind=row["type"],
        level=row["level"],
        supporting_facts=supporting,
        context=context,
    )


def _is_pairs(value: Any, second_type: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], second_type)
        for pair in value
    )


def _is_context(value: Any) -> bool:
    return (
        _is_pairs(value, list)
        and bool(value)
        and all(isinstance(sentence, str) for _, sentences in value for sentence in sentences)
        and len({title for title, _ in value}) == len(value)
    )


def _skip_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
