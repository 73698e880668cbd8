"""PDDL problems as an environment: gripper, blocks world, barman, tyreworld, and any other.

Progress is AgentBoard's: the largest share of the goal's facts that held after any action that
changed something, so nothing is credited before the first. An action that cannot be done, or that
would change nothing, is answered and leaves everything as it is. What goes wrong in AgentBoard's
tyreworld domain is repaired as it is read (`texts.repaired`).
"""

import functools
import pathlib

from agemem_jax.environments.pddl import experts
from agemem_jax.environments.pddl.model import Model, State
from agemem_jax.environments.pddl.texts import read_problem
from agemem_jax.environments.pddl.wording import key, wording_of
from agemem_jax.environments.protocol import Observation, Outcome

LOOK = "look around"


class PDDL:
    """One problem in PDDL; see the module.

    Each of the two texts is given as a path or as the text itself.

    Args:
      domain_file, problem_file: paths.
      domain_text, problem_text: PDDL.
      tell_goal: whether `reset` states the goal; not needed where the task states it.
    """

    def __init__(
        self,
        domain_file: str = "",
        problem_file: str = "",
        domain_text: str = "",
        problem_text: str = "",
        tell_goal: bool = True,
    ):
        self._domain_text = _text("domain", domain_file, domain_text)
        self._problem_text = _text("problem", problem_file, problem_text)
        self._tell_goal = tell_goal
        self._model: Model | None = None
        self._end: Outcome | None = None
        self._progress = 0.0

    def reset(self, seed: int) -> Observation:
        """What holds at first; `seed` changes nothing, as nothing is random.

        Raises:
          ImportError: unified-planning is missing.
          ValueError: the texts are not a domain and a problem of it.
        """
        if self._model is None:
            self._model = _model(self._domain_text, self._problem_text)
            self._wording = wording_of(self._model.name)
            self._names = self._model.objects | set(self._model.parameters)
        self._end, self._progress = None, 0.0
        self._state = self._start = self._model.start()
        instruction = self._wording.how_to_act(self._model.parameters)
        if self._tell_goal:
            instruction = f"{self._goal()} {instruction}"
        return Observation(self._wording.tell(self._state.facts), instruction)

    def step(self, action: str) -> Outcome:
        """Does the action, in our words or in PDDL's; `look around` tells all that holds.

        After the end the last outcome is returned again.
        """
        model = self._reset_model()
        if self._end is not None:
            return self._end
        asked = key(action, self._names)
        if asked == key(LOOK, self._names):
            return Outcome(self._wording.tell(self._state.facts), self._progress)
        before, after = self._state, self._after(asked)
        if after is None:
            return Outcome("Nothing happens: this cannot be done now.", self._progress, valid=False)
        self._state = after
        reached = model.reached(self._state)
        self._progress = max(self._progress, reached / len(model.goal))
        text = self._told_after(before)
        if reached < len(model.goal):
            return Outcome(text, self._progress)
        self._end = Outcome(f"{text} The goal is reached.", 1.0, done=True, won=True)
        return self._end

    def actions(self) -> list[str]:
        """All actions that can be done now and change something."""
        self._reset_model()
        if self._end is not None:
            return []
        model, state = self._model, self._state
        possible = model.applicable(state)
        changing = (a for a in possible if _changes(state, model.apply(state, a)))
        return [self._wording.action(action) for action in changing]

    def demonstration(self) -> list[str]:
        """Actions from the start to the goal; planned by rules, and tried before they are given.

        Raises:
          LookupError: the domain has no rules here, or they do not reach the goal.
        """
        model = self._reset_model()
        try:
            plan = experts.plan(read_problem(self._problem_text))
        except ValueError as error:
            raise LookupError(f"There is no demonstration: {error}") from error
        state: State | None = self._start
        for action in plan:
            state = model.apply(state, action)
            if state is None:
                raise LookupError("There is no demonstration: the rules do not fit this problem.")
        if model.reached(state) < len(model.goal):
            raise LookupError("There is no demonstration: the rules do not reach this goal.")
        return [self._wording.action(action) for action in plan]

    def _reset_model(self) -> Model:
        if self._model is None:
            raise RuntimeError("The PDDL environment must be reset first.")
        return self._model

    def _after(self, asked: str) -> State | None:
        """The state behind the one action that `asked` names; None where nothing would change."""
        possible = self._model.applicable(self._state)
        named = [done for done in possible if asked in self._wording.keys(done, self._names)]
        if len(named) != 1:
            return None
        after = self._model.apply(self._state, named[0])
        return after if _changes(self._state, after) else None

    def _told_after(self, before: State) -> str:
        facts = self._state.facts
        if self._wording.changes_only:
            facts = facts - before.facts
        else:
            facts = (fact for fact in facts if fact[0] not in self._model.static)
        return self._wording.tell(facts) or "Done."

    def _goal(self) -> str:
        goal = self._model.goal
        wanted = self._wording.goal(fact for fact, holds in goal if holds)
        unwanted = self._wording.tell(fact for fact, holds in goal if not holds)
        return f"{wanted} Not so: {unwanted}" if unwanted else wanted


@functools.lru_cache(maxsize=16)
def _model(domain_text: str, problem_text: str) -> Model:
    """Kept, as the episodes of a group play one problem and reading it takes up to a second."""
    return Model(domain_text, problem_text)


def _changes(before: State, after: State | None) -> bool:
    return after is not None and after.facts != before.facts


def _text(what: str, path: str, text: str) -> str:
    """The text, from wherever it was given."""
    if bool(path) == bool(text):
        raise ValueError(f"PDDL takes either {what}_file or {what}_text; it has both or none.")
    if text:
        return text
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{what}_file is {path!r}, which cannot be read: {error.strerror}."
        ) from error
