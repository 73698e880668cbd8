"""TensorFlow Datasets builder for HotpotQA's distractor setting, without TensorFlow.

Official files come by URL or from a directory that the user filled; rows are stored as
ArrayRecord, which Grain reads with random access. Nested lists of text would need
TensorFlow's ragged tensors, so paragraphs are stored flat: titles, and sentences with
the index of their paragraph.
"""

import dataclasses
import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from agemem_jax.tasks.hotpotqa.rows import Paragraph, Row, read_rows

TRAIN_FILE = "hotpot_train_v1.1.json"
VALIDATION_FILE = "hotpot_dev_distractor_v1.json"
URL = "http://curtis.ml.cmu.edu/datasets/hotpot/"

_DESCRIPTION = """\
HotpotQA, distractor setting: questions that need facts from two Wikipedia paragraphs,
each with its gold and (mostly eight) distracting paragraphs and the gold sentences.
"""
_CITATION = """\
@inproceedings{yang2018hotpotqa,
  title={{HotpotQA}: A Dataset for Diverse, Explainable Multi-hop Question Answering},
  author={Yang, Zhilin and Qi, Peng and Zhang, Saizheng and Bengio, Yoshua and
          Cohen, William W. and Salakhutdinov, Ruslan and Manning, Christopher D.},
  booktitle={Conference on Empirical Methods in Natural Language Processing},
  year={2018}
}
"""


@dataclasses.dataclass
class HotpotQABuilderConfig(tfds.core.BuilderConfig):
    """Which files to read.

    Attributes:
      train_file, validation_file: names of JSON files in the official format, in
        `manual_dir` or, where that is absent, at `URL`.
    """

    train_file: str = TRAIN_FILE
    validation_file: str = VALIDATION_FILE


class HotpotQA(tfds.core.GeneratorBasedBuilder):
    """Splits "train" and "validation" in the order of the files."""

    name = "hotpotqa"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [HotpotQABuilderConfig(name="distractor", description="The official files.")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put {TRAIN_FILE} and {VALIDATION_FILE} from {URL}, or files in the same format under "
        "the names that the builder's config gives, into this directory."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        features = tfds.features.FeaturesDict(
            {
                "id": text(),
                "question": text(),
                "answer": text(),
                "type": text(),
                "level": text(),
                "titles": tfds.features.Sequence(text()),
                "sentences": tfds.features.Sequence({"paragraph": np.int32, "text": text()}),
                "supporting_facts": tfds.features.Sequence(
                    {"paragraph": np.int32, "sentence": np.int32}
                ),
            }
        )
        return self.dataset_info_from_configs(
            features=features,
            description=_DESCRIPTION,
            citation=_CITATION,
            homepage="https://hotpotqa.github.io/",
            license="CC BY-SA 4.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        try:
            manual_dir = Path(dl_manager.manual_dir)
        except AssertionError:  # the directory is not there, or empty
            manual_dir = None
        config = self.builder_config
        if manual_dir is None:
            train, validation = _download(dl_manager, config)
        else:
            train, validation = _find(manual_dir, config.train_file, config.validation_file)
        return {
            "train": self._generate_examples(train),
            "validation": self._generate_examples(validation),
        }

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, row in enumerate(read_rows(path)):
            yield index, encode(row)


def encode(row: Row) -> dict[str, Any]:
    """A row in the shape of the builder's features."""
    return {
        "id": row.row_id,
        "question": row.question,
        "answer": row.answer,
        "type": row.kind,
        "level": row.level,
        "titles": [paragraph.title for paragraph in row.context],
        "sentences": [
            {"paragraph": index, "text": sentence}
            for index, paragraph in enumerate(row.context)
            for sentence in paragraph.sentences
        ],
        "supporting_facts": [
            {"paragraph": paragraph, "sentence": sentence}
            for paragraph, sentence in row.supporting_facts
        ],
    }


def decode(example: dict[str, Any]) -> Row:
    """The row of an example as the data source returns it: the inverse of `encode`."""
    sentences: list[list[str]] = [[] for _ in example["titles"]]
    stored = example["sentences"]
    for paragraph, text in zip(stored["paragraph"], stored["text"], strict=True):
        sentences[int(paragraph)].append(text.decode())
    supporting = example["supporting_facts"]
    return Row(
        row_id=example["id"].decode(),
        question=example["question"].decode(),
        answer=example["answer"].decode(),
        kind=example["type"].decode(),
        level=example["level"].decode(),
        supporting_facts=tuple(
            (int(paragraph), int(sentence))
            for paragraph, sentence in zip(
                supporting["paragraph"], supporting["sentence"], strict=True
            )
        ),
        context=tuple(
            Paragraph(title.decode(), tuple(texts))
            for title, texts in zip(example["titles"], sentences, strict=True)
        ),
    )


def prepare(
    data_dir: str | Path | None = None,
    *,
    manual_dir: str | Path | None = None,
    train_file: str = TRAIN_FILE,
    validation_file: str = VALIDATION_FILE,
) -> HotpotQA:
    """Returns the builder, its data written below `data_dir` (once) and ready to read.

    Args:
      data_dir: where prepared data is kept; None is TensorFlow Datasets' own folder,
        TFDS_DATA_DIR or ~/tensorflow_datasets.
      manual_dir: directory with the JSON files; None downloads the official ones.
      train_file, validation_file: names of the files in `manual_dir`.

    Raises:
      FileNotFoundError: a file is not in `manual_dir`, or is not an official one and no
        `manual_dir` was given.
      ConnectionError: an official file could not be downloaded.
      ValueError: a row is not as the official format says.
    """
    if manual_dir is None:
        if (train_file, validation_file) != (TRAIN_FILE, VALIDATION_FILE):
            raise FileNotFoundError(
                f"HotpotQA's files {train_file} and {validation_file} can be read only from a "
                "directory: name it as manual_dir (without one, only the official "
                f"{TRAIN_FILE} and {VALIDATION_FILE} are downloaded)."
            )
        config = "distractor"
    else:
        # Named after the contents: other files under the same names are another data set,
        # and must not be served from what was prepared earlier.
        manual_dir = Path(manual_dir).expanduser()
        digest = _digest(_find(manual_dir, train_file, validation_file))
        config = HotpotQABuilderConfig(
            name=f"distractor-{digest}", train_file=train_file, validation_file=validation_file
        )
    folder = None if data_dir is None else str(Path(data_dir).expanduser())
    builder = HotpotQA(data_dir=folder, config=config, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    )
    return builder


def _find(manual_dir: Path, train_file: str, validation_file: str) -> tuple[Path, Path]:
    """The paths of both files; one sentence about the first that is missing."""
    options = {"train_file": train_file, "validation_file": validation_file}
    for option, name in options.items():
        if not (manual_dir / name).is_file():
            raise FileNotFoundError(
                f"HotpotQA's {name} is not in manual_dir {manual_dir}: put it there, name "
                f"another file of that directory with {option}, or leave manual_dir out to "
                "have the official files downloaded."
            )
    return manual_dir / train_file, manual_dir / validation_file


def _download(dl_manager, config: HotpotQABuilderConfig) -> tuple[Path, Path]:
    names = (config.train_file, config.validation_file)
    try:
        _reach(URL + names[0])  # the downloader tries for minutes
        train, validation = dl_manager.download([URL + name for name in names])
    except Exception as error:  # the downloader lets many kinds through
        reason = str(error)[:100]
        raise ConnectionError(
            f"HotpotQA could not be downloaded from {URL} ({reason}): download {names[0]} and "
            f"{names[1]} by other means, and name the directory that holds them as manual_dir."
        ) from error
    return Path(train), Path(validation)


def _reach(url: str, patience: float = 15.0) -> None:
    """Whether anyone answers there; raises an OSError otherwise."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=patience).close()
    except urllib.error.HTTPError:
        pass  # an answer, if to another question


def _digest(paths: tuple[Path, ...]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for path in paths:
        digest.update(f"{path.name}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
