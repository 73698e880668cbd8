"""The public surface: lazy, documented, typed; and the example of docs/library.md as it stands."""

import inspect
import pathlib
import re
import subprocess
import sys
import typing

import pytest
import yaml

import agemem_jax
from agemem_jax import configs
from agemem_jax.library import loading
from tests.test_end_to_end import CONFIG

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = [name for name in agemem_jax.__all__ if name != "__version__"]
CALLABLE = [name for name in PUBLIC if callable(getattr(agemem_jax, name))]


def test_importing_the_package_imports_neither_jax_nor_anything_heavy():
    program = (
        "import sys, agemem_jax, agemem_jax.protocol.parser\n"
        "agemem_jax.ToolSpec, agemem_jax.Task, agemem_jax.ToolEvent, dir(agemem_jax)\n"
        "print(sorted({'jax', 'numpy', 'transformers', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_all_lists_what_there_is_for_programs_and_for_type_checkers():
    assert len(set(agemem_jax.__all__)) == len(agemem_jax.__all__)
    assert set(PUBLIC) == set(agemem_jax._PLACES) <= set(dir(agemem_jax))
    source = (ROOT / "agemem_jax" / "__init__.py").read_text()
    typed = source.split("if TYPE_CHECKING:")[1].split("# Where")[0]
    imported = re.findall(r"\b(\w+)(?=,|\n|\))", re.sub(r"from \S+ import|\w+ as ", "", typed))
    assert set(imported) == set(PUBLIC)
    assert (ROOT / "agemem_jax" / "py.typed").is_file()
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = agemem_jax.trian


def test_the_page_lists_every_name():
    page = (ROOT / "docs" / "library.md").read_text()
    assert [name for name in PUBLIC if f"`{name}`" not in page] == []


def documented(thing, name):
    """The docstring of a function, a class or one of its parts, with that of its class."""
    text = inspect.getdoc(thing) or ""
    assert text, f"{name} has no docstring"
    return text


@pytest.mark.parametrize("name", CALLABLE)
def test_everything_public_says_what_it_is_for_and_what_its_arguments_are(name):
    thing = getattr(agemem_jax, name)
    whole = documented(thing, name)
    assert len(whole.split()) >= 5 or len(whole) > 30, f"{name}: {whole!r}"
    parts = {name: thing}
    if inspect.isclass(thing):
        parts = {
            part: value
            for part, value in vars(thing).items()
            if not part.startswith("_") and inspect.isroutine(value)
        }
        parts["__init__"] = thing
        whole += inspect.getdoc(thing.__init__) or ""
    for part, function in parts.items():
        function = getattr(function, "__func__", function)
        text = documented(function, f"{name}.{part}") + whole
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:
            continue
        for parameter in parameters:
            if parameter.name in ("self", "cls") or parameter.kind in (
                parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD,
            ):  # fmt: skip
                continue
            assert re.search(rf"\b{parameter.name}\b", text), f"{name}.{part}: {parameter.name}"


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "load_agent", "config"])
def test_functions_are_annotated_and_help_on_them_fits_a_terminal(name):
    function = getattr(agemem_jax, name)
    hints = typing.get_type_hints(function)
    assert set(hints) == {*inspect.signature(function).parameters, "return"}
    assert max(map(len, inspect.getdoc(function).splitlines())) <= 96
    for section in ("Args:", "Raises:"):
        assert section in function.__doc__


def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)


def test_the_example_of_ten_lines_trains_loads_talks_and_remembers(tmp_path, monkeypatch, capsys):
    """On a model of random weights and one iteration; everything else as it stands there."""
    module, program = blocks()
    assert len([line for line in program.splitlines() if line and "import" not in line]) <= 10
    (tmp_path / "colours.py").write_text(module)
    (tmp_path / "small.py").write_text(CONFIG)

    def small(name):
        assert name in configs.FILES
        config = configs.load(tmp_path / "small.py")
        config.engine.slots = config.engine.prefill_rows = 1  # the agent's, compiled once
        config.engine.chunk = 8
        config.warmup.steps = 0
        config.curriculum.schedule = "joint"
        config.curriculum.iterations = (1,)
        return config

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(agemem_jax, "config", small)
    exec(compile(program.replace("tasks=50", "tasks=2"), "program", "exec"), {})  # noqa: S102
    told = capsys.readouterr().out
    assert "Estimate(mean=" in told and told.rstrip().endswith("]")
    assert (tmp_path / "memories.db").is_file()
    # The agent needs the code of tasks and rewards no more, and can be one of a checkpoint.
    (tmp_path / "colours.py").unlink()
    sys.modules.pop("colours")
    (checkpoint,) = (tmp_path / "runs/colours/checkpoints/phases/joint").iterdir()
    with agemem_jax.load_agent(checkpoint, memory="memories.db", user="ana") as agent:
        seen = []
        reply = agent.chat("Hello.", seen.append)
        assert len(seen) >= len(reply.events) > 0
        assert agent.max_context_tokens == 480
    with pytest.raises(ValueError, match="is one checkpoint, and checkpoint='best' names another"):
        agemem_jax.load_agent(checkpoint, checkpoint="best")
    with pytest.raises(ValueError, match="There is no checkpoint '7'"):
        agemem_jax.load_agent("runs/colours", checkpoint="7")


def test_a_run_is_told_from_a_model_and_from_what_is_not_there(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert loading.find_run(tmp_path) == (None, "last")
    assert loading.find_run(tmp_path / "runs" / "none") == (None, "last")
    (tmp_path / "config.json").write_text('{"backbone": "tiny"}')
    folder = tmp_path / "checkpoints"
    for place, name in (
        ("", "last"), ("phases/joint/30", "joint/30"), ("steps/20", "20"), ("best/10", "best"),
    ):  # fmt: skip
        (folder / place).mkdir(parents=True, exist_ok=True)
        assert loading.find_run(folder / place) == (tmp_path, name)


def test_wrong_sources_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no_such_model"):
        agemem_jax.load_agent("no_such_model")
    with pytest.raises(ValueError, match="Unknown option episode.max_contexts; known: auto_ret"):
        agemem_jax.load_agent("tiny", episode={"max_contexts": 3})
    with pytest.raises(FileNotFoundError, match="The configuration is 'quickstrat', which is"):
        agemem_jax.config("quickstrat")
    with pytest.raises(ValueError, match="holds no training run; give a configuration"):
        agemem_jax.evaluate(tmp_path)


def test_the_citation_and_the_changes_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert {"message", "title", "authors", "license"} <= set(citation)
    assert str(citation["version"]) == agemem_jax.__version__
    assert f"## {agemem_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", agemem_jax.__version__)
