"""What every command does around its verb: logging, signals, errors to exit codes, the run report."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from siccs_net.cli.several import is_first
from siccs_net.errors import SiccsError

if TYPE_CHECKING:
    from siccs_net.io.dataset import Case

logger = logging.getLogger("siccs_net")
_FIRST_PROCESS_SPEAKS_S = 3.0
_NO_MEMORY = "out of memory. Use fewer workers (-np), a smaller patch, or a machine with more memory"
_NO_DEVICE_MEMORY = (
    "the device is out of memory. Use a smaller batch (--set batch_size=1) or patch, end other programs on the device, "
    "or use --device cpu"
)


@dataclass
class Run:
    """A command in progress: its arguments and what its report will say.

    A verb adds to `inputs` and `outputs` (path to SHA-256), `settings` and `results`.
    """

    verb: str
    args: argparse.Namespace
    arguments: Sequence[str] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def show_progress(self) -> bool:
        """Whether progress bars may be shown (they stay silent when not on a terminal)."""
        return not self.args.quiet

    @property
    def reported(self) -> bool:
        """Whether a run report was asked for, so that hashing for it is worth its time."""
        return self.args.report is not None

    def add_case(self, case: Case, sha256: Sequence[str]) -> None:
        """Add a case's files to the inputs, with the hashes that their one reading gave."""
        paths = [*case.images, *([case.label] if case.label else [])]
        self.inputs |= {str(path): digest for path, digest in zip(paths, sha256, strict=True)}

    def say(self, text: str = "") -> None:
        """Print a result."""
        print(text, flush=True)


class _Terminated(BaseException):
    """SIGTERM outside a training."""


def run_command(verb: str, arguments: list[str]) -> int:
    """Parse, run and report one command; return its exit code. Errors are one line; --verbose shows the traceback."""
    module = importlib.import_module(f"siccs_net.cli.{verb}")
    args = module.make_parser().parse_args(arguments)
    run = Run(verb, args, tuple(arguments))
    _set_up(args)
    started = time.monotonic()
    code, message = _guarded(module, run)
    if not is_first():
        return _end_of_helper(code, message)
    if message:
        print(f"siccs_{verb}: {message}", file=sys.stderr, flush=True)
    if run.reported:
        return _report(run, code, message, time.monotonic() - started)
    return code


def _end_of_helper(code: int, message: str | None) -> int:
    """End a further process of a training on several devices. It speaks only of an error that is its alone.

    What the first process fails with too ends this one while it waits.
    """
    if code in (0, 130, 143):
        return code
    try:
        time.sleep(_FIRST_PROCESS_SPEAKS_S)
    except (KeyboardInterrupt, _Terminated):
        return code
    print(message, file=sys.stderr, flush=True)
    return code


def _report(run: Run, code: int, message: str | None, seconds: float) -> int:
    """Write the report; return the verb's own code, or 3 when only the report failed."""
    try:
        _write_report(run, code, message, seconds)
    except (SiccsError, OSError) as error:
        _trace(run)
        print(f"siccs_{run.verb}: the report was not written: {_one_line(error)}", file=sys.stderr, flush=True)
        return code or 3
    return code


def _guarded(module: Any, run: Run) -> tuple[int, str | None]:
    """Run the verb and turn whatever it raises into an exit code and one line."""
    try:
        return int(module.run(run) or 0), None
    except SiccsError as error:
        _trace(run)
        return error.exit_code, str(error)
    except (KeyboardInterrupt, _Terminated) as error:
        return (130 if isinstance(error, KeyboardInterrupt) else 143), "stopped by a signal"
    except BrokenPipeError:
        return 0, None
    except MemoryError:
        _trace(run)
        return 3, _NO_MEMORY
    except OSError as error:
        _trace(run)
        return 3, _one_line(error)
    except Exception as error:  # noqa: BLE001 (the last resort of a command: one line and exit code 5)
        _trace(run)
        return _unexpected(error)


def _one_line(error: SiccsError | OSError) -> str:
    if isinstance(error, SiccsError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _unexpected(error: Exception) -> tuple[int, str]:
    """Tell torch's ways of running out of memory (known by name and text: torch may not be loaded) from our faults."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "not enough memory" in text):
        return 3, _NO_MEMORY
    if type(error).__name__ == "OutOfMemoryError" or (isinstance(error, RuntimeError) and "out of memory" in text):
        return 3, _NO_DEVICE_MEMORY
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        # torch raises this in the middle of whatever the main process is doing when a worker is killed.
        return 5, f"a loader worker died; a system short of memory kills workers. Use fewer (--set workers=1): {text}"
    return 5, f"internal error: {type(error).__name__}: {text}. Please report it with the output of --verbose"


def _trace(run: Run) -> None:
    if run.args.verbose:
        traceback.print_exc()


def _set_up(args: argparse.Namespace) -> None:
    level = logging.WARNING if args.quiet or not is_first() else logging.DEBUG if args.verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(level)
    signal.signal(signal.SIGTERM, _terminate)
    # Threads that spin while they wait made a training beside other work 20 times slower; must precede torch's import.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        # Less than a millisecond of spinning bridges the gap between two operations of a pass.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    keep_heap()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def keep_heap() -> None:
    """Tell glibc to keep freed memory: handing every large tensor back to the kernel cost a third of the time.

    For our commands only, never on import; memory use stays at its peak.
    """
    trim_threshold, mmap_max, top_pad = -1, -4, -2
    _tell_allocator({mmap_max: 0, trim_threshold: 2**31 - 1, top_pad: 64 << 20})


def share_heap() -> None:
    """Tell glibc to use one heap for all threads, so that what one keeps another can use.

    For few large arrays; threads that ask for many small ones at once would wait for each other.
    """
    arena_max = -8
    _tell_allocator({arena_max: 1})


def _tell_allocator(options: dict[int, int]) -> None:
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        logger.debug("not glibc: the allocator is left as it is")
        return
    for option, value in options.items():
        libc.mallopt(option, value)


def _write_report(run: Run, code: int, message: str | None, seconds: float) -> None:
    from importlib.metadata import version

    from siccs_net import __version__
    from siccs_net.io import files

    packages = ("torch", "numpy", "scipy", "scikit-image", "nibabel", "blosc2", "safetensors", "pydantic")
    body = {
        "schema": "siccs_net.run_report",
        "version": 1,
        "command": f"siccs_{run.verb}",
        "arguments": {name: _plain(value) for name, value in vars(run.args).items()},
        "exit_code": code,
        "error": message,
        "seconds": round(seconds, 3),
        "versions": {"siccs_net": __version__, **{name: version(name) for name in packages}},
        "settings": run.settings,
        "inputs_sha256": run.inputs,
        "outputs_sha256": run.outputs,
        "results": run.results,
    }
    files.write_bytes(Path(run.args.report), (json.dumps(body, indent=1) + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float | str | bool | type(None)) else str(value)
