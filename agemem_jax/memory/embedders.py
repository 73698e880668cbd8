"""Sentence encoders enc(.) behind one interface, and the one that needs no download.

The store only asks for unit vectors, so that a dot product is the cosine of section 3.2.
`HashedNGramEmbedder` compares spelling; `MiniLMEmbedder` (minilm.py) compares meaning.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float


class Embedder(Protocol):
    """Turns texts into vectors whose dot product is a similarity.

    Attributes:
      dim: length of a vector.
    """

    dim: int

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Unit-norm float32 rows, one per text; a text without content gives zeros."""
        ...


# Words that say little about what an English sentence is about.
_FUNCTION_WORDS = frozenset(
    "a about am an and any are as at be been but by can could did do does for from had has"
    " have he her hers him his how i if in into is it its just me my no not now of on or our"
    " out s she so some t than that the their them then there these they this those to too"
    " up us was we were what when where which who whom whose why will with would you your".split()
)
_FUNCTION_WORD_WEIGHT = 0.2

_WORD = re.compile(r"\w+")
_WORD_FEATURES = 4  # places per whole word, so that one collision is not a false match
EMBEDDERS = ("hashed_ngrams", "minilm")
_MAX_CACHED_WORDS = 65536


class HashedNGramEmbedder:
    """Bags of words and of character n-grams, hashed with signs into `dim` places.

    A word is the unit vector of itself and of its n-grams, with its ends marked, so that
    inflections stay near each other; a text is the sum of its words, repeated words
    counting by the square root and function words little. No state but a cache of words:
    a text has the same vector, bit for bit, in every batch, process and machine order.
    """

    def __init__(self, dim: int = 256, ngram_min: int = 3, ngram_max: int = 4):
        if dim < 1 or not 1 <= ngram_min <= ngram_max:
            raise ValueError(
                "HashedNGramEmbedder needs dim of at least 1 and 1 <= ngram_min <= ngram_max, "
                f"not dim={dim}, ngram_min={ngram_min}, ngram_max={ngram_max}."
            )
        self.dim = dim
        self.ngram_min = ngram_min
        self.ngram_max = ngram_max
        self._forget_words()

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Unit-norm rows; see `Embedder.embed`."""
        if len(self._index) > _MAX_CACHED_WORDS:
            self._forget_words()
        words: list[int] = []
        weights: list[float] = []
        starts: list[int] = []
        filled: list[int] = []
        for position, text in enumerate(texts):
            normal = unicodedata.normalize("NFKC", text).lower()
            counts = Counter(_WORD.findall(normal))
            if not counts:
                continue
            filled.append(position)
            starts.append(len(words))
            for word, count in counts.items():
                words.append(self._word(word))
                scale = _FUNCTION_WORD_WEIGHT if word in _FUNCTION_WORDS else 1.0
                weights.append(scale * count**0.5)
        embeddings = np.zeros((len(texts), self.dim), np.float32)
        if filled:
            weighted = self._table[words] * np.asarray(weights, np.float32)[:, None]
            sums = np.add.reduceat(weighted, starts, axis=0)
            norms = np.linalg.norm(sums, axis=1, keepdims=True)
            embeddings[filled] = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0)
        return embeddings

    def _forget_words(self) -> None:
        self._index: dict[str, int] = {}
        self._table = np.zeros((1024, self.dim), np.float32)

    def _word(self, word: str) -> int:
        """Row of the word in the table, filled at first sight."""
        index = self._index.get(word)
        if index is not None:
            return index
        index = len(self._index)
        if index == len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        self._table[index] = self._word_vector(word)
        self._index[word] = index
        return index

    def _word_vector(self, word: str) -> Float[np.ndarray, " dim"]:
        marked = f"<{word}>"
        features = [f"{place} {word}" for place in range(_WORD_FEATURES)]
        for size in range(self.ngram_min, self.ngram_max + 1):
            features += [marked[i : i + size] for i in range(len(marked) - size + 1)]
        vector = np.zeros(self.dim, np.float32)
        for feature in features:
            # CRC-32 is stable across processes, which Python's own hash is not.
            code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
            # The sign comes from a bit that the place, a remainder, hardly depends on.
            vector[code % self.dim] += 1.0 if code >> 31 else -1.0
        norm = float(np.linalg.norm(vector))
        return vector / norm if norm > 0 else vector


def make_embedder(name: str, directory: str | Path | None = None) -> Embedder:
    """The embedder that a configuration names.

    Args:
      name: one of `EMBEDDERS`.
      directory: where MiniLM's model.safetensors, tokenizer.json and config.json are.

    Raises:
      ValueError: for an unknown name, or for "minilm" without a directory.
      FileNotFoundError: when the directory lacks one of the files.
    """
    if name not in EMBEDDERS:
        raise ValueError(f"Unknown embedder {name!r}; choose one of {', '.join(EMBEDDERS)}.")
    if name == "minilm":
        if directory is None:
            raise ValueError(
                "The embedder 'minilm' needs the directory that holds its model.safetensors, "
                "tokenizer.json and config.json."
            )
        # Only here, so that the hashed embedder works without tokenizers and safetensors.
        from agemem_jax.memory.minilm import MiniLMEmbedder

        return MiniLMEmbedder.from_directory(directory)
    return HashedNGramEmbedder()


def embed_unique(embedder: Embedder, texts: Sequence[str]) -> dict[str, Float[np.ndarray, " dim"]]:
    """Vectors by text, from one call in which texts that occur several times stand once."""
    unique = list(dict.fromkeys(texts))
    if not unique:
        return {}
    return dict(zip(unique, embedder.embed(unique), strict=True))


def similarities(embedder: Embedder, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Cosine of each (text, criteria) pair, from one call of the embedder."""
    vectors = embed_unique(embedder, [text for pair in pairs for text in pair])
    return [float(np.dot(vectors[text], vectors[criteria])) for text, criteria in pairs]
