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
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from siccs_net.errors import SiccsError

logger = logging.getLogger("siccs_net")


@dataclass
class Run:
    """A command in progress: its arguments and what its report will say.

    A verb adds to `inputs` and `outputs` (path to SHA-256), `settings` and `results`.
    """

    verb: str
    args: argparse.Namespace
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def show_progress(self) -> bool:
        """Whether progress bars may be shown (they stay silent when not on a terminal)."""
        return not self.args.quiet

    def say(self, text: str = "") -> None:
        """Print a result."""
        print(text, flush=True)


class _Terminated(BaseException):
    """SIGTERM outside a training."""


def run_command(verb: str, arguments: list[str]) -> int:
    """Parse, run and report one command; return its exit code. Errors are one line; --verbose shows the traceback."""
    module = importlib.import_module(f"siccs_net.cli.{verb}")
    args = module.make_parser().parse_args(arguments)
    run = Run(verb, args)
    _set_up(args)
    started = time.monotonic()
    code, message = _guarded(module, run)
    if message:
        print(f"siccs_{verb}: {message}", file=sys.stderr, flush=True)
    if args.report is not None:
        _write_report(run, code, message, time.monotonic() - started)
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
        return 3, "out of memory. Use fewer workers (-np), a smaller patch, or a machine with more memory"
    except OSError as error:
        _trace(run)
        where = f"{error.filename}: " if error.filename else ""
        return 3, f"{where}{error.strerror or error}"
    except Exception as error:  # noqa: BLE001 (the last resort of a command: one line and exit code 5)
        _trace(run)
        return 5, f"internal error: {type(error).__name__}: {error}. Please report it with the output of --verbose"


def _trace(run: Run) -> None:
    if run.args.verbose:
        traceback.print_exc()


def _set_up(args: argparse.Namespace) -> None:
    level = logging.WARNING if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(level)
    signal.signal(signal.SIGTERM, _terminate)
    # Threads that spin while they wait made a training beside other work 20 times slower; must precede torch's import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_heap()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def keep_heap() -> None:
    """Tell glibc to keep freed memory: handing every large tensor back to the kernel cost a third of the time.

    For our commands only, never on import; memory use stays at its peak.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        logger.debug("not glibc: the allocator is left as it is")
        return
    trim_threshold, mmap_max, top_pad = -1, -4, -2
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 << 20)


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
