"""HotpotQA questions as tasks: the gold paragraphs are said in Stage 1, the question's
other paragraphs distract in Stage 2 (section 4.1 of the paper).
"""

import dataclasses
from pathlib import Path
from typing import ClassVar

from agemem_jax.tasks.hotpotqa.rows import Paragraph, Row
from agemem_jax.tasks.task import Question, Task

SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class HotpotQATaskConfig:
    """How a question becomes a task.

    Attributes:
      num_distractors: Stage 2 paragraphs, fewer where the question has fewer.
      max_words: words of a paragraph in a message, its title not counted. A message never
        loses a gold sentence: where these alone are longer, the message is longer.
    """

    num_distractors: int = 8
    max_words: int = 120

    def __post_init__(self):
        if self.num_distractors < 0:
            raise ValueError(
                f"num_distractors must not be negative, but is {self.num_distractors}."
            )
        if self.max_words < 1:
            raise ValueError(f"max_words must be at least 1, but is {self.max_words}.")


def to_task(row: Row, config: HotpotQATaskConfig) -> Task:
    """The task of one question. The order of paragraphs is the data set's."""
    gold: dict[int, set[int]] = {}
    for paragraph, sentence in row.supporting_facts:
        gold.setdefault(paragraph, set()).add(sentence)
    messages, distractors = [], []
    for index, paragraph in enumerate(row.context):
        if index in gold:
            messages.append(_message(paragraph, config.max_words, gold[index]))
        elif len(distractors) < config.num_distractors:
            distractors.append(_message(paragraph, config.max_words, set()))
    return Task(
        task_id=f"hotpotqa-{row.row_id}",
        goal=Question(row.question, row.answer),
        messages=tuple(messages),
        distractors=tuple(distractors),
        supporting_facts=tuple(
            _gold_sentence(row.context[paragraph], sentence)
            for paragraph, sentence in row.supporting_facts
        ),
        category=row.kind,
        data_set="hotpotqa",
    )


class HotpotQASource:
    """Random access to the tasks of a split (a Grain source), in the order of the file."""

    def __init__(
        self,
        split: str,
        data_dir: str | Path | None = None,
        *,
        manual_dir: str | Path | None = None,
        train_file: str | None = None,
        validation_file: str | None = None,
        config: HotpotQATaskConfig | None = None,
    ):
        """Prepares the data if that was not done; see `builder.prepare` for the files.

        Raises ValueError for a split that is not "train" or "validation" (the official
        test split has no answers), and what `builder.prepare` raises.
        """
        # TensorFlow Datasets takes seconds to import: only who uses this source waits.
        from agemem_jax.tasks.hotpotqa import builder

        if split not in SPLITS:
            raise ValueError(f"The hotpotqa split must be train or validation, not {split!r}.")
        self._config = config or HotpotQATaskConfig()
        self._decode = builder.decode
        self._examples = builder.prepare(
            data_dir,
            manual_dir=manual_dir,
            train_file=train_file or builder.TRAIN_FILE,
            validation_file=validation_file or builder.VALIDATION_FILE,
        ).as_data_source(split=split)

    def __len__(self) -> int:
        return len(self._examples)

    def row(self, index: int) -> Row:
        """The question at `index` with all its paragraphs."""
        if not 0 <= index < len(self):
            raise IndexError(f"Task {index} is outside a source of {len(self)} tasks.")
        return self._decode(self._examples[int(index)])

    def __getitem__(self, index: int) -> Task:
        return to_task(self.row(index), self._config)


@dataclasses.dataclass(frozen=True)
class HotpotQATasks(HotpotQATaskConfig):
    """The source "hotpotqa".

    Attributes:
      data_dir: where prepared data is kept; None is TensorFlow Datasets' folder.
      manual_dir: folder that holds the official JSON files; without it they are downloaded.
      train_file, validation_file: names of the files inside `manual_dir`.
    """

    splits: ClassVar[tuple[str, ...]] = SPLITS

    data_dir: str | None = None
    manual_dir: str | None = None
    train_file: str = "hotpot_train_v1.1.json"
    validation_file: str = "hotpot_dev_distractor_v1.json"

    def __post_init__(self):
        super().__post_init__()
        files = {"train_file": self.train_file, "validation_file": self.validation_file}
        for name, file in files.items():
            if not file or "/" in file:
                raise ValueError(
                    f"{name} is {file!r}; it must be the name of a file in manual_dir."
                )

    def __call__(self, split: str) -> HotpotQASource:
        return HotpotQASource(
            split, self.data_dir, manual_dir=self.manual_dir, train_file=self.train_file,
            validation_file=self.validation_file, config=self,
        )  # fmt: skip


def _message(paragraph: Paragraph, max_words: int, gold: set[int]) -> str:
    """ "Title: sentences", the gold ones and as many others, from the start, as fit."""
    sentences = [sentence.strip() for sentence in paragraph.sentences]
    left = max_words - sum(len(sentences[index].split()) for index in gold)
    kept = []
    for index, sentence in enumerate(sentences):
        words = sentence.split()
        if index in gold:
            kept.append(sentence)
        elif left > 0 and words:
            kept.append(sentence if len(words) <= left else " ".join(words[:left]) + " ...")
            left -= len(words)
    return f"{paragraph.title}: {' '.join(kept)}"


def _gold_sentence(paragraph: Paragraph, index: int) -> str:
    """The sentence, with the title before it where the sentence does not name it."""
    sentence = paragraph.sentences[index].strip()
    if paragraph.title.lower() in sentence.lower():
        return sentence
    return f"{paragraph.title}: {sentence}"
