"""Comparing texts without a model: answers, facts, and the key tokens of a question.

The offline judge and the context reward rest on these functions. They are heuristics
with exact rules, written out in the docstrings, so that a score can be checked by hand.
"""

import collections
import functools
import re
import string
from collections.abc import Sequence

from agemem_jax.rewards import polarity
from agemem_jax.rewards.polarity import TOKEN, Mark

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
_ABBREVIATED = re.compile(
    r"\b(?:[A-Z]|Dr|Mr|Mrs|Ms|St|Jr|Sr|Prof|Lt|Col|Gen|Capt|Sgt|Rev|Gov|Sen|Mt|vs|ca|c|r)\.\s+$"
)
_LONGEST = 8  # characters of an abbreviation, with what stands in front
_NUMBERED = re.compile(r"\b[Nn]o\.\s+$")
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
_BE_AND_HAVE = frozenset("is are was were has have had".split())
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
    return [_without_possessive(token) for token in TOKEN.findall(text)]


def sentences(text: str) -> list[str]:
    """Splits behind ., ! or ? followed by a blank, and at line ends.

    Behind an initial ("K. A. Applegate"), "Dr." and its like, and "no." in front of a number,
    nothing ends.
    """
    parts, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        before = text[max(0, match.start() - _LONGEST) : match.end()]
        numbered = _NUMBERED.search(before) and text[match.end() : match.end() + 1].isdigit()
        if not match[0].endswith("\n") and (numbered or _ABBREVIATED.search(before)):
            continue
        parts.append(text[start : match.end()])
        start = match.end()
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


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
    capitalised ones and the numbers. A sentence of `text` is about the fact when it has

    - all the names, given that the fact has at least two separate ones and that they are
      at least half of its content words: "I heard that Pelmor employs Tovelin." is about
      "Tovelin works at Pelmor.", or
    - at least 80 % of the content words and at least 80 % of the names, and one of the other
      words, if the fact has any.

    Where the fact says between two names how they are related, so must the sentence: a word that
    is no name and no function word, or a form of be or have, stands between the fact's names.
    Where it says it elsewhere, the sentence has one of its other words. A list of names says
    nothing.

    The sentence says the fact when it affirms and denies what the fact affirms and denies, by
    the marks of `polarity.read`: none of its content words stands there with other marks alone.
    A question affirms nothing. A fact of less than five content words that denies something is
    said by a sentence about it that denies any of them.

    A fact of five content words or more may also be spread over the sentences of `text`
    by the second rule, unless one of them is about it and says otherwise. Names must be the
    same, other words up to their ending ("works", "worked").
    """
    wanted = _Fact.of(fact)
    found = [wanted.verdict(_Words.of(part)) for part in sentences(text)]
    if True in found:
        return True
    if len(wanted.words) < _SHORT_FACT or False in found:
        return False
    return wanted.recalled_by(_Words.of(text)) and not wanted.denied_by(_Words.of(text))


def denies(text: str, fact: str) -> bool:
    """Whether a sentence of `text` is about `fact` and says otherwise, and none says it."""
    wanted = _Fact.of(fact)
    found = [wanted.verdict(_Words.of(part)) for part in sentences(text) if not _is_question(part)]
    return False in found and True not in found


def content_words(fact: str) -> frozenset[str]:
    """What `states` looks for: names in lower case, and the stems of all other content words."""
    return _Fact.of(fact).words


def rival_values(text: str, fact: str) -> frozenset[str]:
    """What `text` puts in the place of the last name, date or number of `fact`, in lower case.

    "Tovelin works at Dravix." puts Dravix where "Tovelin works at Pelmor." has Pelmor. A sentence
    does so when it affirms all content words of the fact but those of that name, none of these,
    and has another name; the fact must have two separate names at least, and less than five
    content words: a longer one says more than one relation. Other words for the relation ("has a
    job at") are not found.
    """
    wanted = _Fact.of(fact)
    if wanted.separate_names < 2 or len(wanted.words) >= _SHORT_FACT:
        return frozenset()
    found: set[str] = set()
    for part in sentences(text):
        words = _Words.of(part)
        affirmed = {word for word in words.marks if Mark.AFFIRMED in words.only(word)}
        if wanted.words - wanted.value <= affirmed and not wanted.value & affirmed:
            names = {word.lower() for word in words.order if is_name(word)}
            found |= (names & affirmed) - wanted.names
    return frozenset(found)


class _Words:
    """The words of a text in lower case, other words than names by their stems, with marks."""

    def __init__(self, text: str):
        self.order: list[str] = []  # as written, possessive endings removed
        self.marks: dict[str, set[Mark]] = {}
        for part in sentences(text):
            for word, marks in polarity.read(part):
                written = _without_possessive(word)
                self.order.append(written)
                for key in {written.lower(), _stem(written.lower())}:
                    self.marks.setdefault(key, set()).update(marks)

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def of(cls, text: str) -> "_Words":
        return cls(text)

    def only(self, word: str) -> frozenset[Mark]:
        return frozenset(self.marks.get(word, ()))


class _Fact:
    """The content words of a fact, split into names and other words, with their marks."""

    def __init__(self, fact: str):
        read = _Words(fact)
        written = read.order
        self.names = frozenset(token.lower() for token in written if is_name(token))
        others = {token.lower() for token in written} - self.names - FUNCTION_WORDS
        self.others = frozenset(_stem(word) for word in others)
        self.words = self.names | self.others
        self.separate_names = _separate_names(written)
        self.value = _last_name(written)
        self.marks = {word: read.only(word) for word in self.words}
        self.denying = any(Mark.AFFIRMED not in marks for marks in self.marks.values())
        self.related = self._relates(written)

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def of(cls, fact: str) -> "_Fact":
        return cls(fact)

    def verdict(self, sentence: _Words) -> bool | None:
        """Whether a sentence says the fact, or otherwise; None where it is not about it."""
        carried = self.separate_names >= 2 and 2 * len(self.names) >= len(self.words)
        about = (carried and self.names <= sentence.marks.keys()) or self.recalled_by(sentence)
        if not about:
            return None
        if not (self._relates(sentence.order) if self.related else self._has_others(sentence)):
            return None
        return not self.denied_by(sentence)

    def recalled_by(self, text: _Words) -> bool:
        if not self.words:
            return False
        names, others = len(self.names & text.marks.keys()), len(self.others & text.marks.keys())
        enough_names = names >= _RECALL * len(self.names)
        enough = names + others >= _RECALL * len(self.words)
        return enough_names and enough and self._has_others(text)

    def _has_others(self, text: _Words) -> bool:
        return not self.others or bool(self.others & text.marks.keys())

    def denied_by(self, text: _Words) -> bool:
        if self.denying and len(self.words) < _SHORT_FACT:
            return not any(Mark.DENIED in text.only(word) for word in self.words)
        return any(
            found and not found & self.marks[word]
            for word in self.words
            for found in [text.only(word)]
        )

    def _relates(self, written: Sequence[str]) -> bool:
        """Whether a word of relation stands between the first and the last of the names."""
        places = [place for place, word in enumerate(written) if word.lower() in self.names]
        between = written[places[0] : places[-1]] if places else ()
        return self.separate_names >= 2 and any(
            word.lower() not in self.names
            and (_stem(word.lower()) in self.others or self._is_relation(word))
            for word in between
        )

    @staticmethod
    def _is_relation(word: str) -> bool:
        verb = polarity.relates(word)
        return verb and (word.lower() not in FUNCTION_WORDS or word.lower() in _BE_AND_HAVE)


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


def _last_name(written: Sequence[str]) -> frozenset[str]:
    """The last run of name tokens, in lower case."""
    run: list[str] = []
    for token in reversed(written):
        if is_name(token):
            run.append(token.lower())
        elif run:
            break
    return frozenset(run)


def _without_possessive(token: str) -> str:
    return token[:-2] if token.endswith(("'s", "’s")) else token


def _is_question(sentence: str) -> bool:
    return all(Mark.ASKED in marks for _, marks in polarity.read(sentence))


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
    """Whether a memory says a gold fact, denies none, and says no stale one (`states_stale`)."""
    if not covered_facts(entry, gold) or states_stale(entry, gold, stale):
        return False
    return not any(denies(entry, fact) for fact in gold)
