"""Entry point of the `gliclass-fast` command: it says what to install where a library is missing."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys


def main() -> None:
    """Runs the command. Text goes in and out as UTF-8, whatever the console's encoding is."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ctrl-C ends it at once, until there is work to keep
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the command began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        needs = f"the command line needs {' and '.join(missing)}"
        print(f"error: {needs}: pip install 'gliclass-fast[cli]'", file=sys.stderr)
        sys.exit(2)
    from gliclass_fast.cli.app import app

    try:
        app()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # who read the help has seen enough
            sys.exit(0)
        raise
    except OSError as error:  # a help that cannot be written; commands say themselves what failed
        print(f"error: {error}", file=sys.stderr)
        sys.stdout = None  # type: ignore[assignment]  # else Python would fail on it when it ends
        sys.exit(2)


if __name__ == "__main__":
    main()
