"""What the reply of an LLM judge means.

A reply is read strictly: a score that has two readings, lies outside [0, 1], or stands in
a thought or in a reply that was cut off, is unknown (None), never a guess.
"""

import json
import math
import re

_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
# "8/10", "7 out of 10", "85%", "0.6", and nothing behind that would change the number.
_VALUE = (
    rf"(?P<number>{_NUMBER})"
    rf"(?:\s*(?:/|out\s+of)\s*(?P<scale>{_NUMBER})|\s*(?P<percent>%))?"
    r"(?![\w/%]|[.,][0-9]|\s*(?:[-–—~/]|to\b|or\b|and\b|out\b|of\b)\s*\.?[0-9])"
)
# Bounded runs: unbounded ones would try every way to share a long run among them.
_LABELLED = re.compile(
    r"\bscore\b[*_`\"']{0,9}\s?(?:\([^()\n]{0,40}\))?[*_`\"']{0,9}\s?(?:[:=]|is\b|of\b)?"
    r"[*_`\"'\s]{0,9}"
    + _VALUE
    + r"(?=[*_`\"']{0,9}\s?(?:$|[.;,)\]}](?!\S)|[(;]|[-–—]\s?[^\s0-9.]))",
    re.IGNORECASE | re.MULTILINE | re.ASCII,
)
_BARE = re.compile(r"[*_`\"'\s]*" + _VALUE + r"[*_`\"'\s]*\.?", re.ASCII | re.IGNORECASE)
_FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)
# Where models and their templates put thoughts; Qwen's and DeepSeek's, Magistral's, Seed's.
_THOUGHT = re.compile(
    r"<(?P<end>/?)(?:seed:)?(?:think|thinking|thoughts?|reasoning)(?:\s[^<>]*)?>"
    r"|\[(?P<bracket_end>/?)THINK\]",
    re.IGNORECASE,
)
_CHANNEL, _FINAL_CHANNEL = "<|channel|>", "<|channel|>final<|message|>"  # gpt-oss
_LONGEST_REPLY = 20_000  # characters beside thoughts; no grade takes that many


def parse_score(text: str, *, cut: bool = False) -> float | None:
    """The score in [0, 1] that a reply states, or None.

    Read as what they mean, in this order: a JSON object with "score"; labelled scores
    ("Score: 7 out of 10", "score: 0.6"), all equal; a first or last line that is nothing
    but a score ("8/10", ".85", "85%"). A plain number above 1 has no scale and is unknown.
    Thoughts are left out; with one that never closes the reply is unknown.

    Args:
      text: the reply.
      cut: the endpoint says that it cut the reply off. Then it counts only if it is one
        whole JSON object: anything else may be a thought, or half a number.
    """
    spoken = text.strip()
    if not _is_whole_object(spoken):  # such a reply has no thoughts around it
        spoken = _without_thoughts(spoken)
    if not spoken or len(spoken) > _LONGEST_REPLY:
        return None
    fenced = _FENCE.fullmatch(spoken)
    spoken = fenced[1] if fenced else spoken
    if cut and not _is_whole_object(spoken):
        return None
    start, end = spoken.find("{"), spoken.rfind("}") + 1
    decoded = _json_object(spoken[start:end]) if 0 <= start < end else None
    if decoded is None and spoken.count("{") > spoken.count("}"):
        return None  # an object that was cut off, perhaps inside its number
    if decoded is not None:
        score = _json_score(decoded)
        beside = _labelled(spoken[:start]) | _labelled(spoken[end:])
        return score if beside <= {score} else None
    labelled = _labelled(spoken)
    if labelled:
        return labelled.pop() if len(labelled) == 1 else None
    lines = _lines(spoken)
    matches = [_BARE.fullmatch(line) for line in lines[:1] + lines[-1:]]
    bare = {_value(match) for match in matches if match}
    return bare.pop() if len(bare) == 1 else None


def _without_thoughts(text: str) -> str | None:
    """What follows the thoughts; None where one is still open.

    A thought may begin before the reply, as templates open it in the prompt.
    """
    if _CHANNEL in text:
        _, final, text = text.rpartition(_FINAL_CHANNEL)
        return text.partition("<|")[0].strip() if final else None
    spoken = 0
    is_open = False
    for tag in _THOUGHT.finditer(text):
        is_open = not (tag["end"] or tag["bracket_end"])
        spoken = tag.end()
    return None if is_open else text[spoken:].strip()


def _lines(text: str) -> list[str]:
    """Without empty ones and runs of spaces."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _labelled(text: str) -> set[float | None]:
    return {_value(match) for match in _LABELLED.finditer("\n".join(_lines(text)))}


def _is_whole_object(text: str) -> bool:
    return text.startswith("{") and _json_object(text) is not None


def _json_object(text: str) -> dict | None:
    if len(text) > _LONGEST_REPLY:
        return None
    try:
        value = json.loads(text, object_pairs_hook=_with_one_score)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _with_one_score(pairs: list[tuple[str, object]]) -> dict:
    if sum(key.lower() == "score" for key, _ in pairs) > 1:
        raise ValueError("two scores")
    return dict(pairs)


def _json_score(value: dict) -> float | None:
    score = {str(key).lower(): item for key, item in value.items()}.get("score")
    if isinstance(score, str):
        match = _BARE.fullmatch(score.strip())
        return _value(match) if match else None
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        return None
    return float(score) if 0 <= score <= 1 else None


def _value(match: re.Match) -> float | None:
    value = float(match["number"])
    if match["percent"]:
        value /= 100
    elif match["scale"]:
        scale = float(match["scale"])
        if scale == 0:
            return None
        value /= scale
    return value if math.isfinite(value) and 0 <= value <= 1 else None
