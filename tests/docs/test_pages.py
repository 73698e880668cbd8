"""What the pages say is so: links lead somewhere, names exist, messages are those of the code."""

import ast
import re

import pytest
import yaml

from tests.docs.tree import DOCS, ROOT, load_hook, pages

_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
_NAMED = re.compile(r"\[`(agemem_jax[\w.]*)(?::([\w.]+))?`\]\(((?:\.\./)+[\w/.]+)\)")
# What the method is made of: each stands on the page that leads from the paper to the code.
OF_PAPER = (
    "algorithm 1", "algorithm 3", "algorithm 4", "algorithm 5",
    "table 2", "table 3", "table 4", "table 5",
    "figure 2", "figure 3", "figure 4", "figure 5", "figures 6 and 7",
    "the sweep over θ", "the sweep over distractors",
    "s_t = (C_t, M_t, T)", "τ = (τ1, τ2, τ3)", "e_t = (s_t, a_t, r_t, log π_old)", "enc(·)",
    "A_k = (r_k - mean) / (std + ε)", "A_{k,t} = A_k", "ρ_{k,t} = π_θ / π_old", "J(θ)",
    "D_KL(π_θ ‖ π_ref)", "R(τ) = Σ w_i R_i + P_penalty", "R_task", "R_context",
    "R_compression = max(0, 1 - T_used / T_max)", "R_preventive", "R_preservation", "R_memory",
    "R_storage = N_high_quality / max(1, N_total)", "R_maintenance", "R_relevance", "P_penalty",
    "C.4 the weights", "J by a judge", "MQ", "TN, TC",
)  # fmt: skip


def prose(text: str) -> str:
    """A page without its code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def defined(node: ast.stmt) -> set[str]:
    """The names that a statement gives to something."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {each.id for each in targets if isinstance(each, ast.Name)}


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts and the site make them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", head.lower())) for head in heads}


@pytest.mark.parametrize("page", [ROOT / "README.md", *pages()], ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(page):
    for target in _LINK.findall(prose(page.read_text())):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name} leads to {target}, which is not there"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{page.name}: {target}"


def test_every_page_is_in_the_navigation():
    def walk(node):
        if isinstance(node, str):
            yield node
        for each in node.values() if isinstance(node, dict) else node:
            if not isinstance(node, str):
                yield from walk(each)

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(walk(nav)) == [str(path.relative_to(DOCS)) for path in pages()]


@pytest.mark.parametrize("page", ["paper.md", "api.md", "options.md"])
def test_every_named_part_exists_and_stands_in_the_file_that_it_is_linked_to(page):
    named = _NAMED.findall((DOCS / page).read_text())
    assert len(named) > 15
    for module, name, file in named:
        path = (DOCS / file).resolve()
        assert ".".join(path.relative_to(ROOT).with_suffix("").parts) in (
            module, f"{module}.__init__",
        )  # fmt: skip
        body = ast.parse(path.read_text()).body
        for part in filter(None, name.split(".")):
            found = [each for each in body if part in defined(each)]
            assert found, f"{module} has no {name}"
            body = getattr(found[0], "body", [])


def test_the_page_on_the_paper_has_every_algorithm_formula_table_and_figure():
    text = (DOCS / "paper.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    missing = [each for each in OF_PAPER if not any(each in row.split("|")[1] for row in rows)]
    assert missing == []


def test_every_study_of_the_paper_has_its_row():
    from agemem_jax.evaluation.paper.studies import STUDIES

    text = (DOCS / "paper.md").read_text()
    named = re.compile(r"(table|figure)\d|theta|distractors")
    of_paper = list(filter(named.fullmatch, STUDIES))
    assert [name for name in of_paper if f"--render={name}`" not in text] == []


@pytest.fixture(scope="module")
def messages():
    """Every text that the code may say, its placeholders as NUL."""
    found = []
    for path in sorted((ROOT / "agemem_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                found.append("".join(p if isinstance(p, str) else "\0" for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[-\d.]*[sdfg]", "\0", node.value))
    found += [path.read_text() for path in sorted((ROOT / "launch").glob("*.sh"))]
    return [text for text in found if " " in text]


def quoted() -> list[str]:
    text = (DOCS / "troubleshooting.md").read_text()
    return re.findall(r"^> (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("message", quoted())
def test_a_message_of_the_troubleshooting_page_is_one_of_the_code(message, messages):
    pieces = [piece.strip() for piece in message.split("…")]
    pieces = [piece for piece in pieces if len(piece) > 3]
    assert pieces
    pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    near = "".join(map(re.escape, pieces[0][:20]))
    assert any(map(pattern.search, messages)), [each for each in messages if re.search(near, each)]


def test_the_page_of_troubleshooting_quotes_many_messages():
    assert len(quoted()) >= 35


def test_pictures_are_what_their_script_draws(tmp_path):
    pictures = load_hook("pictures")
    pictures.write(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (DOCS / "pictures").iterdir()}
    concepts = {path.stem for path in (DOCS / "concepts").iterdir()}
    assert concepts == set(pictures.PICTURES)
    for name in concepts:
        text = (DOCS / "concepts" / f"{name}.md").read_text()
        assert f"(../pictures/{name}.svg)" in text
        new = re.findall(r">([^<>]+)</text>", (tmp_path / f"{name}.svg").read_text())
        old = re.findall(r">([^<>]+)</text>", (DOCS / "pictures" / f"{name}.svg").read_text())
        assert new == old, "run `python docs/hooks/pictures.py`"
