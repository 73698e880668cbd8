"""Draws the pictures of the pages on concepts, docs/pictures/*.svg.

    python docs/hooks/pictures.py

Colours are those of the report: Stage 1 blue, Stage 2 yellow, Stage 3 pink, the memory green.
"""

import pathlib
from collections.abc import Callable

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402  # behind the choice of what draws
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402

FOLDER = pathlib.Path(__file__).parent.parent / "pictures"
BLUE, YELLOW, PINK, GREEN = "#bcd7f5", "#fbe9a6", "#f7c6d9", "#c5e5c3"
GREY, INK, RED = "#e6e8ec", "#26303c", "#b3261e"


def box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str = "",
    colour: str = GREY, size: float = 9.0,
) -> None:  # fmt: skip
    """A rounded box whose lower left corner is at (x, y), with text in its middle."""
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour, edgecolor=INK, linewidth=0.8,
    )  # fmt: skip
    axes.add_patch(shape)
    if text:
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=size)


def arrow(axes: Axes, start, end, text: str = "", colour: str = INK, above: float = 0.12) -> None:
    """An arrow with a word at its middle."""
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=1)
    )
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        axes.text(x, y + above, text, ha="center", va="bottom", size=8, color=colour)


def say(axes: Axes, x: float, y: float, text: str, size: float = 9.0, **kwargs) -> None:
    """Text that begins at (x, y)."""
    axes.text(x, y, text, **{"ha": "left", "va": "center", "size": size, **kwargs})


def stages(axes: Axes) -> None:
    """Three stages, one context that is reset, one memory that stays."""
    heads = (("Stage 1: what is told", BLUE), ("Stage 2: distractors", YELLOW),
             ("Stage 3: the question", PINK))  # fmt: skip
    for number, (head, colour) in enumerate(heads):
        x = 0.2 + 4.0 * number
        box(axes, x, 1.6, 3.4, 2.5, "", colour)
        say(axes, x + 0.15, 3.85, head, 10, weight="bold")
    told = ("user: Ana moved to Oslo.", "agent: Add_memory(...)", "user: Her dog is called Bo.",
            "agent: Add_memory(...)")  # fmt: skip
    near = ("user: Oslo has many parks.", "agent: Filter_context(...)", "user: ...", "agent: ok")
    asked = ("user: Where does Ana live?", "agent: Retrieve_memory(...)",
             "memory: Ana moved to Oslo.", "agent: <answer>Oslo</answer>")  # fmt: skip
    for number, lines in enumerate((told, near, asked)):
        for row, line in enumerate(lines):
            colour = INK if line.startswith("agent") else "#5b6672"
            say(axes, 0.4 + 4.0 * number, 3.4 - 0.45 * row, line, 8.5, color=colour)
    box(axes, 0.2, 0.2, 11.4, 0.75, "long-term memory M: stays through all three stages", GREEN)
    arrow(axes, (1.9, 1.6), (1.9, 0.95))
    say(axes, 2.0, 1.28, "store, update, delete", 8)
    arrow(axes, (9.9, 0.95), (9.9, 1.6))
    say(axes, 10.0, 1.28, "retrieve", 8)
    say(axes, 3.9, 2.5, "re-\nset", 8, color=RED, ha="center", weight="bold")
    axes.plot([3.9, 3.9], [2.85, 4.1], color=RED, linestyle="--", linewidth=1)
    axes.plot([3.9, 3.9], [1.6, 2.2], color=RED, linestyle="--", linewidth=1)
    arrow(axes, (7.6, 2.85), (8.2, 2.85))
    axes.set(xlim=(0, 11.8), ylim=(0, 4.3))


def memory_operations(axes: Axes) -> None:
    """Six tools between the context and the memory."""
    box(axes, 0.2, 0.3, 4.2, 3.6, "", GREY)
    say(axes, 0.4, 3.65, "context C: what the prompt holds", 10, weight="bold")
    for row, line in enumerate(
        (
            "system: protocol and tools",
            "user: a message",
            "agent: a step",
            "memory: entries retrieved",
            "summary of older messages",
        )
    ):
        box(axes, 0.5, 2.85 - 0.6 * row, 3.6, 0.45, line, "white", 8.5)
    box(axes, 7.6, 0.3, 4.0, 3.6, "", GREEN)
    say(axes, 7.8, 3.65, "memory M: entries of one rollout", 10, weight="bold")
    entries = ("mem_a5b40d65  Ana moved to Oslo.", "mem_91c0e7f2  Bo is Ana's dog.", "...")
    for row, line in enumerate(entries):
        box(axes, 7.9, 2.75 - 0.7 * row, 3.4, 0.5, line, "white", 8.5)
    told = "each with its text, its metadata and\na unit vector; similarity is the cosine"
    say(axes, 7.9, 0.75, told, 8.5)
    for row, name in enumerate(("Add_memory", "Update_memory", "Delete_memory")):
        arrow(axes, (4.4, 3.4 - 0.6 * row), (7.6, 3.4 - 0.6 * row), name, above=0.05)
    arrow(axes, (7.6, 1.45), (4.4, 1.45), "Retrieve_memory, top k", above=0.05)
    say(axes, 4.65, 0.95, "Summary_context: messages become one", 8)
    say(axes, 4.65, 0.6, "Filter_context: near the criteria, out", 8)
    axes.set(xlim=(0, 11.8), ylim=(0.1, 4.1))


def segments(axes: Axes) -> None:
    """A trajectory as segments, and how they stand in a packed row."""

    def tokens(x, y, pieces, note):
        for text, width, colour in pieces:
            box(axes, x, y, width, 0.5, text, colour, 8)
            x += width
        say(axes, x + 0.15, y + 0.25, note, 8.5)

    heads = (
        "segments of one trajectory: a new one begins where the context was edited or reset",
        "one packed row: what segments begin with stands once; a branch sees its own path only",
    )
    say(axes, 0.2, 4.65, heads[0], 10, weight="bold")
    act = "#8fd18a"
    tokens(0.2, 3.9, [("prefix", 1.2, GREY), ("m1", 0.7, BLUE), ("a1", 0.6, act), ("m2", 0.7, BLUE),
                      ("a2", 0.6, act)], "Stage 1: trains a1, a2")  # fmt: skip
    tokens(0.2, 3.2, [("prefix", 1.2, GREY), ("d1", 0.7, YELLOW), ("a3", 0.6, act),
                      ("d2", 0.7, YELLOW), ("a4", 0.6, act)],
           "after the reset: trains a3, a4")  # fmt: skip
    tokens(0.2, 2.5, [("prefix", 1.2, GREY), ("a3", 0.6, "white"), ("d2", 0.7, YELLOW),
                      ("a4", 0.6, "white"), ("q", 0.6, PINK), ("a5", 0.6, act)],
           "a4 filtered d1 away: trains a5 alone, in the context that it was sampled in",
           )  # fmt: skip
    say(axes, 0.2, 1.85, heads[1], 10, weight="bold")
    x = 0.2
    for text, width, colour in (("prefix", 1.2, GREY), ("m1", 0.7, BLUE), ("a1", 0.6, act),
                                ("m2", 0.7, BLUE), ("a2", 0.6, act), ("d1", 0.7, YELLOW),
                                ("a3", 0.6, act), ("d2", 0.7, YELLOW), ("a4", 0.6, act),
                                ("a3", 0.6, "white"), ("d2", 0.7, YELLOW), ("a4", 0.6, "white"),
                                ("q", 0.6, PINK), ("a5", 0.6, act)):  # fmt: skip
        box(axes, x, 0.95, width, 0.5, text, colour, 8)
        x += width
    for start, end in ((1.4, 4.0), (4.0, 6.6), (6.6, 9.7)):
        axes.annotate("", (end, 0.8), (start, 0.8), arrowprops={"arrowstyle": "<->", "color": INK})
    for middle, text in ((2.7, "segment 1"), (5.3, "segment 2"), (8.15, "segment 3")):
        say(axes, middle, 0.6, text, 8.5, ha="center")
    legend = "green: action tokens that are trained; white: the same tokens again, as context only"
    say(axes, 0.2, 0.2, legend, 8.5)
    axes.set(xlim=(0, 11.8), ylim=(0, 4.9))


def credit(axes: Axes) -> None:
    """Rewards of a group become advantages of steps."""
    rewards = (0.9, 0.5, 0.5, 0.1)
    mean = sum(rewards) / len(rewards)
    std = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
    say(axes, 0.2, 3.75, "K rollouts of one task", 10, weight="bold")
    say(axes, 7.1, 3.75, "reward", 10, weight="bold")
    say(axes, 8.4, 3.75, "advantage, at each step", 10, weight="bold")
    for row, reward in enumerate(rewards):
        y = 2.9 - 0.8 * row
        count = (7, 5, 6, 8)[row]
        advantage = (reward - mean) / std
        shade = GREEN if advantage > 0.01 else "#f3b8b4" if advantage < -0.01 else GREY
        for step in range(count):
            stage = 0 if step < 3 else 1 if step < count - 2 else 2
            box(axes, 0.2 + 0.8 * step, y, 0.7, 0.5, f"a{step + 1}", (BLUE, YELLOW, PINK)[stage], 8)
        say(axes, 7.2, y + 0.25, f"{reward:.1f}", 10)
        box(axes, 8.4, y, 1.5, 0.5, f"{advantage:+.2f}", shade, 10)
    say(axes, 10.1, 1.9, "A = (r - mean)\n      / (std + eps)", 9)
    axes.set(xlim=(0, 11.8), ylim=(0.2, 4.0))


def rewards(axes: Axes) -> None:
    """The reward as a tree."""
    box(axes, 4.4, 3.4, 3.0, 0.6, "R = weighted sum", GREY, 10)
    columns = (
        (0.2, "R_task", "1/3", ("answer, or goal reached", "-1 without an answer"), PINK),
        (3.1, "R_context", "1/3", ("compression", "preventive", "preservation"), YELLOW),
        (6.0, "R_memory", "1/3", ("storage", "maintenance", "relevance"), GREEN),
        (8.9, "P_penalty", "1", ("-1 too many rounds", "-0.5 budget exceeded"), "#f3b8b4"),
    )
    for x, name, weight, parts, colour in columns:
        box(axes, x, 2.2, 2.7, 0.6, name, colour, 10)
        arrow(axes, (x + 1.35, 2.8), (5.9, 3.4))
        say(axes, x + 1.35, 3.05, f"x {weight}", 8.5, ha="center", backgroundcolor="white")
        for row, part in enumerate(parts):
            box(axes, x + 0.15, 1.5 - 0.55 * row, 2.4, 0.45, part, "white", 8.5)
    axes.set(xlim=(0, 11.8), ylim=(0.2, 4.2))


def curriculum(axes: Axes) -> None:
    """Two schedules."""
    say(axes, 0.2, 3.75, "schedule=phased", 10, weight="bold")
    for x, name, told, stages_of in (
        (0.2, "warm-up", "imitation", ()),
        (3.1, "phase 1", "task + memory", (BLUE, PINK)),
        (6.0, "phase 2", "task + context", (BLUE, YELLOW, PINK)),
        (8.9, "phase 3", "all rewards", (BLUE, YELLOW, PINK)),
    ):
        box(axes, x, 2.2, 2.5, 1.2, "", "white")
        say(axes, x + 1.25, 3.15, name, 10, ha="center", weight="bold")
        say(axes, x + 1.25, 2.85, told, 8.5, ha="center")
        for number, colour in enumerate(stages_of):
            label = {BLUE: "1", YELLOW: "2", PINK: "3"}[colour]
            left = x + 1.25 - 0.35 * len(stages_of) + 0.7 * number
            box(axes, left + 0.05, 2.32, 0.6, 0.35, label, colour, 8)
    for x in (2.7, 5.6, 8.5):
        arrow(axes, (x, 2.8), (x + 0.4, 2.8))
    for x in (2.9, 5.8, 8.7, 11.55):
        say(axes, x, 1.95, "checkpoint", 7.5, ha="center", color=RED)
    say(axes, 0.2, 1.45, "schedule=joint", 10, weight="bold")
    box(axes, 0.2, 0.3, 2.5, 0.8, "warm-up", "white", 10)
    arrow(axes, (2.7, 0.7), (3.1, 0.7))
    box(axes, 3.1, 0.3, 8.3, 0.8, "", "white")
    say(axes, 3.4, 0.7, "full trajectories with all rewards", 9.5)
    for number, colour in enumerate((BLUE, YELLOW, PINK)):
        box(axes, 8.9 + 0.75 * number, 0.5, 0.65, 0.4, str(number + 1), colour, 8)
    axes.set(xlim=(0, 12.1), ylim=(0.1, 4.0))


def meshes(axes: Axes) -> None:
    """Eight devices in training, and in rollouts."""
    say(axes, 0.2, 3.95, "training: mesh.data=2, mesh.fsdp=2, mesh.tensor=2", 10, weight="bold")
    for copy in range(2):
        left = 0.2 + 2.9 * copy
        box(axes, left, 0.9, 2.7, 2.7, "", GREY)
        say(axes, left + 1.35, 3.4, f"copy {copy + 1} of the state", 8.5, ha="center")
        for row in range(2):
            for column in range(2):
                number = 4 * copy + 2 * row + column
                text = f"device {number}\nfsdp {row}\ntensor {column}"
                x, y = left + 0.15 + 1.25 * column, 2.15 - 1.1 * row
                box(axes, x, y, 1.15, 1.0, text, (BLUE, YELLOW)[row], 7.5)
    say(axes, 0.2, 0.5, "rows of a batch are split over data and fsdp", 8.5)
    say(axes, 6.4, 3.95, "rollouts: mesh.rollout_tensor=2", 10, weight="bold")
    for pair in range(4):
        left, low = 6.4 + 2.7 * (pair % 2), 2.35 - 1.45 * (pair // 2)
        box(axes, left, low, 2.5, 1.25, "", GREY)
        say(axes, left + 1.25, low + 1.08, "one copy of the weights", 7.5, ha="center")
        for column in range(2):
            box(axes, left + 0.1 + 1.15 * column, low + 0.1, 1.1, 0.8,
                f"device {2 * pair + column}", PINK, 7.5)  # fmt: skip
    say(axes, 6.4, 0.5, "each has slots, caches and memories of its own", 8.5)
    axes.set(xlim=(0, 11.8), ylim=(0.2, 4.2))


PICTURES: dict[str, Callable[[Axes], None]] = {
    each.__name__: each
    for each in (stages, memory_operations, segments, credit, rewards, curriculum, meshes)
}


def write(folder: pathlib.Path) -> None:
    """Writes all pictures; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams |= {
        "svg.fonttype": "none",
        "svg.hashsalt": "agemem_jax",
        "font.family": "sans-serif",
        "font.sans-serif": ["Arial", "Helvetica", "DejaVu Sans"],
        "text.color": INK,
    }
    for name, draw in PICTURES.items():
        figure, axes = plt.subplots(figsize=(9.4, 3.6), layout="constrained")
        axes.axis("off")
        draw(axes)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(figure)


if __name__ == "__main__":
    write(FOLDER)
