"""An agent that lasts: a policy, one conversation, and memories that outlive it."""

import jax
import numpy as np

from agemem_jax.models.decoder import Weights
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.generation import GenerationRequest
from agemem_jax.rollout.requests import Generate, Generated
from agemem_jax.serving.agent.agent_events import AgentEvent, Listener, Reply
from agemem_jax.serving.agent.driving import drive
from agemem_jax.serving.agent.response_stream import ResponseStream
from agemem_jax.serving.agent.session import Session
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.serving.memory.user_memory import UserMemory

_SLOT = 0


class Agent:
    """A policy in conversation with one user. It is a context manager, which closes it.

    It plays by the rules that it was trained by (`Session` says where a conversation differs);
    one thread uses it at a time. Made by `agemem_jax.load_agent`.

    Attributes:
      memory: what it remembers of the user, to look at, search, edit, forget and export.
      user: whose memories these are.
    """

    def __init__(
        self,
        engine: Engine,
        weights: Weights,
        rules: EpisodeRules,
        store: SQLiteStore,
        user: str,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ):
        """An agent that begins a conversation.

        Args:
          engine: of which it takes slot 0, and which nothing else uses.
          weights: of the policy.
          rules: tools, budgets, prompt.
          store: of memories; is closed with the agent.
          user: whose memories it reads and writes.
          temperature: 0 takes the likeliest token.
          seed: of what is sampled; the same messages then give the same replies, as long as the
            memory is the same.
        """
        self.memory = UserMemory(store, user)
        self._engine, self._store, self._session = engine, store, Session(rules)
        self._key = np.asarray(jax.random.key_data(jax.random.key(seed)))
        self._temperature = temperature
        engine.load(weights, rules.shared_prefix)

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def user(self) -> str:
        """Whose memories it reads and writes; another name begins another conversation."""
        return self.memory.user

    @user.setter
    def user(self, name: str) -> None:
        self.memory = UserMemory(self._store, name)
        self.forget_conversation()

    @property
    def context_tokens(self) -> int:
        """Length of the conversation as a prompt, the system message included."""
        return self._session.context_tokens

    @property
    def max_context_tokens(self) -> int:
        """The budget of that, T_max."""
        return self._session.config.max_context_tokens

    @property
    def context(self) -> tuple[tuple[str, str], ...]:
        """Role and text of each message that the policy sees, the system message first."""
        return tuple((m.role, m.text) for m in self._session.context.messages)

    def chat(
        self, text: str, on_event: Listener | None = None, *, asked: bool | None = None
    ) -> Reply:
        """Tells or asks the agent something.

        Args:
          text: the message.
          on_event: called with each event as it happens: text while it is sampled, responses,
            calls of tools, retrievals, and what left the context. What it raises ends the turn.
          asked: whether the message is a question, which the policy answers as it answers that of
            Stage 3; otherwise it is told something, as in Stage 1. By default what ends with a
            question mark is asked.

        Returns:
          The answer, and everything that happened.

        Raises:
          ValueError: the message is empty, or longer than the context.
          KeyboardInterrupt and others that end a turn: the conversation is then as it was before
            the message; what the agent has stored stays stored.
        """
        text = text.strip()
        if not text:
            raise ValueError("The message is empty.")
        asked = text.endswith("?") if asked is None else asked
        before = self._session.context
        tell, told = on_event or _ignore, 0

        def look() -> None:
            nonlocal told
            for event in self._session.events[told:]:
                told += 1
                tell(event)

        try:
            return drive(
                self._session.turn(text, asked, self._store.contents(self.user)),
                self._store, self.user, lambda request: self._generate(request, tell), look,
            )  # fmt: skip
        except BaseException:
            self._engine.cancel(_SLOT)
            self._session.context = before
            raise

    def forget_conversation(self) -> None:
        """Begins a new conversation; what was not stored is gone, as between Stages 1 and 2."""
        self._session.reset()

    def close(self) -> None:
        """Lets others have the memory, and frees the engine's memory; may be called twice."""
        self._engine.release()
        self._store.close()

    def _generate(self, request: Generate, tell: Listener) -> Generated:
        engine, chat = self._engine, self._session.chat
        engine.submit(
            GenerationRequest(
                slot=_SLOT, prompt=request.prompt, max_tokens=request.max_tokens, key=self._key,
                temperature=self._temperature, step=request.step,
            )
        )  # fmt: skip
        stream = ResponseStream(chat.decode, chat.stop_ids)
        while True:
            done = engine.step()
            tokens = done[0].token_ids if done else tuple(engine.progress(_SLOT)[0])
            for delta in stream.push(tokens, done=bool(done)):
                tell(delta)
            if done:
                return Generated(done[0].token_ids, done[0].log_probs)


def _ignore(event: AgentEvent) -> None:
    pass
