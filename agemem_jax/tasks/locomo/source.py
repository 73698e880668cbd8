"""Tasks from LoCoMo (Maharana et al., 2024): sessions are Stage 1, a question is Stage 3.

LoCoMo has no official split for training. What is trained on is named by conversation and then
held out of "test", so that no figure is ever of a conversation that was trained on.
"""

import dataclasses
import operator
import random
from collections.abc import Sequence
from typing import ClassVar

from agemem_jax.tasks.locomo import conversations
from agemem_jax.tasks.locomo.conversations import CATEGORIES, Conversation, Entry, Session
from agemem_jax.tasks.task import Question, Task

OFFICIAL = ("26", "30", "41", "42", "43", "44", "47", "48", "49", "50")
_NAME = "locomo"
_DISTRACTING_TURNS = 4
# Without capitals and digits, which would count among the key tokens of the question.
_HINT = " (a few words; a date as day, month, year; if it was never said: not mentioned)"


@dataclasses.dataclass(frozen=True)
class LoCoMoTasks:
    """The questions of LoCoMo, each with the whole conversation that it is about.

    With the defaults "test" is the official set: 1,986 questions in the order of the files.
    Figures of memory systems are mostly over the 1,540 that have an answer:
    `categories=(1, 2, 3, 4)`.

    Attributes:
      data_dir: folder with `locomo10.json` or with a file for each conversation, or the path
        of a single file.
      conversations: names of those that are used, which must all be there. With others than
        the ten, figures are not comparable.
      train_conversations: those of them that "train" is made of; the others are "test".
        Figures with any are not comparable with published ones, which are of all ten.
      categories: of the questions: 1 multi-hop, 2 temporal, 3 open-domain, 4 single-hop,
        5 adversarial (what was never said; the expected answer says so).
      turns_per_message: turns that make one message of Stage 1; 0 makes a message of each
        session. A conversation has 19 to 32 sessions, so `episode.max_messages` must allow it.
      photos: whether a message tells what photos show that were sent.
      hint: whether a question is followed by how to answer: in a few words, as F1 wants it.
      distractors: messages of Stage 2: a few turns each of another conversation of the split.

    Raises:
      ValueError: an option or a file is not as it must be.
    """

    data_dir: str | None = None
    conversations: tuple[str, ...] = OFFICIAL
    train_conversations: tuple[str, ...] = ()
    categories: tuple[int, ...] = tuple(CATEGORIES)
    turns_per_message: int = 0
    photos: bool = True
    hint: bool = True
    distractors: int = 2

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    sorted: ClassVar[bool] = True  # a slice of them is spread

    def __post_init__(self):
        if self.data_dir is None:
            raise ValueError(
                "LoCoMo needs its data: download data/locomo10.json of "
                "https://github.com/snap-research/locomo, and name its folder as data_dir."
            )
        for option in ("turns_per_message", "distractors"):
            if getattr(self, option) < 0:
                raise ValueError(
                    f"LoCoMo's option {option} is {getattr(self, option)}; it must be at least 0."
                )
        unknown = [number for number in self.categories if number not in CATEGORIES]
        if unknown or not self.categories:
            known = ", ".join(f"{number} {name}" for number, name in CATEGORIES.items())
            raise ValueError(
                f"LoCoMo's categories are {self.categories}; they must be some of {known}."
            )
        there = conversations.read(self.data_dir)
        missing = [name for name in self.conversations if name not in there]
        if missing or not self.conversations:
            raise ValueError(
                f"LoCoMo's conversations are {', '.join(self.conversations) or 'none'}, but "
                f"{self.data_dir} holds {', '.join(there)}."
            )
        strange = [name for name in self.train_conversations if name not in self.conversations]
        if strange or len(self._held_out()) == 0:
            raise ValueError(
                f"LoCoMo's train_conversations are {', '.join(self.train_conversations)}; they "
                f"must be some, and not all, of {', '.join(self.conversations)}."
            )
        for names in filter(None, (self._held_out(), self.train_conversations)):
            if self.distractors and len(set(names)) < 2:
                raise ValueError(
                    f"LoCoMo's distractors come from another conversation of the split, but it has "
                    f"{names[0]} alone; set distractors to 0 or give it a second."
                )

    def __call__(self, split: str) -> "LoCoMoQuestions":
        """The tasks of a split, in the order of conversations and their questions.

        Raises:
          ValueError: there is no such split, or nothing in it.
        """
        if split not in self.splits:
            raise ValueError(f"The split must be one of {', '.join(self.splits)}, not {split!r}.")
        names = self._held_out() if split == "test" else self.train_conversations
        if not names:
            raise ValueError(
                "LoCoMo has no split for training: name conversations to train on as "
                "train_conversations; figures of the others are then not comparable."
            )
        there = conversations.read(self.data_dir)
        chosen = {name: there[name] for name in names}
        questions = tuple(
            (name, entry)
            for name, conversation in chosen.items()
            for entry in conversation.entries
            if entry.category in self.categories
        )
        messages = {
            name: _messages(conversation, self.turns_per_message, self.photos)
            for name, conversation in chosen.items()
        }
        return LoCoMoQuestions(chosen, questions, messages, self.hint, self.distractors)

    def _held_out(self) -> tuple[str, ...]:
        return tuple(n for n in self.conversations if n not in self.train_conversations)


@dataclasses.dataclass(frozen=True, eq=False)
class LoCoMoQuestions(Sequence):
    """The tasks of a split.

    Attributes:
      conversations: by name.
      questions: (name of the conversation, question), in order.
      messages: of Stage 1, by name of the conversation.
      hint, distractors: as of `LoCoMoTasks`.
    """

    conversations: dict[str, Conversation]
    questions: tuple[tuple[str, Entry], ...]
    messages: dict[str, tuple[str, ...]]
    hint: bool
    distractors: int

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Task:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"Task {index} is outside a source of {len(self)} tasks.")
        name, entry = self.questions[index]
        task_id = f"{_NAME}-{name}-{entry.index}"
        sessions = self.conversations[name].sessions
        return Task(
            task_id=task_id,
            goal=Question(entry.question + (_HINT if self.hint else ""), entry.answer, f1="locomo"),
            messages=self.messages[name],
            distractors=self._distractors(name, random.Random(task_id)),
            supporting_facts=tuple(_fact(sessions[s], turn) for s, turn in entry.evidence),
            category=CATEGORIES[entry.category],
            data_set=_NAME,
        )

    def _distractors(self, name: str, rng: random.Random) -> tuple[str, ...]:
        others = [other for other in self.conversations if other != name]
        found = []
        for _ in range(self.distractors):
            conversation = self.conversations[rng.choice(others)]
            session = rng.choice(tuple(conversation.sessions.values()))
            begin = rng.randrange(max(1, len(session.turns) - _DISTRACTING_TURNS + 1))
            turns = slice(begin, begin + _DISTRACTING_TURNS)
            found.append(_message(conversation, session, turns, photos=False))
        return tuple(found)


def _messages(conversation: Conversation, size: int, photos: bool) -> tuple[str, ...]:
    """The messages of Stage 1, of `size` turns each; 0 makes one of each session."""
    return tuple(
        _message(conversation, session, slice(begin, begin + (size or len(session.turns))), photos)
        for session in conversation.sessions.values()
        for begin in range(0, len(session.turns), size or len(session.turns))
    )


def _message(conversation: Conversation, session: Session, turns: slice, photos: bool) -> str:
    """Some turns, below the time and who is talking."""
    first, second = conversation.speakers
    lines = [f"{first} and {second}, {session.time}:"]
    for turn in session.turns[turns]:
        photo = f" [photo: {turn.photo}]" if photos and turn.photo else ""
        lines.append(f"{turn.speaker}: {turn.text}{photo}")
    return "\n".join(lines)


def _fact(session: Session, number: int) -> str:
    """A turn as a fact: who said what on which day."""
    turn = session.turns[session.numbers.index(number)]
    day = session.time.partition(" on ")[2] or session.time
    photo = f" (with a photo: {turn.photo})" if turn.photo else ""
    return f"{turn.speaker} said on {day}: {turn.text}{photo}"
