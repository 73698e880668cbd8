"""Which words of a sentence are affirmed, denied, or asked: English, by rule, without a model.

`text_matching.states` compares these marks, so that "never worked at" does not state
"worked at". Every rule is written out in `read`, so that a mark can be checked by hand.
"""

import enum
import functools
import re

# A word or a number; "St.Louis", "don't", "1,000" and "17-year-old" are one token each.
TOKEN = re.compile(r"[^\W_]+(?:[.,'’-][^\W_]+)*")

_FALSE = frozenset("false untrue wrong incorrect".split())
_ASKING = frozenset({"whether", "if"})
_PLAIN = frozenset(
    """not never no nor neither none nobody nothing nowhere cannot hardly quit resigned stopped
    ceased formerly previously former""".split()
)
# Words behind which these deny nothing.
_HARMLESS = {
    "not": frozenset("only just merely least".split()),
    "nothing": frozenset({"but"}),
    "no": frozenset("doubt matter less".split()),
    "none": frozenset({"other"}),
}
_LEFT = frozenset({"left", "leaves", "leaving"})
_MOVED = frozenset({"moved", "moves", "moving"})
_DETERMINERS = frozenset("the his her their its our my your a an".split())
_ENDS = frozenset("and but though although because while who which".split())
_ENDS_OF_MOVE = _ENDS | {"for", "to"}
_HAVE_AND_BE = frozenset("is are was were has have had".split())
_BE = frozenset("is are was were be been get got".split())
_AUXILIARIES = _HAVE_AND_BE | frozenset("do does did can could will would should may might".split())
# What may follow a denial at the end of a sentence and be denied by it no more than it is.
_CLOSING = frozenset("longer more any anymore now there so true right correct the case".split())
_NEVER_TITLES = frozenset("neither nobody none formerly previously if whether".split())
_TOLD_AS_A_QUESTION = re.compile(
    r"\W*(?:(?:did|do) you know|have you heard|you know|guess what)\b"
    r"(?!\s+(?:if|whether|who|what|where|when|why|how|which)\b)",
    re.IGNORECASE,
)
_BREAK = re.compile(r"[,;:()\[\]–—]|\s-\s")


_CUE = re.compile(
    rf"{'|'.join(sorted(_PLAIN | _FALSE | _ASKING | _LEFT | _MOVED))}|used|\w+n['’]t", re.IGNORECASE
)


class Mark(enum.Enum):
    """What a sentence does with a word."""

    AFFIRMED = "affirmed"
    DENIED = "denied"
    ASKED = "asked"


_AFFIRMED = frozenset({Mark.AFFIRMED})


@functools.lru_cache(maxsize=4096)
def read(sentence: str) -> tuple[tuple[str, frozenset[Mark]], ...]:
    """The tokens of a sentence as written, in order, each with its marks.

    All words of a question are asked, but one that tells something ("Did you know that ...") is
    read like a statement. In a statement, what stands in the scope of a denying word is denied,
    everything else is affirmed.

    - Denying words: not, n't, never, no, nor, neither, none, nobody, nothing, nowhere, cannot,
      hardly; false, untrue, wrong, incorrect; those of change: no longer, quit, resigned,
      stopped, ceased, formerly, previously, former, "used to" behind no form of be, "left" in
      front of a name or a determiner, "moved from", "moved away". "whether" and "if" ask.
    - They deny nothing in "not only", "not just", "not merely", "not least", "no doubt", "no
      matter", "no less", "nothing but", "none other", "no. 5", in "no," with its comma, and in
      titles: capitalised inside of a sentence, or at its start in front of a capitalised word or
      a number ("Never Let Me Go"), unless a "but" follows ("Not Ana but Ben").
    - The scope is what follows up to the end of the clause: a comma, semicolon, colon, bracket
      or dash, or one of and, but, though, although, because, while, who, which; behind "left"
      and "moved" for and to as well. A denying word with a comma behind it denies up to the next
      of these words, "false" and its like what precedes them.
    - At the end of a sentence ("..., but not any more", "That ... is not true", "... is false")
      the scope is what precedes in the sentence, behind an auxiliary ("Ben does not") in the
      clause.
    - What "but" continues shares its verb: in "no longer works at Dravix, but at Pelmor" works
      is both denied and affirmed, Dravix is denied. So for every word there that is no name.

    What it cannot read: irony, doubt ("is said to"), words of denial that are not listed
    ("failed to", "refused"), denial that stands in another sentence, and other languages.
    """
    matches = list(TOKEN.finditer(sentence))
    words = [match[0] for match in matches]
    if sentence.rstrip(" \"”')]").endswith("?") and not _TOLD_AS_A_QUESTION.match(sentence):
        return tuple((word, frozenset({Mark.ASKED})) for word in words)
    ends = [match.start() for match in matches[1:]] + [len(sentence)]
    breaks = [
        bool(_BREAK.search(sentence[match.end() : end]))
        for match, end in zip(matches, ends, strict=False)
    ]
    marks = [_AFFIRMED] * len(words)
    for place, word in enumerate(words):
        if not _CUE.fullmatch(word):
            continue
        scope = _scope(words, breaks, place)
        mark = Mark.ASKED if word.lower() in _ASKING else Mark.DENIED
        goes_on = words[scope.stop : scope.stop + 1] == ["but"] and scope.start > place
        for each in scope:
            shared = goes_on and not is_capital_or_number(words[each])
            marks[each] = frozenset({mark, Mark.AFFIRMED} if shared else {mark})
    return tuple(zip(words, marks, strict=True))


def relates(word: str) -> bool:
    """Whether a word can stand for a relation between names: no name, or a form of be or have."""
    return word.lower() in _HAVE_AND_BE or not is_capital_or_number(word)


def is_capital_or_number(word: str) -> bool:
    """Whether a word is written like a name, a date or a number."""
    return word[0].isupper() or any(character.isdigit() for character in word)


def _scope(words: list[str], breaks: list[bool], place: int) -> range:
    """The places of what the cue `words[place]` denies or asks; empty where it does neither."""
    word, first = words[place].lower(), place + 1
    behind = words[first].lower() if first < len(words) else ""
    if behind in _HARMLESS.get(word, ()) or _is_of_a_title(words, place):
        return range(0)
    if word == "no" and behind[:1].isdigit():
        return range(0)
    ends = _ENDS
    if word in _MOVED:
        if behind not in ("from", "away"):
            return range(0)
        first, ends = first + 1, _ENDS_OF_MOVE
    elif word in _LEFT:
        ends = _ENDS_OF_MOVE
        follows = first < len(words) and not breaks[place] and words[first][0].isupper()
        if not (follows or (behind in _DETERMINERS and not breaks[place])):
            return range(0)
    elif word == "used":
        if behind != "to" or (place > 0 and words[place - 1].lower() in _BE):
            return range(0)
        first += 1
    if all(each.lower() in _CLOSING for each in words[first:]):
        owns = first == len(words) and words[place - 1].lower() in _AUXILIARIES
        return range(_start_of_clause(words, breaks, place) if owns else 0, place)
    if breaks[place]:
        if word in _FALSE:
            return range(place)
        if word == "no":
            return range(0)
        return range(first, _end(words, [False] * len(words), first, ends))
    return range(first, _end(words, breaks, first, ends))


def _is_of_a_title(words: list[str], place: int) -> bool:
    word = words[place]
    if not word[0].isupper() or (word.isupper() and len(word) > 2):
        return False
    if place > 0:
        return True
    named = len(words) > 1 and is_capital_or_number(words[1])
    return named and word.lower() not in _NEVER_TITLES and "but" not in words


def _end(words: list[str], breaks: list[bool], first: int, ends: frozenset[str]) -> int:
    """The place behind the clause that begins at `first`."""
    for place in range(first, len(words)):
        if place > first and words[place].lower() in ends:
            return place
        if breaks[place]:
            return place + 1
    return len(words)


def _start_of_clause(words: list[str], breaks: list[bool], place: int) -> int:
    while place > 0 and not breaks[place - 1] and words[place - 1].lower() not in _ENDS:
        place -= 1
    return place
