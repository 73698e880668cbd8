"""How the facts of the multi-hop tasks are said, asked for, and talked around."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Relation:
    """How one relation is said.

    Attributes:
      subject, object: entity types; an object may also be a "year".
      canonical: the sentence of supporting facts, with {s} and {o}.
      casual: paraphrases for conversation.
      change: messages that replace the object {p} by {o}.
    """

    subject: str
    object: str
    canonical: str
    casual: tuple[str, ...]
    change: tuple[str, ...]


RELATIONS = {
    "works_at": Relation(
        "person",
        "organisation",
        "{s} works at {o}.",
        (
            "By the way, {s} works at {o}.",
            "I heard that {s} has a job at {o}.",
            "Did you know that {o} employs {s}?",
        ),
        (
            "Update: {s} no longer works at {p}, but at {o} now.",
            "News: {s} left {p} and works at {o} now.",
        ),
    ),
    "based_in": Relation(
        "organisation",
        "city",
        "{s} is based in {o}.",
        (
            "By the way, {s} is based in {o}.",
            "I heard that {s} has its head office in {o}.",
            "Did you know that {o} is the home of {s}?",
        ),
        (
            "Update: {s} is no longer based in {p}, but in {o} now.",
            "News: {s} left {p} and is based in {o} now.",
        ),
    ),
    "lives_in": Relation(
        "person",
        "city",
        "{s} lives in {o}.",
        (
            "By the way, {s} lives in {o}.",
            "I heard that {s} has a flat in {o}.",
            "Did you know that {o} is where {s} lives?",
        ),
        (
            "Update: {s} no longer lives in {p}, but in {o} now.",
            "News: {s} left {p} and lives in {o} now.",
        ),
    ),
    "mentored_by": Relation(
        "person",
        "person",
        "{s} is mentored by {o}.",
        (
            "By the way, {s} is mentored by {o}.",
            "I heard that {s} has {o} as mentor.",
            "Did you know that {o} mentors {s}?",
        ),
        (
            "Update: {s} is no longer mentored by {p}, but by {o} now.",
            "News: {s} left {p} and is mentored by {o} now.",
        ),
    ),
    "born_in": Relation(
        "person",
        "year",
        "{s} was born in {o}.",
        (
            "By the way, {s} was born in {o}.",
            "I heard that {s} came into the world in {o}.",
            "Did you know that {o} is the birth year of {s}?",
        ),
        (
            "Correction: {s} was not born in {p}, but in {o}.",
            "I was wrong about {p}: {s} was born in {o}.",
        ),
    ),
    "founded_in": Relation(
        "organisation",
        "year",
        "{s} was founded in {o}.",
        (
            "By the way, {s} was founded in {o}.",
            "I heard that {s} opened its doors in {o}.",
            "Did you know that {o} is the founding year of {s}?",
        ),
        (
            "Correction: {s} was not founded in {p}, but in {o}.",
            "I was wrong about {p}: {s} was founded in {o}.",
        ),
    ),
}

# (relation of the first hop, relation of the second hop) and the question about {x}.
BRIDGES = (
    ("works_at", "based_in", "In which city is the employer of {x} based?"),
    ("works_at", "founded_in", "In which year was the employer of {x} founded?"),
    ("mentored_by", "lives_in", "In which city does the mentor of {x} live?"),
    ("mentored_by", "works_at", "At which organisation does the mentor of {x} work?"),
    ("mentored_by", "mentored_by", "Who mentors the mentor of {x}?"),
)

COMPARISONS = (
    ("born_in", "Who was born first, {a} or {b}?"),
    ("founded_in", "Which was founded first, {a} or {b}?"),
)

NOISE = (
    "Thanks, that is all for today.",
    "Good morning, how are you?",
    "The weather is nice today.",
    "Give me a minute, please.",
    "Let us talk again tomorrow.",
    "I had a good lunch.",
    "Sorry, the phone rang.",
    "That was a long week.",
)
