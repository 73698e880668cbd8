"""The task record: what one episode is about, whichever data set it came from.

A task is the paper's specification T = (q, I_q, A_q) of section 3.1, plus the
distractors of Stage 2 and the gold facts that the offline judge needs.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Task:
    """One question, the conversation that carries its facts, and its distractors.

    Attributes:
      task_id: unique within the data set, stable across runs.
      query: the question of Stage 3 (q).
      answer: the expected answer (A_q); seen by judges only.
      messages: the Stage 1 messages (I_q), in the order they are said.
      distractors: the Stage 2 messages: near the query in meaning, useless to it.
      supporting_facts: the gold facts, one sentence each, as they hold when the
        query is asked.
      stale_facts: facts said in Stage 1 that a later message made untrue.
      kind: question type, "bridge" or "comparison".
      data_set: "multihop" or "hotpotqa".
    """

    task_id: str
    query: str
    answer: str
    messages: tuple[str, ...]
    distractors: tuple[str, ...]
    supporting_facts: tuple[str, ...]
    stale_facts: tuple[str, ...] = ()
    kind: str = "bridge"
    data_set: str = "multihop"
