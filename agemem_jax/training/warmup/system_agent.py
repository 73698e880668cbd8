"""The scripted agent in an episode of a memory system, whose pipeline calls it for JSON."""

import json

from agemem_jax.methods.memory_system import MemorySystem
from agemem_jax.rollout.requests import Generate
from agemem_jax.training.warmup.demonstrations import MEMORY_LINE, ScriptedAgent, names_in


class SystemAgent(ScriptedAgent):
    """Replies to a pipeline as its method demonstrates; in Stages 2 and 3 it has no tools."""

    def __init__(self, method: MemorySystem, *arguments):
        super().__init__(*arguments)
        self._method = method

    def respond(self, request: Generate) -> str:
        """The text of the next response.

        Raises:
          ValueError: the method demonstrates nothing.
        """
        if request.purpose != "act":
            reply = self._method.demonstrate(request, self)
            if reply is None:
                raise ValueError(
                    f"There are no demonstrations of {self._method.title} for a warm-up; set "
                    "warmup.steps to 0 and take a backbone that follows instructions."
                )
            return reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)
        if self._happens(self._faults.broken_format):
            return "<think>Noted.</think>"
        if request.stage == 2:
            return self._reply("Not needed.")
        if self._task.is_question:
            shown = MEMORY_LINE.findall(request.context.messages[-1].text)
            contents = [content for _, content in shown]
            # A memory may say more than a fact.
            facts = (*self._task.supporting_facts, *self._task.stale_facts)
            said = [fact for fact in facts if any(fact in content for content in contents)]
            return self._conclude(tuple(dict.fromkeys((*contents, *said))))
        if self._plan is None:
            self._plan = self._rehearsals.plan(self._task.goal)
        return self._act(request)

    # --- What a method's demonstrations are made of ---------------------------------

    def facts_in(self, text: str) -> list[str]:
        """The facts that the text says, or what the agent takes for one."""
        task = self._task
        said = [fact for fact in task.supporting_facts if self._says(text, fact)]
        said = said or [fact for fact in task.stale_facts if self._says(text, fact)]
        if not said:
            return [text] if self._happens(self._faults.store_noise) else []
        return [] if self._happens(self._faults.skip_store) else said

    def replaced_by(self, fact: str) -> str | None:
        """The stale fact in whose place a fact came; None where it replaced nothing."""
        for stale in self._task.stale_facts:
            if fact == max(self._task.supporting_facts, key=lambda f: _in_common(f, stale)):
                return stale
        return None

    def change(self) -> str:
        """What is done about a fact that changed: "UPDATE", or by fault "ADD" or "NONE"."""
        if self._happens(self._faults.ignore_change):
            return "NONE"
        return "ADD" if self._happens(self._faults.duplicate_change) else "UPDATE"

    def relation_of(self, fact: str) -> tuple[str, str, str] | None:
        """A fact as source, relationship and destination; None where it has no two names."""
        names = names_in(fact)
        if len(names) < 2 or names[0] == names[-1]:
            return None
        between = fact.partition(names[0])[2].rpartition(names[-1])[0].split()
        return names[0], "_".join(between) or "is", names[-1]


def _in_common(first: str, second: str) -> int:
    """How many words two sentences share."""
    return len(set(first.split()) & set(second.split()))
