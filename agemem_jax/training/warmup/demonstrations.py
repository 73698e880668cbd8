"""Demonstrations for the warm-up: a scripted agent that knows the task and errs on purpose.

Small policies never find the response format by chance, so they first imitate this
agent. It is imperfect by design: it forgets to store, overlooks changes, answers
without looking, takes wrong actions, and so leaves to reinforcement learning what the paper
leaves to it. The agent plays the same episodes as the policy, through the same driver; in an
environment it does what that demonstrates.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Collection

import numpy as np

from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.protocol.messages import Kind
from agemem_jax.rollout.driver import Rollout
from agemem_jax.rollout.requests import Generate, Generated
from agemem_jax.tasks.task import Task
from agemem_jax.training.warmup.rehearsal import Rehearsals

# Every thought and reply of the agent that does not depend on the task.
PHRASES = (
    "A new fact.",
    "A known fact changed.",
    "Worth keeping.",
    "Nothing to keep.",
    "Not needed.",
    "Make room.",
    "Look it up.",
    "I do not know.",
    "Noted.",
)

_NAME = re.compile(r"[A-Z][\w'-]*|\d[\w.,-]*\d|\d")
MEMORY_LINE = re.compile(r"^- (mem_[0-9a-f]+): (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Imperfection:
    """How often the scripted agent does the wrong thing; all are probabilities.

    Attributes:
      skip_store: a fact is not stored.
      store_noise: a message without a fact is stored.
      ignore_change: a change is not recorded.
      duplicate_change: a change is added beside the stale entry instead of updating it.
      store_distractor: a distractor is stored.
      tidy: a distractor is answered by a context tool (this is no fault).
      skip_retrieve: the query is answered without looking into the memory.
      wrong_answer: the answer is another name from the facts. Without the facts, the
        answer is "unknown" (this is no fault).
      broken_format: the response breaks the protocol.
      wrong_action: in an environment, another of the actions that can be done is taken.
      ignore_wrong: a wrong action is not made up for: the plan goes on as if nothing had
        happened, which reaches the goal seldom.
    """

    skip_store: float = 0.3
    store_noise: float = 0.2
    ignore_change: float = 0.4
    duplicate_change: float = 0.2
    store_distractor: float = 0.15
    tidy: float = 0.3
    skip_retrieve: float = 0.3
    wrong_answer: float = 0.15
    broken_format: float = 0.03
    wrong_action: float = 0.1
    ignore_wrong: float = 0.5

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(
                    f"warmup.imperfection.{field.name} is {value}; it is a probability in [0, 1]."
                )


def names_in(text: str) -> tuple[str, ...]:
    """Capitalised words and numbers, in order, the first word of the text included."""
    return tuple(_NAME.findall(text))


def states(message: str, fact: str) -> bool:
    """Whether `message` says `fact`, to the letter or with all its names and numbers."""
    names = set(names_in(fact))
    return fact in message or (bool(names) and names <= set(names_in(message)))


class ScriptedAgent:
    """Plays one episode; random choices come from its own generator.

    `rehearsals` tells what to do in an environment; it is not asked in an episode with a question.
    `tools` are the names of those that the episode has, `Add_memory` among them, and all where it
    is None: no other is called.
    """

    def __init__(
        self,
        task: Task,
        imperfection: Imperfection,
        rng: np.random.Generator,
        rehearsals: Rehearsals | None = None,
        tools: Collection[str] | None = None,
    ):
        self._task = task
        self._faults = imperfection
        self._rng = rng
        self._rehearsals = rehearsals
        self._tools = tools
        self._plan: list[str] | None = None  # made when Stage 3 begins
        self._done: list[str] = []  # actions so far

    def respond(self, request: Generate) -> str:
        """The text of the next response."""
        if request.purpose == "summary":
            return self._summary(request)
        if self._happens(self._faults.broken_format):
            return "<think>Noted.</think>"
        pursue = self._answer if self._task.is_question else self._act
        return (self._remember, self._ignore_distractor, pursue)[request.stage - 1](request)

    def _happens(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _has(self, tool: str) -> bool:
        return self._tools is None or tool in self._tools

    # --- Stage 1 -----------------------------------------------------------------

    def _remember(self, request: Generate) -> str:
        message = request.context.messages[-1].text
        said, _, retrieved = message.partition("\nMemories:\n")
        current = [f for f in self._task.supporting_facts if self._says(said, f)]
        stale = [f for f in self._task.stale_facts if self._says(said, f)]
        if current and stale:
            return self._record_change(current[0], stale[0], retrieved)
        facts = current or stale
        if not facts:
            if self._happens(self._faults.store_noise):
                return self._call("Worth keeping.", "Add_memory", content=said)
            return self._reply("Nothing to keep.")
        if self._happens(self._faults.skip_store):
            return self._reply("Nothing to keep.")
        return self._calls("A new fact.", [("Add_memory", {"content": f}) for f in facts])

    def _says(self, message: str, fact: str) -> bool:
        """Lessons about environments hold hardly a name; they are said to the letter or not."""
        return states(message, fact) if self._task.is_question else fact in message

    def _record_change(self, fact: str, stale: str, retrieved: str) -> str:
        if self._happens(self._faults.ignore_change):
            return self._reply("Nothing to keep.")
        known = {content: memory_id for memory_id, content in MEMORY_LINE.findall(retrieved)}
        if (
            stale not in known
            or not self._has("Update_memory")
            or self._happens(self._faults.duplicate_change)
        ):
            return self._call("A new fact.", "Add_memory", content=fact)
        return self._call(
            "A known fact changed.", "Update_memory", memory_id=known[stale], content=fact
        )

    # --- Stage 2 -----------------------------------------------------------------

    def _ignore_distractor(self, request: Generate) -> str:
        message = request.context.messages[-1].text
        if self._happens(self._faults.store_distractor):
            return self._call("A new fact.", "Add_memory", content=message)
        if self._happens(self._faults.tidy):
            if self._happens(0.5) and self._has("Summary_context"):
                return self._call("Make room.", "Summary_context", span="all")
            if self._has("Filter_context"):
                return self._call("Make room.", "Filter_context", criteria=message)
        return self._reply("Not needed.")

    def _summary(self, request: Generate) -> str:
        names = names_in(request.context.messages[-1].text)
        mentioned = list(dict.fromkeys(n for n in names if n not in _FILLER))[:4]
        return f"Talk about {', '.join(mentioned)}." if mentioned else "Small talk."

    # --- Stage 3 -----------------------------------------------------------------

    def _answer(self, request: Generate) -> str:
        last = request.context.messages[-1]
        found = dict(MEMORY_LINE.findall(last.text)) if last.kind is Kind.TOOL_RESULT else None
        asks = found is None and self._has("Retrieve_memory")
        if asks and not self._happens(self._faults.skip_retrieve):
            return self._call("Look it up.", "Retrieve_memory", query=self._search_words())
        return self._conclude(tuple((found or {}).values()))

    def _search_words(self) -> str:
        if not self._task.is_question:
            words = self._task.query.removeprefix("Goal: ").split()[:_MOST_WORDS]
            return " ".join(words) or self._task.category or "the goal"
        words = [n for n in names_in(self._task.query)[1:] if n not in _FILLER]
        return " ".join(words) or self._task.query

    def _conclude(self, contents: tuple[str, ...]) -> str:
        facts = self._task.supporting_facts
        known = [fact for fact in facts if fact in contents]
        stale = [c for c in contents if c in self._task.stale_facts and c not in known]
        thought = " ".join(known + stale)
        if len(thought) > 200:
            thought = "The memories hold what I need."
        answer = self._task.answer
        others = [n for n in names_in(" ".join(known)) if n != answer and n not in _FILLER]
        if len(known) < len(facts):
            answer = "unknown"
        elif others and self._happens(self._faults.wrong_answer):
            answer = others[int(self._rng.integers(len(others)))]
        return f"<think>{thought or 'I do not know.'}</think><answer>{answer}</answer>"

    def _act(self, request: Generate) -> str:
        """A look into the memory, then action after action of the plan, and sometimes another."""
        del request  # the plan says it all
        if self._plan is None:
            self._plan = self._rehearsals.plan(self._task.goal)
            asks = self._has("Retrieve_memory")
            if asks and not self._happens(self._faults.skip_retrieve):
                return self._call("Look it up.", "Retrieve_memory", query=self._search_words())
        if not self._plan or self._happens(self._faults.wrong_action):
            self._do_another()
        else:
            self._done.append(self._plan.pop(0))
        if not self._done:
            return self._reply("I do not know.")
        return self._call("Go on.", "Act", action=self._done[-1])

    def _do_another(self) -> None:
        """Takes another action than the plan's; where there is none, the last one again."""
        goal, planned = self._task.goal, self._plan[:1]
        known = [a for a in self._rehearsals.actions(goal, self._done) if a not in planned]
        if known:
            self._done.append(known[int(self._rng.integers(len(known)))])
        elif planned:
            self._done.append(self._plan.pop(0))
        if known and planned:
            if self._happens(self._faults.ignore_wrong):
                self._plan = self._plan[1:]
            else:
                self._plan = self._rehearsals.mended(goal, self._done, self._plan) or self._plan[1:]

    # --- Text --------------------------------------------------------------------

    def _reply(self, thought: str) -> str:
        return f"<think>{thought}</think><answer>Noted.</answer>"

    def _call(self, thought: str, name: str, **arguments) -> str:
        return self._calls(thought, [(name, arguments)])

    def _calls(self, thought: str, calls: list[tuple[str, dict]]) -> str:
        listed = json.dumps([{"name": n, "arguments": a} for n, a in calls], ensure_ascii=False)
        return f"<think>{thought}</think><tool_call>{listed}</tool_call>"


_MOST_WORDS = 12  # of a goal, in the search for what helps to reach it

_FILLER = frozenset(
    (
        "By Did I In At Who Which Update News Correction Was What When Where Memories The "
        "Not Noted Thanks Good Give Let Sorry That"
    ).split()
)


class ScriptBackend:
    """Answers generations with scripted agents; a `rollout.driver.Backend`. Close it.

    Every rollout's choices follow from (seed, task, rollout key) alone.
    """

    def __init__(
        self,
        chat: ChatEncoder,
        imperfection: Imperfection,
        seed: int,
        slots: int = 16,
        agent: Callable[..., ScriptedAgent] = ScriptedAgent,
    ):
        self.slots = slots
        self._agent = agent
        self._chat, self._imperfection, self._seed = chat, imperfection, seed
        self._rehearsals = Rehearsals()
        self._agents: dict[int, ScriptedAgent] = {}
        self._done: list[tuple[int, Generated]] = []

    def begin(self, slot: int, rollout: Rollout) -> None:
        digest = hashlib.blake2b(rollout.task.task_id.encode(), digest_size=8).digest()
        rng = np.random.default_rng([self._seed, int.from_bytes(digest, "big")])
        self._agents[slot] = self._agent(rollout.task, self._imperfection, rng, self._rehearsals)

    def submit(self, slot: int, request: Generate) -> None:
        text = self._agents[slot].respond(request)
        ids = (*self._chat.encode_plain(text), self._chat.stop_id)[: request.max_tokens]
        self._done.append((slot, Generated(ids, np.zeros(len(ids), np.float32))))

    def step(self) -> list[tuple[int, Generated]]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Ends what the agents rehearsed in."""
        self._rehearsals.close()
