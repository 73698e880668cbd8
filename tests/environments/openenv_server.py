"""Servers of OpenEnv's own classes for tests: numbers to find, by actions and by tools.

Imported only where openenv is installed.
"""

import contextlib
import threading
import time

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server import Environment, create_fastapi_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action, Observation, State


class Guess(Action):
    number: int
    loud: bool = False


class Answer(Observation):
    said: list[dict[str, str]]
    left: int
    note: str = ""


class Numbers(Environment):
    """The seed is the number; each guess costs 1, and finding it gives 10. 13 is never said."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self.number = self.left = 0

    def reset(self, seed=None, episode_id=None, left=3, **kwargs):
        self.number, self.left = seed, left
        return Answer(said=[{"text": "Find it."}], left=left)

    def step(self, action, timeout_s=None, **kwargs):
        if action.number == 13:
            raise RuntimeError("that number is not said here")
        self.left -= 1
        found = action.number == self.number
        text = "found" if found else "lower" if action.number > self.number else "higher"
        text = text.upper() if action.loud else text
        return Answer(
            said=[{"text": "You guessed."}, {"text": text}],
            left=self.left,
            done=found or self.left == 0,
            reward=10.0 if found else -1.0,
        )

    @property
    def state(self):
        return State(step_count=0)


class Rooms(MCPEnvironment):
    """Acted in by tools that the server lists."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        server = FastMCP("rooms")

        @server.tool
        def walk(direction: str, steps: int = 1) -> str:
            """Walk in a direction. Doors open by themselves."""
            return f"You are {steps} to the {direction}."

        @server.tool
        def look() -> dict:
            """Look around."""
            return {"walls": 4}

        super().__init__(server)

    def reset(self, seed=None, episode_id=None, **kwargs):
        return Observation()

    def _step_impl(self, action, timeout_s=None, **kwargs):
        return Observation()

    @property
    def state(self):
        return State(step_count=0)


def numbers():
    return create_fastapi_app(Numbers, Guess, Answer, max_concurrent_envs=4)


def rooms():
    return create_fastapi_app(Rooms, CallToolAction, CallToolObservation, max_concurrent_envs=4)


@contextlib.contextmanager
def served(app):
    """The address of `app`, served in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server could not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
