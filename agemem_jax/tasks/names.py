"""Made-up names for the embedded multi-hop questions.

A name is one or two two-letter syllables and a three-letter ending that tells its
type. A small byte-level BPE learns the syllables as tokens, so that a name costs two
or three tokens. A stable hash gives every name to exactly one split.
"""

import functools
import hashlib

import numpy as np

SPLITS = ("train", "validation", "test")
YEAR_RANGE = (1920, 2000)  # first year, one past the last

# No combination may read as an offensive word: some syllables are left out for that.
STEMS = tuple(
    "ba be bo da de do du fa fe fi ka ke ko la le lo lu ma me mi "
    "na ne no pa pi po ra re ri ro sa se so ta te to va ve vo zo".split()
)
ENDINGS = {
    "person": tuple("lin mar ven dor rik sel tal wyn las ner".split()),
    "organisation": tuple("dex tek cor zon lux nix tor gen rax vim".split()),
    "city": tuple("bur ton vil pol fel ham gad mon rez sta".split()),
}


def split_of(name: str) -> str:
    """The split that owns `name`: 80 % train, 10 % validation, 10 % test."""
    digest = hashlib.blake2b(name.encode("ascii"), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 10
    return SPLITS[max(0, bucket - 7)]


@functools.cache
def names(entity_type: str, split: str) -> tuple[str, ...]:
    """All names of a type ("person", "organisation", "city") in a split, in fixed order."""
    stems = STEMS + tuple(a + b for a in STEMS for b in STEMS)
    everything = ((stem + end).capitalize() for stem in stems for end in ENDINGS[entity_type])
    return tuple(name for name in everything if split_of(name) == split)


def stems_of(name: str) -> tuple[str, ...]:
    """The syllables of `name` before its ending, in lower case."""
    body = name[:-3].lower()
    return tuple(body[i : i + 2] for i in range(0, len(body), 2))


class NameSampler:
    """Draws the names of one episode, none twice.

    No drawn name contains another, upper and lower case ignored, so that a search for
    one in a text never finds another.
    """

    def __init__(self, rng: np.random.Generator, split: str):
        self._rng = rng
        self._split = split
        self._used: list[str] = []

    def fresh(self, entity_type: str) -> str:
        """A name that shares nothing in particular with the earlier ones."""
        pool = names(entity_type, self._split)
        while not self._take(candidate := pool[int(self._rng.integers(len(pool)))]):
            pass
        return candidate

    def near(self, entity_type: str, name: str) -> str:
        """A name that shares a syllable with `name`."""
        stems, endings = stems_of(name), ENDINGS[entity_type]
        while True:
            kept = stems[int(self._rng.integers(len(stems)))]
            other = STEMS[int(self._rng.integers(len(STEMS)))]
            pair = kept + other if self._rng.random() < 0.5 else other + kept
            candidate = (pair + endings[int(self._rng.integers(len(endings)))]).capitalize()
            if split_of(candidate) == self._split and self._take(candidate):
                return candidate

    def _take(self, candidate: str) -> bool:
        lower = candidate.lower()
        if any(lower in used or used in lower for used in self._used):
            return False
        self._used.append(lower)
        return True


def year(rng: np.random.Generator, exclude: frozenset[str] = frozenset()) -> str:
    """A year of `YEAR_RANGE` that is not in `exclude`."""
    while (drawn := str(int(rng.integers(*YEAR_RANGE)))) in exclude:
        pass
    return drawn
