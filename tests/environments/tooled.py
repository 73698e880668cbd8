"""A lock with a code: an environment that is acted in by two tools of its own."""

import dataclasses

from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.protocol.tools import Parameter, ToolSpec

TURN = ToolSpec(
    name="Turn",
    target="environment",
    parameters=(Parameter("digit", int, True, "Where the wheel goes.", minimum=0, maximum=9),),
    description="Turns the next wheel of the lock to a digit.",
    summary="turn the next wheel",
    example={"digit": 3},
)
PULL = ToolSpec(
    name="Pull",
    target="environment",
    parameters=(),
    description="Pulls at the lock.",
    summary="pull",
    example={},
)


@dataclasses.dataclass
class Lock:
    """Opens when its wheels show `code`; without `wheels` it can only be pulled at."""

    code: str = "42"
    wheels: bool = True

    @classmethod
    def tools(cls, code, wheels):
        return (TURN, PULL) if wheels else (PULL,)

    def reset(self, seed):
        self.shown = ""
        return Observation("The lock is closed.", "Open it.")

    def call(self, name, arguments):
        if name == "Turn":
            self.shown += str(arguments["digit"])
            return Outcome(f"It shows {self.shown}.", self.progress)
        opened = self.shown == self.code
        text = "It opens." if opened else "It stays closed."
        return Outcome(text, self.progress, done=opened, won=opened, valid=opened)

    @property
    def progress(self):
        pairs = zip(self.shown, self.code, strict=False)
        return sum(one == other for one, other in pairs) / len(self.code)


class Fixed(Lock):
    """Has the same tools whatever its options are."""

    tools = (PULL,)


class Either(Lock):
    """Is acted in by `Act`, in spite of its method."""

    @classmethod
    def tools(cls, code, wheels):
        return None

    def step(self, action):
        return Outcome(f"You did {action}.", 0.0)


class NoCall:
    """Declares a tool that nothing runs."""

    tools = (PULL,)

    def reset(self, seed):
        return "Go."


class NoTools(Lock):
    tools = ()


class WrongTools(Lock):
    tools = (print,)
