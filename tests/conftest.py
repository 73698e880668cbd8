"""Compilation is most of what the tests wait for: its results are kept, as by the binaries.

On a GPU what tests compute themselves is as exact as what they compare it with: not in TF32.
"""

import importlib.util
import os

import jax

from agemem_jax.commands import cli

# Files that take minutes each, which begin first: at the end one worker would wait for another.
_LONG = ("test_documented_commands.py", "test_meshes.py", "test_random_configurations.py")

# Without the extra `serve` these cannot be imported; serving/server/test_extra.py says so.
_SERVE = ("llguidance", "mcp", "prometheus_client", "sse_starlette", "starlette", "uvicorn")
_SERVER_TESTS = (
    "agent_service",
    "app",
    "fields",
    "mcp_server",
    "memory_tool",
    "responses",
    "structured",
    "tool_text",
)
LACKING = [name for name in _SERVE if importlib.util.find_spec(name) is None]
collect_ignore = [f"serving/server/test_{name}.py" for name in _SERVER_TESTS if LACKING]
collect_ignore += ["commands/test_serve.py"] if LACKING else []

cli.keep_compiled_programs()
if "cuda" in os.environ.get("JAX_PLATFORMS", ""):
    jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in _LONG)
