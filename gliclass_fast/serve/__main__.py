"""`python -m gliclass_fast.serve`: the reference's command for a service, with its options.

Where one copy of the model is asked for, it answers from this process; several copies, or a cluster, run on
Ray Serve. `gliclass-fast serve` is our own command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from gliclass_fast.serving.config import GLiClassServeConfig, options_of
from gliclass_fast.serving.config_keys import EFFECTS, WITHOUT_EFFECT

DEFAULT_MODEL = "knowledgator/gliclass-edge-v3.0"  # the reference's
LESS = "A smaller model, --max-batch-size or --max-model-len"  # that needs less memory


def arguments_of(arguments: Sequence[str]) -> tuple[GLiClassServeConfig, str]:
    """Reads a command line and returns the configuration and the address to bind.

    Raises ArgumentError as `GLiClassServeConfig`, OSError for a file, and SystemExit for --help.
    """
    rows = [f"  --{key.replace('_', '-'):<32} {what}" for key, what in EFFECTS.items()]
    dead = ", ".join(f"--{key.replace('_', '-')}" for key in WITHOUT_EFFECT)
    parser = argparse.ArgumentParser(
        prog="python -m gliclass_fast.serve",
        description="Serve a GLiClass model over HTTP, with the options of gliclass.serve.",
        epilog="keys of the configuration:\n" + "\n".join(rows) + f"\n\nread, but without effect: {dead}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file; options count more")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    own, rest = parser.parse_known_args(arguments)
    values = options_of(rest, ("--config", "--host"))
    if own.config is not None:
        return GLiClassServeConfig.from_yaml(own.config, **values), own.host
    return GLiClassServeConfig.from_mapping({"model": DEFAULT_MODEL, **values}), own.host


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP; a mistake ends it with its message and exit code 2."""
    try:
        from typer import Exit

        from gliclass_fast.cli.console import without_traceback
    except ModuleNotFoundError as error:
        print(f"error: a service needs {error.name}: pip install 'gliclass-fast[serve]'", file=sys.stderr)
        sys.exit(2)
    from gliclass_fast.serving.logs import use_json

    use_json("info")
    try:
        without_traceback(_serve, LESS)(sys.argv[1:] if arguments is None else arguments)
    except Exit as ended:
        sys.exit(ended.exit_code)


def _serve(arguments: Sequence[str]) -> None:
    config, host = arguments_of(arguments)
    if config.num_replicas > 1 or config.ray_address is not None:
        from gliclass_fast import serve

        serve.serve_gliclass(config, blocking=True, host=host)
        return
    from gliclass_fast.serving.from_config import placement_of, settings_of  # imports torch
    from gliclass_fast.serving.server import run

    run(settings_of(config), replace(placement_of(config), host=host))


if __name__ == "__main__":
    main()
