"""The reference's own deployment on Ray Serve, with its float32 model on the CPU: one text a request.

`gliclass.serve.serve_gliclass` calls a private part of Ray that 2.60 no longer has, so that the public
`serve.run` runs the class that it deploys. It is a server: `bench --preset serving` measures it.

python -m gliclass_fast.bench.peers.deployment CHECKPOINT PORT THREADS
"""

from __future__ import annotations

import signal
import sys

from gliclass_fast.bench.contenders import Contender, Setting

NAME = "gliclass's deployment"
PACKAGES = ("ray",)
SAME_MODEL = True


def unsuitable(setting: Setting) -> str | None:
    return "a server: --preset serving measures it"


def build(setting: Setting) -> Contender:
    raise NotImplementedError(unsuitable(setting))


def command(checkpoint: str, port: int, threads: int) -> list[str]:
    """Returns what starts it; it is ready when /-/healthz answers."""
    return [sys.executable, "-m", __name__, checkpoint, str(port), str(threads)]


def main(checkpoint: str, port: int, threads: int) -> None:
    """Serves until SIGTERM comes."""
    import ray
    from gliclass.serve.config import GLiClassServeConfig
    from gliclass.serve.server import _build_deployment
    from ray import serve

    config = GLiClassServeConfig(
        checkpoint, device="cpu", dtype="float32", num_gpus_per_replica=0, tokenizer_threads=threads
    )
    ray.init(num_cpus=threads, include_dashboard=False, object_store_memory=100 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(_build_deployment(config), route_prefix=config.route_prefix)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
