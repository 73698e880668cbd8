"""ALFWorld's household games as text, played by TextWorld (Shridhar et al., 2021).

One game file is one episode. Its own text is kept; what is added is that actions of older
versions are understood, and a progress rate between failure and success.
"""

import functools
import importlib
import json
import pathlib
import re
import warnings

from agemem_jax.environments.protocol import Observation, Outcome

_NOTHING = "Nothing happens."
_TITLE = "-= Welcome to TextWorld, ALFRED! =-"

# What this version says, and the words that a player may have for it. The first that can be
# done is taken, so these need not exclude each other.
_PUT = r"(?:put|place|move) (.+?) (?:in/on|into|onto|inside|in|on|to) (.+)"
_OTHER_WORDS = (
    (_PUT, r"move \1 to \2"),
    (_PUT, r"put \1 into \2"),
    (_PUT, r"put \1 in \2"),
    (r"(?:pick up|grab|get) (.+)", r"take \1"),
    (r"(clean|heat|cool|slice) (.+?) (?:using|in|on|at|by) (.+)", r"\1 \2 with \3"),
    (r"(?:toggle|turn on|switch on) (.+)", r"use \1"),
    (r"(?:goto|walk to|move to) (.+)", r"go to \1"),
    (r"look around", r"look"),
    (r"(?:check inventory|i)", r"inventory"),
)


class ALFWorld:
    """One game: find things in a house, change them, and put them where they belong.

    Progress is the share of subgoals reached so far among all of them and the goal itself, so
    that only winning makes it 1. The subgoals follow from the goal that the game file states:
    to take a thing, to heat, cool or clean it, to switch the lamp on, and, where two things
    are asked for, to put one down and to take the other.

    AgentBoard labels every game with patterns of observations instead (its data set's
    `alfworld/test.jsonl`); given as `subgoals` they replace ours. They are also looked for in
    the words of the older version, for which they were written.
    """

    def __init__(self, game_file: str, subgoals: tuple[str, ...] = ()):
        """Args:
        game_file: path of a `game.tw-pddl`.
        subgoals: regular expressions, each reached once an observation matches it.
        """
        self.game_file = game_file
        self._subgoals = [_Subgoal(pattern) for pattern in subgoals]
        self._game = None
        self._state = None
        self._last = None

    def reset(self, seed: int = 0) -> Observation:
        """The room and the goal. A game has no randomness: `seed` changes nothing.

        Raises:
          ImportError: a package is missing.
          ValueError: the file is not there, or no game.
        """
        if not self._subgoals:
            self._subgoals = goal_subgoals(_read(self.game_file).get("pddl_problem", ""))
        self.close()
        self._game, self._state = _start(self.game_file)
        self._last = Outcome("", 0.0)
        return Observation(_readable(self._state.feedback))

    def step(self, action: str) -> Outcome:
        """What an action changes.

        Raises:
          RuntimeError: the game has not been reset.
        """
        if self._game is None:
            raise RuntimeError("An ALFWorld game takes actions once it has been reset.")
        if self._last.done:
            return self._last
        command = understood(action, self.actions())
        if command is None:
            self._last = Outcome(_NOTHING, self._last.progress, valid=False)
            return self._last
        self._state, _, _ = self._game.step(command)
        text = _readable(self._state.feedback)
        for subgoal in self._subgoals:
            subgoal.see(text)
        won = bool(self._state.won)
        reached = sum(subgoal.reached for subgoal in self._subgoals)
        progress = 1.0 if won else reached / (len(self._subgoals) + 1)
        self._last = Outcome(text, progress, done=won, won=won)
        return self._last

    def actions(self) -> list[str]:
        """The commands that can be done now."""
        if self._state is None:
            raise RuntimeError("An ALFWorld game lists actions once it has been reset.")
        return list(self._state.admissible_commands)

    def demonstration(self) -> list[str]:
        """The walkthrough that the game file holds.

        Raises:
          LookupError: it holds none.
        """
        walkthrough = _read(self.game_file).get("walkthrough")
        if not walkthrough:
            raise LookupError(f"{self.game_file} holds no walkthrough.")
        return list(walkthrough)

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
            self._game = None


def understood(action: str, possible: list[str]) -> str | None:
    """The possible command that an action means, or None.

    Case, spaces and a full stop at the end do not matter; "put X in/on Y" of older versions
    is "move X to Y" now; of "take X" the place may be left out where one command fits.
    """
    said = " ".join(action.lower().split()).rstrip(" .")
    tries = [said]
    for pattern, now in _OTHER_WORDS:
        match = re.fullmatch(pattern, said)
        if match:
            tries.append(match.expand(now))
    for command in tries:
        if command in possible:
            return command
    for command in tries:
        fitting = [each for each in possible if each.startswith(f"{command} from ")]
        if command.startswith("take ") and len(fitting) == 1:
            return fitting[0]
    return None


def goal_subgoals(problem: str) -> list["_Subgoal"]:
    """What has to be seen on the way to the goal that a PDDL problem states."""
    goal = problem[problem.find("(:goal") :]
    kinds = [kind.lower() for kind in re.findall(r"\(objectType \?\w+ (\w+)Type\)", goal)]
    places = [kind.lower() for kind in re.findall(r"\(receptacleType \?\w+ (\w+)Type\)", goal)]
    lit = "(isToggled" in goal
    things = kinds[1:] if lit else kinds  # the lamp is named first
    if not things:
        return []
    thing = things[0]
    subgoals = [_Subgoal(rf"You pick up the ({thing} \d+)")]
    for sign, verb in (("isClean", "clean"), ("isHot", "heat"), ("isCool", "cool")):
        if f"({sign} " in goal:
            subgoals.append(_Subgoal(rf"You {verb} the ({thing} \d+)"))
    if lit:
        subgoals.append(_Subgoal(rf"You turn on the ({kinds[0]} \d+)"))
    if len(things) > 1 and places:
        subgoals.append(_Subgoal(rf"You move the ({thing} \d+) to the {places[0]} \d+"))
        subgoals.append(_Subgoal(rf"You pick up the ({thing} \d+)", different=2))
    return subgoals


class _Subgoal:
    """Reached once observations have matched the pattern in `different` ways."""

    def __init__(self, pattern: str, different: int = 1):
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"The subgoal {pattern!r} of ALFWorld is no regular expression: {error}."
            ) from error
        self._different = different
        self._seen = set()

    @property
    def reached(self) -> bool:
        return len(self._seen) >= self._different

    def see(self, text: str) -> None:
        older = re.sub(r"You move the (.+?) to the ", r"You put the \1 in/on the ", text)
        for words in (text, older):
            match = self._pattern.search(words)
            if match:
                self._seen.add(match.group())


def _readable(text: str) -> str:
    """A game's text without the title and the empty lines between its parts."""
    lines = (line.strip() for line in text.replace(_TITLE, "").splitlines())
    return "\n".join(line for line in lines if line)


@functools.lru_cache(maxsize=4)
def _read(game_file: str) -> dict:
    path = pathlib.Path(game_file)
    if not path.is_file():
        raise ValueError(
            f"There is no ALFWorld game {game_file}; game_file must be the path of a game.tw-pddl."
        )
    try:
        game = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        game = None
    if not isinstance(game, dict) or "pddl_problem" not in game:
        raise ValueError(
            f"{game_file} is no ALFWorld game; a game.tw-pddl is a JSON object with pddl_problem."
        )
    return game


def _start(game_file: str):
    """The game, begun, and its first state."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            textworld = importlib.import_module("textworld")
            games = importlib.import_module("alfworld.agents.environment.alfred_tw_env")
    except ImportError as error:
        raise ImportError(
            f"ALFWorld needs the package {error.name}: pip install -r requirements-benchmarks.txt"
        ) from error
    wanted = textworld.EnvInfos(won=True, admissible_commands=True, feedback=True)
    demangler = games.AlfredDemangler(shuffle=False)  # names such as "fridge 1", as everywhere
    game = textworld.start(game_file, wanted, wrappers=[demangler])
    return game, game.reset()
