"""How a command ends: one message, and the exit code of its kind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from .errors import DfvtError

INTERRUPTED = 130

#: Packages that a command may find missing, and the extra that brings each.
_EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnxsim": "export",
    "safetensors": "export",
    "onnxruntime": "cpu",
    "modelopt": "convert",
    "tritonclient": "client",
    "google": "client",
    "tensorrt": "tensorrt",
    "tensorrt_rtx_bindings": "rtx",
    "jinja2": "validate",
    "pycocotools": "validate",
}


@contextmanager
def command(debug: bool) -> Iterator[None]:
    """What every command runs in.

    A signal that ends the program unwinds like Ctrl-C, so that nothing is left behind.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        yield
        sys.stdout.flush()
        return
    except DfvtError as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = INTERRUPTED, "interrupted"
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRAS:
            raise
        code = 3
        message = f"{package} is not installed; run: pip install 'dfvt-deploy[{_EXTRAS[package]}]'"
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except OSError as error:  # full disk, no permission: the machine's, not ours
        code, message = 3, f"{error.filename or 'system'}: {error.strerror or error}"
    except typer.Exit:
        raise
    except Exception as error:
        code = 1
        message = f"a bug of dfvt-deploy: {type(error).__name__}: {error}; please report it"
    if debug:
        import traceback

        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code)
