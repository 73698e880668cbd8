"""The commands that README.md and docs/ tell a reader to type, and how tests run each of them.

A command is an indented line that begins like one, with the lines that its backslashes continue,
or one in a table's backticks. `RULES` says of every command what makes it small, or why no test
runs it; `tests/test_documented_commands.py` does both.
"""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BEGIN = (
    r"(?:[A-Z_]+=\S+ )*(?:bash|python|pip|source|export|for|sbatch|docker|apt-get|agemem-\w+|uv|"
    r"tensorboard) "
)
_INDENTED = re.compile(rf"    ({_BEGIN}.*)")
_QUOTED = re.compile(rf"`({_BEGIN}[^`]*)`")

_SMALL = (
    "--config.curriculum.iterations='(1,)' --config.curriculum.tasks_per_iteration=2 "
    "--config.grpo.group_size=2 --config.tasks.eval_size=2 --config.engine.slots=2 "
    "--config.packing.rows=2 --config.evaluation.bootstrap_samples=10 "
    "--config.validation.tasks=2"
)
# The real backbone's place is taken by the tiny one; data, encoder and LoRA are as they are.
_HOTPOTQA = (
    f"{_SMALL} --config.backbone=tiny --config.warmup.steps=1 --config.warmup.episodes=2 "
    "--config.warmup.batch=1 --config.episode.max_rounds=1 --config.packing.max_microbatches=4"
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to commands that match.

    Attributes:
      pattern: found in the command.
      append: what makes it small.
      replace: a regular expression for what is something else here, and what.
      left_out: why it is not run; None where it is.
      options_alone: whether it differs by its options from one that is run: then its configuration
        is built from them, and nothing is trained.
    """

    pattern: str
    append: str = ""
    replace: tuple[str, str] = ("", "")
    left_out: str | None = None
    options_alone: bool = False


RULES = (
    Rule(
        r"agemem-reproduce|reproduce(_kills)?\.py",
        left_out="tests/commands/test_reproduce.py; it trains several runs",
    ),
    Rule(
        r"^AGEMEM_EXTRA=\S+ bash launch/quickstart",
        left_out="for a GPU; README.md has it without",
    ),
    Rule(r"--judge\.base_url", left_out="tests/rewards have an endpoint, and here there is none"),
    Rule(r"launch/docs\.sh", left_out="tests/docs/test_site.py builds the site"),
    Rule(
        r"train\.py .*--workdir=runs/(best|blame|brief|days|echo|guess|local|mine|riddles|second|"
        r"two|wordle)\b",
        left_out="tests/test_extending.py runs the examples of docs/extending",
    ),
    Rule(r"bash launch/quickstart\.sh", append=f"runs/quickstart {_SMALL}"),
    # In one process: a worker that is still busy 5 s after the last test is interrupted with a
    # traceback, which a busy machine's collector of garbage may print.
    Rule(r"bash launch/test\.sh", append="tests/test_configs.py -n 0"),
    Rule(r"bash launch/setup\.sh", left_out="launch/check_install.sh and tests/launch run it"),
    Rule(r"source \.venv", left_out="the tests' own environment is used"),
    Rule(r"pip install", left_out="launch/check_install.sh installs"),
    Rule(r"--workdir=runs/mem", left_out="README.md has others; tests/methods play and train them"),
    Rule(r"--workdir=runs/smollm2", left_out="docs/howto/train.md has the same, elsewhere"),
    Rule(r"smollm2_hotpotqa", append=_HOTPOTQA, replace=(r"=FOLDER\w*", "=hotpotqa")),
    Rule(r"--profile_steps", left_out="test_profiling.py has it; a trace takes a minute"),
    Rule(r"tiny_babyai", left_out="an hour; tests/test_configs.py builds the configuration"),
    Rule(r"--workdir=runs/(a|dapo|guarded|judged|short) .*--config", options_alone=True),
    Rule(r"full_context", left_out="tests/methods/test_baselines.py plays and trains each method"),
    Rule(
        r"memory_hygiene\.py",
        append="--config=quickstart --methods=archive_turns --history=2 --histories=1",
        replace=(r"--workdir=\S+", "--workdir=runs/hygiene"),
    ),
    Rule(r"(train\.py|agemem-train) .*quickstart", append=_SMALL),
    Rule(r"tensorboard --logdir", append="--inspect"),
    Rule(r"local\.sh 2 .*quickstart", left_out="tests/test_end_to_end.py trains in two processes"),
    Rule(r"evaluate\.py --workdir=runs/a\b", left_out="launch/quickstart.sh runs it"),
    Rule(r"evaluate\.py .*runs/untrained", left_out="tests/test_end_to_end.py evaluates one"),
    Rule(r"--task_source=", left_out="tests/evaluation/test_sources.py plays slices of benchmarks"),
    Rule(r"(evaluate\.py|agemem-evaluate) ", append="--show=1"),
    Rule(r"(export\.py|agemem-export) "),
    Rule(r"agemem-report", left_out="README.md has the same program, by the file of a clone"),
    Rule(r"report\.py"),
    Rule(r"chat\.py .*--workdir=runs/quickstart"),
    Rule(r"(chat\.py|agemem-chat) ", left_out="README.md has the same, of a run"),
    Rule(r"kill_memory|cross_user", left_out="tests/serving call them, with fewer kills and calls"),
    Rule(r"sweep\.py", left_out="tests/commands/test_sweep.py; it trains several runs"),
    Rule(r"(fetch_weights\.py|agemem-fetch)"),
    Rule(r"agemem-serve", left_out="it ends only when it is stopped; tests/serving ask it"),
    Rule(
        r"checks/server", left_out="they need a server, or minutes; tests/serving has short forms"
    ),
    Rule(r"(backbones\.py|agemem-backbones)"),
    Rule(r"aot_check\.py|aot_table\.py", left_out="tests/planning compile a small job"),
    Rule(r"--config=CONFIG|-- \.\.\.|IMAGE|ZONE", left_out="a pattern; tests/launch try each"),
    Rule(r"^for seed", left_out="an hour; one of its rounds stands in README.md"),
    Rule(r"reward_hacks\.py", replace=(r"--tasks=\d+", "--tasks=1")),
    Rule(r"-m pytest", left_out="the tests are run as they are"),
    Rule(
        r"compare_memory_systems\.py",
        left_out="the libraries have environments of their own; tests/methods have a short form",
    ),
    Rule(r"survive_kills\.py", left_out="tests/test_end_to_end.py runs it"),
    Rule(r"benchmark\.py|peers\.sh", left_out="tests/test_benchmark.py runs the suites"),
    Rule(r"benchmark_loading\.py", left_out="reads gigabytes"),
    Rule(r"gpu_check\.sh", left_out="tests/test_accelerator_suite.py runs it"),
    Rule(r"slurm", left_out="tests/launch/test_slurm.py runs it where Slurm is installed"),
)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command, as it stands in a document."""

    document: str
    text: str

    @property
    def rule(self) -> Rule | None:
        """The first that matches."""
        return next((rule for rule in RULES if re.search(rule.pattern, self.text)), None)

    @property
    def small(self) -> str:
        """The command as tests run it."""
        rule = self.rule
        text = re.sub(*rule.replace, self.text) if rule.replace[0] else self.text
        return f"{text} {rule.append}".strip()


def find() -> list[Command]:
    """All commands of all documents, in order."""
    found = []
    for path in DOCUMENTS:
        lines = iter(path.read_text().splitlines())
        for line in lines:
            if match := _INDENTED.fullmatch(line):
                text = match[1]
                while text.endswith("\\"):
                    text = f"{text[:-1].rstrip()} {next(lines).strip()}"
                texts = [re.sub(r"\s+#.*", "", text)]
            else:
                texts = [each.replace("\\|", "|") for each in _QUOTED.findall(line)]
            found += [Command(str(path.relative_to(ROOT)), text) for text in texts]
    return found
