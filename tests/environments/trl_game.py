"""Classes as they are written for the `environment_factory` of TRL's GRPOTrainer."""

from typing import Literal


class Treasure:
    """A treasure is dug for; the row of the data set says where it is."""

    def __init__(self):
        self.reward = 0.0

    def reset(self, place, **kwargs) -> str | None:
        self.place, self.row = place, {"place": place, **kwargs}
        self.reward, self.done = 0.0, False
        return "There is a beach."

    def dig(self, where: str, depth: int = 1, how: Literal["fast", "slow"] = "slow") -> str:
        """Dig for the treasure. It takes a while.

        Args:
            where: The place to dig at.
            depth: In metres.
            how: How fast it is done.

        Returns:
            What is found.
        """
        if where not in ("dune", "palm"):
            raise ValueError(f"There is no {where}.")
        self.done = self.done or where == self.place
        self.reward = 10.0 if self.done else -1.0
        return f"{'Gold' if self.done else 'Sand'} at {depth} m, {how}."

    def look(self, directions: list[str] | None = None) -> list:
        """Look around.

        Args:
            directions: Where to look.
        """
        self.reward = 5.0
        return [{"type": "text", "text": f"Sea to the {each}."} for each in directions or ["west"]]

    def _hidden(self):
        raise AssertionError

    @staticmethod
    def helper(value):
        return value


class Judged:
    """Has no `done`, takes any row, and computes its reward when it is asked for it."""

    def reset(self, prompt=None) -> None:
        self.said = []

    async def say(self, word: str) -> str:
        """Say a word.

        Args:
            word: Any word.
        """
        self.said.append(word)
        return f"You said {word}."

    async def get_reward(self) -> float:
        return len(set(self.said)) / 2

    @property
    def words(self):
        return len(self.said)


def make_judged() -> Judged:
    return Judged()


class NoHint(Judged):
    def shout(self, word):
        """Shout.

        Args:
            word: Any word.
        """


class NoDocstring(Judged):
    def shout(self, word: str):
        pass
