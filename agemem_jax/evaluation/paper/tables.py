"""The tables of the paper, and those behind its figures, made of stored records."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from agemem_jax.evaluation.paper import comparisons, studies
from agemem_jax.evaluation.paper.calls import by_stage
from agemem_jax.evaluation.paper.comparisons import Comparison
from agemem_jax.evaluation.paper.results import PERCENT, Cell, Measured, Results, columns

_OF_TASKS = (
    "In percent: J (questions), success rate or, of PDDL, progress rate. The best of a column and "
    "backbone is bold."
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, whatever it is written as.

    Attributes:
      name: of its files.
      title: above it.
      head: of the columns.
      rows: texts and figures.
      labels: how many of the first columns tell rows apart.
      notes: sentences below it.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    labels: int = 2
    notes: Sequence[str] = ()

    def cells(self) -> Iterable[tuple[int, str, Cell]]:
        """All figures with the number of the row and the head of the column."""
        for number, row in enumerate(self.rows):
            for head, each in zip(self.head, row, strict=True):
                if isinstance(each, Cell):
                    yield number, head, each


def with_best(rows: Sequence[Sequence[str | Cell]]) -> list[list[str | Cell]]:
    """The rows of one backbone with the best score of each column marked, where they differ."""
    marked = [list(row) for row in rows]
    for place in range(len(rows[0]) if rows else 0):
        means = {
            number: row[place].estimate.mean
            for number, row in enumerate(rows)
            if isinstance(row[place], Cell) and row[place].estimate is not None
            if row[place].metric in PERCENT  # what costs least may do nothing
        }
        if len(set(means.values())) < 2:
            continue
        best = max(means.values())
        for number, mean in means.items():
            if mean == best:
                marked[number][place] = dataclasses.replace(marked[number][place], best=True)
    return marked


def _table(name: str, head: Sequence[str], rows, notes: Sequence[str], labels: int = 2) -> Table:
    return Table(name, studies.STUDIES[name].title, head, rows, labels, [*notes, _INTERVALS])


_INTERVALS = (
    "± and [ ] are 95 % intervals: over seeds by Student's t; with one seed, over its tasks by "
    "bootstrap."
)


def _by_method(results: Results, cells: Callable[[str, str], list[Cell]]) -> list[list]:
    """A row for each method of table 2: backbone, title, and what `cells` gives."""
    rows = [
        [results.plan.backbone, results.title(method), *cells(variant, method)]
        for variant, method in results.plan.rows
    ]
    return with_best(rows)


def table2(every: Sequence[Results]) -> Table:
    """Backbone × method against benchmarks and their average."""
    first = every[0].plan

    rows = []
    for results in every:

        def of_row(variant: str, method: str, results: Results = results) -> list[Cell]:
            measured = [results.find(method, each, variant) for each in first.benchmarks]
            cells = [Cell.of(each, "main") for each in measured]
            return [*cells, Cell.average(measured, "main")]

        rows += _by_method(results, of_row)
    head = ["backbone", "method", *columns(first.benchmarks), "average"]
    return _table("table2", head, rows, [_OF_TASKS])


def figure2(every: Sequence[Results]) -> Table:
    """Memory quality by method."""
    rows = []
    for results in every:

        def of_row(variant: str, method: str, results: Results = results) -> list[Cell]:
            return [
                Cell.of(results.find(method, each, variant), "mq")
                for each in every[0].plan.benchmarks
            ]

        rows += _by_method(results, of_row)
    head = ["backbone", "method", *columns(every[0].plan.benchmarks)]
    return _table(
        "figure2", head, rows,
        ["MQ, the stored memories against the facts that matter, in percent; of benchmarks that "
         "have such facts."],
    )  # fmt: skip


_COSTS = {
    "prompt_total": "prompt tokens", "sampled": "sampled tokens", "calls": "model calls",
}  # fmt: skip


def costs(every: Sequence[Results]) -> Table:
    """Quality, and what an episode takes of the engine."""
    return _costs(every, "costs", _COSTS, [
        "Per episode, mean over the benchmarks. Prompt tokens are those of all prompts, cached "
        "ones included; model calls are all generations.",
    ])  # fmt: skip


def timing(every: Sequence[Results]) -> Table:
    """Quality, and the seconds of an episode: apart, since no second run gives them again."""
    return _costs(every, "timing", {"seconds": "seconds"}, [
        "Seconds are the episode's share of the machine's time, which episodes that run side by "
        "side have in equal parts, compilation included; they depend on the machine, and on what "
        "else it did.",
    ])  # fmt: skip


def _costs(every: Sequence[Results], name: str, metrics, notes: Sequence[str]) -> Table:
    rows = []
    for results in every:

        def of_row(variant: str, method: str, results: Results = results) -> list[Cell]:
            found = [results.find(method, each, variant) for each in every[0].plan.benchmarks]
            return [Cell.average(found, metric) for metric in ("main", *metrics)]

        rows += _by_method(results, of_row)
    head = ["backbone", "method", "average", *metrics.values()]
    return _table(name, head, rows, notes)


def table3(every: Sequence[Results]) -> Table:
    """Calls of each tool before and after RL, and where in the episode they are after it."""
    rows = []
    for results in every:
        for benchmark, head in zip(
            results.plan.benchmarks, columns(results.plan.benchmarks), strict=True
        ):
            before = results.find("agemem_norl", benchmark)
            after = results.find("agemem", benchmark)
            tools = dict.fromkeys(t for m in (*before, *after) for t in m.measures.tc)
            staged = by_stage(after)
            for tool in (*tools, "tc"):
                metric = tool if tool == "tc" else f"tc_{tool}"
                rows.append(
                    [
                        results.plan.backbone,
                        head,
                        "all calls" if tool == "tc" else tool,
                        Cell.of(before, metric),
                        Cell.of(after, metric),
                        *(staged(tool, stage) for stage in (1, 2, 3)),
                    ]  # fmt: skip
                )
    head = [
        "backbone", "benchmark", "tool", "before RL", "after RL", "in Stage 1", "in Stage 2",
        "in Stage 3",
    ]  # fmt: skip
    notes = ["Calls per episode, failed ones included; the stages are those after RL."]
    return _table("table3", head, rows, notes, labels=3)


def figure3(every: Sequence[Results]) -> Table:
    """TN of AgeMem and of retrieval at each step, before and after RL."""
    rows = []
    for results in every:
        for method in ("agemem_norl_rag", "agemem_norl", "agemem_rag", "agemem"):
            found = [results.find(method, each) for each in results.plan.benchmarks]
            cells = [Cell.of(each, "tn") for each in found]
            rows.append([results.plan.backbone, results.title(method), *cells])
    head = ["backbone", "method", *columns(every[0].plan.benchmarks)]
    return _table("figure3", head, rows, ["TN, mean tokens of a prompt."])


def figure4(every: Sequence[Results]) -> Table:
    """Base, +LT, +LT/RL, +LT/ST/RL."""
    parts = {
        "Base": (studies.MAIN, "no_memory"),
        "+LT": (studies.LONG_TERM, "agemem_norl"),
        "+LT/RL": (studies.LONG_TERM, "agemem"),
        "+LT/ST/RL": (studies.MAIN, "agemem"),
    }
    rows = []
    for results in every:
        own = []
        for name, (variant, method) in parts.items():
            found = [results.find(method, each, variant) for each in results.plan.benchmarks]
            cells = [*(Cell.of(each, "main") for each in found), Cell.average(found, "main")]
            own.append([results.plan.backbone, name, *cells])
        rows += with_best(own)
    head = ["backbone", "parts", *columns(every[0].plan.benchmarks), "average"]
    note = (
        "Base has no memory and no tools; +LT has the tools for long-term memory, Retrieve_memory "
        "among them; ST are Summary_context and Filter_context."
    )
    return _table("figure4", head, rows, [_OF_TASKS, note])


_EFFECTS = {"main": "J or success", "tn": "TN", "mq": "MQ", "tc": "TC"}


def _two_ways(every: Sequence[Results], name: str, ways, notes: Sequence[str]) -> Table:
    """One block per backbone and benchmark with what two ways of training led to."""
    rows = []
    for results in every:
        for benchmark, head in zip(
            results.plan.benchmarks, columns(results.plan.benchmarks), strict=True
        ):
            own = []
            for title, variant in ways.items():
                found = results.find("agemem", benchmark, variant)
                cells = [Cell.of(found, metric) for metric in _EFFECTS]
                own.append([results.plan.backbone, head, title, *cells])
            rows += with_best(own)
    head = ["backbone", "benchmark", "training", *_EFFECTS.values()]
    return _table(name, head, rows, notes, labels=3)


_REWARDS = {"all returns": studies.MAIN, "answer only": studies.ANSWER_ONLY}
_REWARD_NOTE = (
    "Answer only: R_task alone; the weights of all other components, penalties included, are 0."
)


def table4(every: Sequence[Results]) -> Table:
    """What the reward leads to."""
    return _two_ways(every[:1], "table4", _REWARDS, [_REWARD_NOTE])


def table5(every: Sequence[Results]) -> Table:
    """The same for the backbones beside the first.

    Raises:
      ValueError: there are none.
    """
    if len(every) < 2:
        raise ValueError(
            "table5 is table 4 for other backbones; name their work directories with --beside."
        )
    return _two_ways(every[1:], "table5", _REWARDS, [_REWARD_NOTE])


def figure5(every: Sequence[Results]) -> Table:
    """The figures at the end of the curves."""
    return _two_ways(every, "figure5", _REWARDS, [_REWARD_NOTE])


def summaries(every: Sequence[Results]) -> Table:
    """Summaries as trained steps, or left alone."""
    ways = {"summaries trained": studies.MAIN, "untrained": studies.UNTRAINED_SUMMARIES}
    note = "Untrained: steps that wrote a summary have no advantage (grpo.credit)."
    return _two_ways(every, "summaries", ways, [note])


def theta(every: Sequence[Results]) -> Table:
    """Each threshold trained and evaluated."""
    rows = []
    for results in every:
        for value, variant in results.plan.thetas.items():
            found = [results.find("agemem", each, variant) for each in results.plan.benchmarks]
            rows.append(
                [results.plan.backbone, value, *(Cell.of(each, "main") for each in found),
                 Cell.average(found, "main"), Cell.average(found, "tn")]
            )  # fmt: skip
    head = ["backbone", "θ", *columns(every[0].plan.benchmarks), "average", "TN"]
    note = "Each threshold is trained with and evaluated with."
    return _table("theta", head, rows, [_OF_TASKS, note])


def distractors(every: Sequence[Results]) -> Table:
    """The trained and the untrained policy under more and fewer distractors."""
    rows = []
    for results in every:
        for benchmark, sources in results.plan.distractors.items():
            (head,) = columns([benchmark])
            for method in ("agemem_norl", "agemem"):
                for number, source in sources.items():
                    found = results.find(method, source, of="distractors")
                    cells = [Cell.of(found, metric) for metric in ("main", "mq", "tn")]
                    title = results.title(method)
                    rows.append([results.plan.backbone, head, title, number, *cells])
    head = [
        "backbone", "benchmark", "method", "distractors", "J or success", "MQ", "TN",
    ]  # fmt: skip
    note = "The weights are those of the one run, trained with its own number of distractors."
    return _table("distractors", head, rows, [note], labels=4)


def tests(every: Sequence[Results]) -> Table:
    """Every method of table 2 against the last of the paper's, on the same tasks."""
    rows = []
    for results in every:
        plan = results.plan
        reference = next((row for row in plan.rows if row[1] == "agemem"), plan.rows[-1])
        found: list[tuple[list[str], Comparison, Sequence[Measured]]] = []
        for benchmark, head in zip(plan.benchmarks, columns(plan.benchmarks), strict=True):
            base = results.find(reference[1], benchmark, reference[0])
            for variant, method in plan.rows:
                other = results.find(method, benchmark, variant)
                if (variant, method) != reference and (c := comparisons.compare(base, other)):
                    labels = [plan.backbone, head, results.title(reference[1])]
                    found.append(([*labels, results.title(method)], c, [*base, *other]))
        adjusted = comparisons.holm([c.p_value for _, c, _ in found])
        for (labels, c, measured), p in zip(found, adjusted, strict=True):
            sources = [{"seed": each.seed, **each.paths} for each in measured]
            both = [
                Cell("main", each, {}, c.tasks, sources) for each in (c.difference, c.over_seeds)
            ]
            numbers = (str(c.tasks), str(c.seeds), f"{c.p_value:.4f}", f"{p:.4f}")
            rows.append([*labels, *both, *numbers])
    head = [
        "backbone", "benchmark", "method", "less", "difference over tasks",
        "difference over seeds", "tasks", "seeds", "p", "p (Holm)",
    ]  # fmt: skip
    notes = [
        "In percent, on the same tasks. Over tasks: mean over seeds, bootstrap of the tasks; p by "
        "flipping the signs of the tasks' differences, two-sided, and adjusted for all rows of a "
        "backbone. Over seeds: Student's t.",
    ]
    return Table("tests", studies.STUDIES["tests"].title, head, rows, 4, notes)


MAKE: dict[str, Callable[[Sequence[Results]], Table]] = {
    "table2": table2, "tests": tests, "figure2": figure2, "costs": costs, "timing": timing,
    "table3": table3, "figure3": figure3, "figure4": figure4, "figure5": figure5,
    "table4": table4, "table5": table5, "summaries": summaries, "theta": theta,
    "distractors": distractors,
}  # fmt: skip
