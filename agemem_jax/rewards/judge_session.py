"""Questions to an endpoint that are under way while the program does something else.

A session has an event loop in a thread of its own, in which one client asks within bounds.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable

from agemem_jax.rewards import judge_requests
from agemem_jax.rewards.judge_config import LLMJudgeConfig
from agemem_jax.rewards.judge_requests import Reply

# What became of a question: a reply, an exception, or None for one that was given up.
Fate = Reply | Exception | None


class JudgeSession:
    """Asks from `start` on until `close`. Nothing is asked after too many failures in a row."""

    def __init__(self, config: LLMJudgeConfig, on_call: Callable[[], None]):
        """Opens a client; the key is read now.

        Args:
          config: of the endpoint.
          on_call: is called in the session's thread when a request is made.
        """
        self._config = config
        self._on_call = on_call
        self._failed_in_a_row = 0
        self._gate = asyncio.Semaphore(config.max_concurrency)
        self._client = judge_requests.open_client(config)
        self._loop = asyncio.new_event_loop()
        # A daemon: an endpoint that hangs must not keep the program from ending.
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def start(self, prompt: str) -> "concurrent.futures.Future[Fate]":
        """Asks as soon as there is room; in the order of the calls."""
        return asyncio.run_coroutine_threadsafe(self._ask(prompt), self._loop)

    def close(self) -> None:
        """Ends the thread; everything that was started must have ended."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ask(self, prompt: str) -> Fate:
        async with self._gate:
            if self._failed_in_a_row >= self._config.give_up_after:
                return None
            self._on_call()
            try:
                reply = await judge_requests.ask(self._client, self._config, prompt)
            except Exception as error:  # whatever the endpoint does, training goes on
                self._failed_in_a_row += 1
                return error
            self._failed_in_a_row = 0
            return reply
