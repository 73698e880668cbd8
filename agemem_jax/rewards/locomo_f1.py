"""F1 of answers to LoCoMo's questions, as its official evaluation counts it.

Other than HotpotQA's: words are compared by their stem, "and" counts as an article, and each
category of question has a rule of its own (`score`). The official script stems with nltk and
finds articles with the regex package, so both are needed here.
"""

import collections
import functools
import string
from collections.abc import Callable
from typing import Any

import numpy as np

# Says, anywhere in an answer and in any case, that there is nothing to tell.
REFUSALS = ("no information available", "not mentioned")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(answer: str, expected: str, category: str) -> float:
    """The official score of an answer, in [0, 1].

    Args:
      answer: what was answered.
      expected: LoCoMo's answer as text; what it is does not count for "adversarial".
      category: "single-hop" and "temporal" compare whole answers; "multi-hop" takes the mean
        over the parts of the expected answer between commas; "open-domain" compares with what
        stands before the first semicolon; "adversarial" asks for one of `REFUSALS`.

    Raises:
      ImportError: nltk or regex is missing.
      ValueError: there is no such category.
    """
    if category not in _RULES:
        raise ValueError(
            f"LoCoMo has no category {category!r}; it must be one of {', '.join(_RULES)}."
        )
    return _RULES[category](answer, expected)


def f1(answer: str, expected: str) -> float:
    """Token F1 over the stems of both, 0.0 where one is empty."""
    ours, theirs = stems(answer), stems(expected)
    common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def parts_f1(answer: str, expected: str) -> float:
    """Mean, over the parts of `expected` between commas, of the best F1 of a part of `answer`."""
    ours = answer.split(",")
    return float(np.mean([max(f1(part, each) for part in ours) for each in expected.split(",")]))


def stems(text: str) -> list[str]:
    """Stems of the words of a text: no case, ASCII punctuation, articles or "and"."""
    articles, stem = tools()
    plain = articles.sub(" ", text.lower().translate(_PUNCTUATION))
    return [stem(word) for word in plain.split()]


def _before_semicolon(answer: str, expected: str) -> float:
    return f1(answer, expected.split(";")[0])


def _refuses(answer: str, expected: str) -> float:
    said = answer.lower()
    return float(any(phrase in said for phrase in REFUSALS))


_RULES: dict[str, Callable[[str, str], float]] = {
    "multi-hop": parts_f1,
    "temporal": f1,
    "open-domain": _before_semicolon,
    "single-hop": f1,
    "adversarial": _refuses,
}


@functools.cache
def tools() -> tuple[Any, Callable[[str], str]]:
    """A pattern that finds articles, and what stems a word.

    Importing them takes a second or two, so a run calls this where it looks at its options:
    a missing package is told then (ImportError) and not behind the first episodes.
    """
    try:
        import regex  # sees combining marks as parts of words, which `re` does not
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise ImportError(
            f"LoCoMo's F1 needs the {str(error.name).split('.')[0]} package: pip install -r "
            "requirements-benchmarks.txt."
        ) from error
    return regex.compile(r"\b(?:a|an|the|and)\b"), functools.lru_cache(2**16)(PorterStemmer().stem)
