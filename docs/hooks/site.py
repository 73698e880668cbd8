"""What the site has beyond the pages in docs/: API pages from docstrings, and links in code font.

A page says `docs/rewards.md` or `agemem_jax/training/loss.py` in code font, which reads well
anywhere; on the site these are links, to the page and to what the API reference has of the module.
A link to a file of the package (`../agemem_jax/training/loss.py`) leads there as well.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGE = "agemem_jax"
_QUOTED = re.compile(rf"(?<!\[)`((?:docs/[\w/]+\.md)|(?:{PACKAGE}/[\w/]+\.py))`(?!\])")
_LINK = re.compile(rf"\[`([\w.:]+)`\]\((?:\.\./)+({PACKAGE}/[\w/]+\.py)\)")


def modules() -> dict[str, list[str]]:
    """Modules with a public name, by the package or top-level module that they are in."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if len(parts) > 1 and not any(part.startswith("_") or "." in part for part in parts):
            found.setdefault(parts[1], []).append(".".join(parts))
    return found


def on_files(files, config):
    """Adds a page for each package."""
    for package, names in modules().items():
        text = f"# agemem_jax.{package}\n\n" + "\n\n".join(f"::: {name}" for name in names)
        files.append(File.generated(config, f"api/{package}.md", content=text + "\n"))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns names of pages and modules into links, outside of code."""
    here = posixpath.dirname(page.file.src_uri)

    def relative(target: str) -> str:
        return posixpath.relpath(target, here or ".")

    def quoted(match):
        name = match[1]
        if name.startswith("docs/"):
            target = name.removeprefix("docs/")
            known = target in files.src_uris and target != page.file.src_uri
            return f"[`{name}`]({relative(target)})" if known else match[0]
        module = name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        return f"[`{name}`]({relative(_api(module))}#{module})" if _has(module) else match[0]

    def linked(match):
        text = match[1]
        module, _, name = text.partition(":")
        anchor = f"{module}.{name}" if name else module
        return f"[`{text}`]({relative(_api(module))}#{anchor})"

    lines, fenced = [], False
    for line in markdown.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if not fenced and not line.startswith("    "):
            line = _LINK.sub(linked, _QUOTED.sub(quoted, line))
        lines.append(line)
    return "\n".join(lines) + "\n"


def _api(module: str) -> str:
    return f"api/{module.split('.')[1]}.md"


def _has(module: str) -> bool:
    return module in modules().get(module.split(".")[1], ())
