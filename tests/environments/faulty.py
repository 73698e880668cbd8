"""Environments that go wrong in every way."""

import dataclasses
import os
import time

from agemem_jax.environments.protocol import Observation, Outcome


@dataclasses.dataclass
class Faulty:
    """Does as it is told: counts, says its process, hangs, dies, raises, or breaks the protocol."""

    start: int = 0

    def reset(self, seed):
        print("simulators are talkative")
        self.count = self.start + seed
        return "Go."

    def step(self, action):
        match action:
            case "hang":
                time.sleep(60)
            case "die":
                os._exit(3)
            case "raise":
                raise RuntimeError("out of paint")
            case "text":
                return "seen"
            case "overdo":
                return Outcome("", progress=2.0)
            case "process":
                return Outcome(str(os.getpid()))
        self.count += 1
        return Outcome(str(self.count), done=self.count >= 3)


class NoStart:
    """Cannot be reset."""

    def reset(self, seed):
        raise ImportError("The simulator is not installed: pip install simulator.")

    def step(self, action):
        return Outcome("")


class Quiet:
    """Has neither options nor actions to list; its instruction comes with the first observation."""

    def reset(self, seed):
        return Observation("dark", "Find the light.")

    def step(self, action):
        return Outcome("still dark")
