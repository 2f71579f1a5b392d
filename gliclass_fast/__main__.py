"""Entry point of the `gliclass-fast` command: it says what to install where a library is missing."""

from __future__ import annotations

import importlib.util
import sys


def main() -> None:
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"the command line needs {' and '.join(missing)}: pip install 'gliclass-fast[cli]'")
    from gliclass_fast.cli.app import app

    app()


if __name__ == "__main__":
    main()
