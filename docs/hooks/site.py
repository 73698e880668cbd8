"""What the site has beyond the pages in docs/: API pages from docstrings, and links in code font.

The theme would load one script from elsewhere, which lets search work from a folder; it comes from
docs/assets/iframe-worker instead (npm's iframe-worker 1.0.4, MIT).

A page says `docs/rewards.md` or `agemem_jax/training/loss.py` in code font, which reads well
anywhere; on the site these are links, to the page and to what the API reference has of the module.
A link to a file of the package (`../agemem_jax/training/loss.py`) leads there as well.
"""

import ast
import functools
import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGE = "agemem_jax"
_SHIM = "https://unpkg.com/iframe-worker/shim"
_DEFINED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_QUOTED = re.compile(rf"(?<!\[)`((?:docs/[\w/]+\.md)|(?:{PACKAGE}/[\w/]+\.py))`(?!\])")
_LINK = re.compile(rf"\[`([\w.:]+)`\]\((?:\.\./)+({PACKAGE}/[\w/]+\.py)\)")


@functools.cache
def modules() -> dict[str, list[str]]:
    """Modules with a public name and a docstring, by the package that they are in."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if len(parts) > 1 and not any(part.startswith("_") or "." in part for part in parts):
            names = found.setdefault(parts[1], [])
            if ast.get_docstring(ast.parse(path.read_text())):
                names.append(".".join(parts))
    return found


@functools.cache
def documented(module: str) -> frozenset[str]:
    """What the API page of a module has anchors for: public functions, classes and methods."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, _DEFINED) and ast.get_docstring(node):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else ()
            names |= {
                f"{node.name}.{each.name}"
                for each in inner
                if isinstance(each, _DEFINED) and ast.get_docstring(each)
            }
    return frozenset(name for name in names if not any(p[0] == "_" for p in name.split(".")))


def on_config(config):
    """Hangs the API pages below that of the API."""
    pages = [{f"{PACKAGE}.{package}": f"api/{package}.md"} for package in modules()]
    for section in config.nav:
        for items in section.values():
            if isinstance(items, list) and {"API": "api.md"} in items:
                items[items.index({"API": "api.md"})] = {"API": ["api.md", *pages]}
    return config


def on_post_page(output, page, config):
    """Has the theme's script loaded from this site."""
    local = posixpath.relpath("assets/iframe-worker/shim.js", posixpath.dirname(page.url) or ".")
    return output.replace(_SHIM, local)


def on_post_template(output, template_name, config):
    """The same for the page that says that there is none."""
    return output.replace(_SHIM, "assets/iframe-worker/shim.js")


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
        anchor = f"#{module}.{name}" if name in documented(module) else f"#{module}"
        return f"[`{text}`]({relative(_api(module))}{anchor if _has(module) else ''})"

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
