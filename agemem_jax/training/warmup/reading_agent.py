"""The scripted agent where nothing is stored by calls: it reads, looks further, and answers."""

from collections.abc import Collection

from agemem_jax.protocol.messages import Kind
from agemem_jax.rollout.requests import Generate
from agemem_jax.training.warmup.demonstrations import ScriptedAgent, names_in

# Tools that bring more of what was said, by words to look for.
_SEARCHES = ("Retrieve_memory", "Search_history")
_OWN = (Kind.SYSTEM, Kind.RESPONSE)


class ReadingAgent(ScriptedAgent):
    """Answers by what its prompt shows; where facts are missing it searches, if it can.

    It searches by the names of the question, and then by those that it found. Its summaries,
    which a method asks for in place of a memory, say the facts.
    """

    def __init__(self, *arguments, tools: Collection[str]):
        super().__init__(*arguments, tools=tools)
        self._search = next((name for name in _SEARCHES if name in tools), None)
        self._sought: list[str] = []  # so far

    def _ignore_distractor(self, request: Generate) -> str:
        del request
        return self._reply("Not needed.")

    def _summary(self, request: Generate) -> str:
        text = request.context.messages[-1].text
        facts = self._said(text, self._task.supporting_facts)
        facts = facts or self._said(text, self._task.stale_facts)
        kept = [fact for fact in facts if not self._happens(self._faults.skip_store)]
        return " ".join(kept) or "Small talk."

    def _answer(self, request: Generate) -> str:
        shown = "\n".join(m.text for m in request.context.messages if m.kind not in _OWN)
        known = self._said(shown, self._task.supporting_facts)
        words = self._search_words() if not self._sought else self._names_found(known)
        missing = len(known) < len(self._task.supporting_facts)
        if self._search and missing and words and words not in self._sought:
            if not self._happens(self._faults.skip_retrieve):
                self._sought.append(words)
                return self._call("Look it up.", self._search, query=words)
        return self._conclude((*known, *self._said(shown, self._task.stale_facts)))

    def _names_found(self, known: Collection[str]) -> str:
        """The names of these facts that the question does not say."""
        asked = names_in(self._task.query)
        names = [name for fact in known for name in names_in(fact) if name not in asked]
        return " ".join(dict.fromkeys(names))

    def _said(self, text: str, facts: Collection[str]) -> list[str]:
        """Those of the facts that a line of the text says."""
        lines = text.splitlines()
        return [fact for fact in facts if any(self._says(line, fact) for line in lines)]
