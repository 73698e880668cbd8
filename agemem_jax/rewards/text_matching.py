"""Comparing texts without a model: answers, facts, and the key tokens of a question.

The offline judge and the context reward rest on these functions. They are heuristics
with exact rules, written out in the docstrings, so that a score can be checked by hand.
"""

import collections
import re
import string
from collections.abc import Sequence

# A word or a number; "St.Louis", "don't", "1,000" and "17-year-old" are one token each.
_TOKEN = re.compile(r"[^\W_]+(?:[.,'’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
_QUOTED = re.compile(r"[\"“]([^\"“”]{1,200})[\"”]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Punctuation beyond ASCII stays, and an article beside it is still one: "the—cat".
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")

FUNCTION_WORDS = frozenset(
    """a about according after all also although am among an and any are as at be because been
    before being between both but by can could did do does during each either every few first for
    from give had has have having he her hers here him his how however i if in into is it its last
    later list many may me might more most much must my name neither no nor not now of on once one
    only or other our out over she should since so some such than that the their them then there
    these they this those through to under until up us was we were what when where whether which
    while who whom whose why will with within without would you your yes tell find did know
    update news correction remember""".split()
)
# Names of a short fact may carry it alone; a longer fact needs its other words too.
_SHORT_FACT = 5
_RECALL = 0.8


def normalise_answer(text: str) -> str:
    """HotpotQA's normalisation: lower case, no ASCII punctuation, no articles, single blanks."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", plain).split())


def exact_match(answer: str, expected: str) -> float:
    """1.0 when both are the same after HotpotQA's normalisation, else 0.0."""
    return float(normalise_answer(answer) == normalise_answer(expected))


def answer_f1(answer: str, expected: str) -> float:
    """Token F1 after HotpotQA's normalisation; "yes" and "no" count only as a whole."""
    ours, theirs = normalise_answer(answer), normalise_answer(expected)
    if ours != theirs and {ours, theirs} & {"yes", "no", "noanswer"}:
        return 0.0
    ours, theirs = ours.split(), theirs.split()
    common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def tokens(text: str) -> list[str]:
    """Words and numbers as written, possessive endings removed."""
    return [re.sub(r"['’]s$", "", token) for token in _TOKEN.findall(text)]


def sentences(text: str) -> list[str]:
    """Splits behind ., ! or ? followed by a blank, and at line ends."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def is_name(token: str) -> bool:
    """Whether a token is a name, a date or a number: capitalised or with a digit."""
    return (token[0].isupper() and token.lower() not in FUNCTION_WORDS) or any(
        character.isdigit() for character in token
    )


def key_tokens(query: str) -> frozenset[str]:
    """Names, dates, numbers, places and quoted words of a question, in lower case.

    A capitalised function word ("Which", "The") is no name, wherever it stands.
    """
    keys = {token.lower() for token in tokens(query) if is_name(token)}
    for quoted in _QUOTED.findall(query):
        keys |= {token.lower() for token in tokens(quoted)} - FUNCTION_WORDS
    return frozenset(keys)


def states(text: str, fact: str) -> bool:
    """Whether `text` says `fact`; the rule behind storage, relevance and memory quality.

    The fact's content words are its words without function words; its names are the
    capitalised ones and the numbers. `text` says the fact when one of its sentences has

    - all the names, given that the fact has at least two separate ones and that they are
      at least half of its content words: "I heard that Pelmor employs Tovelin." says
      "Tovelin works at Pelmor.", or
    - at least 80 % of the content words and at least 80 % of the names.

    A fact of five content words or more may also be spread over the sentences of `text`
    by the second rule. Names must be the same, other words up to their ending ("works",
    "worked").
    """
    wanted = _Fact(fact)
    parts = sentences(text)
    if any(wanted.said_by(part) for part in parts):
        return True
    return len(wanted.words) >= _SHORT_FACT and wanted.recalled_by(text)


class _Fact:
    """The content words of a fact, split into names and other words."""

    def __init__(self, fact: str):
        written = tokens(fact)
        self.names = frozenset(token.lower() for token in written if is_name(token))
        others = {token.lower() for token in written} - self.names - FUNCTION_WORDS
        self.others = frozenset(_stem(word) for word in others)
        self.words = self.names | self.others
        self.separate_names = _separate_names(written)

    def said_by(self, sentence: str) -> bool:
        names = {token.lower() for token in tokens(sentence)}
        carried = self.separate_names >= 2 and 2 * len(self.names) >= len(self.words)
        return (carried and self.names <= names) or self.recalled_by(sentence)

    def recalled_by(self, text: str) -> bool:
        if not self.words:
            return False
        found = {token.lower() for token in tokens(text)}
        names = len(self.names & found)
        others = len(self.others & {_stem(word) for word in found})
        enough_names = names >= _RECALL * len(self.names)
        return enough_names and names + others >= _RECALL * len(self.words)


def _separate_names(written: Sequence[str]) -> int:
    """How many runs of name tokens there are; one inside another is the same name."""
    runs: list[set[str]] = [set()]
    for token in written:
        if is_name(token):
            runs[-1].add(token.lower())
        elif runs[-1]:
            runs.append(set())
    distinct = {frozenset(run) for run in runs if run}
    return sum(not any(run < other for other in distinct) for run in distinct)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def covered_facts(text: str, facts: Sequence[str]) -> frozenset[int]:
    """Indices of the facts that `text` says."""
    return frozenset(index for index, fact in enumerate(facts) if states(text, fact))


def states_stale(text: str, gold: Sequence[str], stale: Sequence[str]) -> bool:
    """Whether a sentence of `text` says a stale fact and no gold fact.

    "Tovelin left Dravix and works at Pelmor now." names the stale employer but says the
    current fact, so it is not stale.
    """
    return any(
        any(states(sentence, fact) for fact in stale)
        and not any(states(sentence, fact) for fact in gold)
        for sentence in sentences(text)
    )


def is_high_quality(entry: str, gold: Sequence[str], stale: Sequence[str]) -> bool:
    """Whether a memory says a gold fact and no stale one (see `states_stale`)."""
    return bool(covered_facts(entry, gold)) and not states_stale(entry, gold, stale)
