"""Where the pages are, and the scripts that stand beside them."""

import importlib.util
import pathlib
import sys
import types

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load_hook(name: str) -> types.ModuleType:
    """A script of docs/hooks, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def pages() -> list[pathlib.Path]:
    """All pages, in order."""
    return sorted(DOCS.rglob("*.md"))
