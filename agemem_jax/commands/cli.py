"""How the programs start: wrong input is told in one sentence instead of a traceback.

--help shows a program's docstring and the flags that this package defines, --version the
package's version; both need no other flag.
"""

import atexit
import contextlib
import inspect
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator

import jax
from absl import app, flags, logging

import agemem_jax
from agemem_jax.commands import accelerator, out_of_memory
from agemem_jax.models import weights_cache
from agemem_jax.models.backends.cpu import keep_freed_memory
from agemem_jax.training.interruption import Interrupted, Interruption

_HELP = {"--help", "-help", "--helpshort", "-helpshort", "-h", "-?"}
_VERSION = {"--version", "-version"}


def run(main: Callable[[list[str]], None]) -> None:
    """`app.run`, with wrong values and missing files told in one sentence.

    So are files that cannot be read or written, memory that ran out, and Ctrl-C. The traceback
    is logged with `--verbosity=1`. Other errors are bugs and keep theirs. Compiled programs are
    kept in the cache folder (see `weights_cache`).
    """

    def guarded(argv):
        logging.get_absl_handler().addFilter(_is_worth_showing)
        accelerator.prepare()
        keep_compiled_programs()
        keep_freed_memory()
        try:
            main(argv)
        except app.UsageError as error:
            sys.exit(f"Error: {error} --help tells more.")
        except Exception as error:
            told = _sentence(error)
            if told is None:
                raise
            logging.debug("Traceback:", exc_info=True)
            sys.exit(f"Error: {told}")
        except KeyboardInterrupt:
            sys.exit("Error: Interrupted.")

    asked = set(sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None])
    if asked & _HELP:
        print(_help(sys.modules[main.__module__]))
    elif asked & _VERSION:
        print(f"agemem_jax {agemem_jax.__version__}")
    else:
        try:
            app.run(guarded, flags_parser=_parse)
        except SystemExit as ended:
            leave(ended.code)


def leave(code: int | str | None) -> None:
    """Ends the process like `sys.exit`, but without taking the interpreter down first.

    It does what `multiprocessing` does at the end of its processes. Before version 3.14, Python
    takes itself down while other threads go on, and ends a thread that asks for its lock; where
    that thread is inside of a C++ library, as JAX is, the whole process aborts (CPython's
    gh-87135), and a run that has done everything ends with status 134.
    """
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _help(program) -> str:
    """The docstring of a program's module, and the flags of it and of what it shares."""
    modules = flags.FLAGS.flags_by_module_dict()
    own = [name for name in modules if name.startswith("agemem_jax.") or name == sys.argv[0]]
    shown = sorted((flag for name in own for flag in modules[name]), key=lambda flag: flag.name)
    lines = [inspect.cleandoc(program.__doc__), "", "Flags:"]
    for flag in shown:
        named = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
        default = "" if flag.default in (None, False) else f" Default: {flag.default_as_str}."
        lines.append(flags.text_wrap(f"{named}: {flag.help}{default}", 100, "    ", "  "))
    return "\n".join(lines)


def keep_compiled_programs() -> None:
    """A second start finds its compiled programs on disk, unless JAX was told otherwise."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = weights_cache.cache_directory() / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _is_worth_showing(record) -> bool:
    """Leaves out remarks of other libraries: Orbax has ten for each file that it writes."""
    ours = "site-packages" not in pathlib.Path(record.pathname).parts
    return ours or record.levelno > logging.converter.ABSL_TO_STANDARD[logging.INFO]


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; a wrong one and an unknown option are told in one sentence, too."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
        logging.debug("Traceback:", exc_info=True)
        text = " ".join(str(error.args[-1] if error.args else error).split())
        sys.exit(f"Error: wrong flag or config file: {text}")


@contextlib.contextmanager
def stoppable(interruption: Interruption) -> Iterator[None]:
    """What is done inside of this ends with the status of an `Interrupted`, should one come."""
    try:
        with interruption.listening():
            yield
    except Interrupted as stopped:
        print(stopped, file=sys.stderr, flush=True)
        sys.exit(stopped.status)


def _sentence(error: Exception) -> str | None:
    """What a person is told of an error; None where it is a bug."""
    if out_of_memory.is_out_of_memory(error):
        return out_of_memory.sentence(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ValueError | OSError | KeyError | AttributeError | ImportError):
        return str(error) if _is_for_the_user(error) else None
    return None


def _is_for_the_user(error: Exception) -> bool:
    """True for errors that this package raised itself, to be read by a person."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "")
    return module.split(".")[0] in ("agemem_jax", "experiments", "__main__")
