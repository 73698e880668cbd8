"""The agent over HTTP: a conversation by the rules of training, with the memory of its user.

A request brings the conversation, and its last message is the turn: what a person tells, or
asks with a question mark at the end. Only long-term memory lasts between requests. Unlike
`Agent`, what the agent thought and called in earlier turns is not in its context any more, since
clients send answers alone. Generations go through the scheduler, beside those of all others.
"""

import asyncio
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from agemem_jax.protocol.messages import Kind
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.requests import Generate, Generated
from agemem_jax.serving.agent.agent_events import Reply
from agemem_jax.serving.agent.driving import drive
from agemem_jax.serving.agent.session import Session
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.serving.server.scheduler import Failure, QueueFull, Sampling, Scheduler


class Turn:
    """One turn of one user's conversation, played in a thread and read in the event loop."""

    def __init__(
        self,
        scheduler: Scheduler,
        store: SQLiteStore,
        session: Session,
        user: str,
        temperature: float,
        seed: int,
    ):
        self._scheduler, self._store, self._session = scheduler, store, session
        self._user, self._temperature, self._seed = user, temperature, seed
        self._updates: queue.SimpleQueue = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[Reply | Exception] = asyncio.Queue()
        self._stopped = False

    async def reply(self) -> Reply:
        """What came of the message.

        Raises:
          Failure: the turn ended without a reply.
          QueueFull: the scheduler took no more.
          ValueError: the message is longer than a context may be.
        """
        told = await self._told.get()
        if isinstance(told, Exception):
            raise told
        return told

    def stop(self) -> None:
        """Nobody reads any more; what the agent has stored stays stored."""
        self._stopped = True
        self._updates.put(Failure("The client went away."))

    def play(self, text: str) -> None:
        """Plays the turn; runs in a thread of its own."""
        try:
            asked = text.endswith("?")
            turn = self._session.turn(text, asked, self._store.contents(self._user))
            self._tell(drive(turn, self._store, self._user, self._generate))
        except QueueFull as error:
            self._tell(error)
        except Exception as error:  # whatever it is, somebody waits
            self._tell(error if isinstance(error, Failure | ValueError) else Failure(str(error)))

    def _tell(self, told: Reply | Exception) -> None:
        try:
            self._loop.call_soon_threadsafe(self._told.put_nowait, told)
        except RuntimeError:  # the loop is closed
            self._stopped = True

    def _generate(self, request: Generate) -> Generated:
        if self._stopped:
            raise Failure("The client went away.")
        sampling = Sampling(
            request.max_tokens, self._seed * 1_000_003 + request.step, self._temperature
        )
        ticket = self._scheduler.submit(request.prompt, sampling, self._updates.put)
        tokens: list[int] = []
        log_probs: list[float] = []
        while True:
            update = self._updates.get()
            if isinstance(update, Failure):
                self._scheduler.cancel(ticket)
                raise update
            tokens += update.token_ids
            log_probs += update.log_probs
            if update.done:
                return Generated(tuple(tokens), log_probs)


class AgentService:
    """Plays turns of many users side by side."""

    def __init__(
        self,
        name: str,
        rules: EpisodeRules,
        scheduler: Scheduler,
        store: SQLiteStore,
    ):
        """An agent; `name` is the model's for clients, `rules` those that it was trained by."""
        self.name, self.rules, self.scheduler, self.store = name, rules, scheduler, store
        load = scheduler.load
        self._most = load.slots + scheduler.max_waiting
        self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="agent")
        self._playing = 0

    def begin(
        self,
        user: str,
        history: Sequence[tuple[str, str]],
        text: str,
        temperature: float,
        seed: int,
    ) -> Turn:
        """Begins a turn.

        Args:
          user: whose memories it reads and writes.
          history: role and text of what was said before.
          text: the message.
          temperature: 0 takes the likeliest token.
          seed: of what is sampled.

        Raises:
          QueueFull: as many turns run and wait as may.
        """
        if self._playing >= self._most:
            raise QueueFull(f"{self._playing} conversations wait already.")
        session = Session(self.rules)
        for role, said in history:
            if role == "assistant":
                message = session.chat.message(role, f"<answer>{said}</answer>", Kind.RESPONSE)
                session.context = session.context.append(message)
            else:
                session.show("user", said, Kind.TASK_MESSAGE)
        turn = Turn(self.scheduler, self.store, session, user, temperature, seed)
        self._playing += 1
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._threads, turn.play, text).add_done_callback(self._ended)
        return turn

    def _ended(self, _: asyncio.Future) -> None:
        self._playing -= 1

    def close(self) -> None:
        """Waits for turns under way, whose generations the scheduler has ended."""
        self._threads.shutdown()
        self.store.close()
