"""What is trained and played for some studies: `plan.json` of a work directory, and its jobs.

WORKDIR/runs/VARIANT/SEED/       a run: what agemem-train and agemem-evaluate write
WORKDIR/runs/VARIANT/SEED/STEP.index.json    which records an evaluation was asked for
WORKDIR/paper/                   tables and figures
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

from agemem_jax.evaluation.paper import studies
from agemem_jax.evaluation.paper.studies import Need, Request
from agemem_jax.methods.registry import find_method

EVALUATE = "evaluate"
_SHOWN = 50  # trajectories of a record that are written to be read, beside those of its lines


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the studies of one work directory are made of.

    Attributes:
      workdir: of all runs.
      backbone: its name, for tables.
      seeds: of every variant.
      benchmarks: task sources as they were given.
      rows: (variant, method) of table 2.
      needs: of all studies.
      thetas: of the sweep, with the variant of each.
      distractors: of the sweep: by benchmark, the source with each number.
    """

    workdir: pathlib.Path
    backbone: str
    seeds: tuple[int, ...]
    benchmarks: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    needs: tuple[Need, ...]
    thetas: Mapping[str, str] = dataclasses.field(default_factory=dict)
    distractors: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def make(
        cls, workdir: pathlib.Path, asked: Request, names: Sequence[str], seeds: Sequence[int]
    ) -> "Plan":
        """The plan of the studies `names`.

        Raises:
          ValueError: one of them cannot be made of what was asked for.
        """
        needs = [need for name in names for need in studies.STUDIES[name].needs(asked)]
        thetas = {f"{each:g}": studies.theta_variant(asked, each)[0] for each in asked.thetas}
        found = studies.distractor_sources(asked) if "distractors" in names else {}
        numbers = [str(number) for number in asked.distractors]
        return cls(
            workdir=workdir,
            backbone=asked.config.backbone,
            seeds=tuple(seeds),
            benchmarks=asked.benchmarks or (asked.config.tasks.name,),
            rows=tuple(studies.rows(asked)),
            needs=tuple(dict.fromkeys(needs)),
            thetas=thetas if "theta" in names else {},
            distractors={
                each: dict(zip(numbers, sources, strict=True)) for each, sources in found.items()
            },
        )

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(need.variant for need in self.needs))

    def changes(self, variant: str) -> tuple[str, ...]:
        return next((each.changes for each in self.needs if each.variant == variant), ())

    def evaluations(self, variant: str) -> dict[str, tuple[list[str], tuple[str, ...]]]:
        """By step: methods, and sources other than the benchmarks."""
        found: dict[str, tuple[list[str], tuple[str, ...]]] = {}
        for need in self.needs:
            if need.variant == variant:
                step = f"{EVALUATE}-{need.of}" if need.of else EVALUATE
                methods, _ = found.setdefault(step, ([], need.sources))
                methods += [name for name in need.methods if name not in methods]
        return found

    def folder(self, variant: str, seed: int) -> pathlib.Path:
        return self.workdir / "runs" / variant / str(seed)

    def trains(self, variant: str) -> bool:
        """Whether one of its methods has the weights after RL."""
        played = [name for methods, _ in self.evaluations(variant).values() for name in methods]
        return any(find_method(name).trained for name in played)

    def steps(
        self, variant: str, seed: int, own: Sequence[str], playing: Sequence[str], asked: Request
    ) -> dict[str, list[str]]:
        """Arguments of the programs of one run, by step.

        Args:
          variant, seed: of the run.
          own: flags of the configuration.
          playing: flags of agemem-evaluate for all of them.
          asked: whose benchmarks are played; none are the run's tasks.
        """
        where = f"--workdir={self.folder(variant, seed)}"
        # Methods without training differ between seeds by what they sample alone.
        config = [
            *own, *self.changes(variant), f"--config.seed={seed}",
            f"--config.evaluation.seed={seed}",
        ]  # fmt: skip
        trains, warms_up = self.trains(variant), asked.config.warmup.steps > 0
        steps = {}
        if trains or warms_up:
            nothing = tuple(0 for _ in asked.config.curriculum.iterations)
            until = () if trains else (f"--config.curriculum.iterations={nothing}",)
            steps["train"] = [*config, *until, where]
        for step, (methods, sources) in self.evaluations(variant).items():
            steps[step] = [
                *(() if steps.get("train") else config), where, f"--methods={','.join(methods)}",
                *(f"--task_source={source}" for source in sources or asked.benchmarks),
                f"--show={_SHOWN}", f"--index={step}.index.json", *playing,
            ]  # fmt: skip
        return steps

    def write(self) -> "Plan":
        """Keeps the plan as `plan.json`, for who renders it later or beside another.

        Returns:
          the plan, with the sweeps of one that was there before, if it has none of its own.
        """
        if (self.workdir / "plan.json").is_file():
            before = Plan.read(self.workdir)
            self = dataclasses.replace(
                self,
                thetas=self.thetas or before.thetas,
                distractors=self.distractors or before.distractors,
            )
        values = dataclasses.asdict(self) | {"workdir": None}
        self.workdir.mkdir(parents=True, exist_ok=True)
        unfinished = self.workdir / "plan.json.tmp"
        unfinished.write_text(json.dumps(values, indent=2) + "\n")
        unfinished.replace(self.workdir / "plan.json")
        return self

    @classmethod
    def read(cls, workdir: pathlib.Path) -> "Plan":
        """The plan of a work directory.

        Raises:
          FileNotFoundError: there is none.
        """
        path = workdir / "plan.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; {workdir} is no work directory of agemem-reproduce."
            )
        values = json.loads(path.read_text())
        needs = tuple(
            Need(**{k: tuple(v) if isinstance(v, list) else v for k, v in need.items()})
            for need in values["needs"]
        )
        rows = tuple((variant, method) for variant, method in values["rows"])
        lists = {name: tuple(values[name]) for name in ("seeds", "benchmarks")}
        return cls(**values | {"workdir": workdir, "needs": needs, "rows": rows} | lists)
