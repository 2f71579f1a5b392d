"""The service with an engine that does nothing: what is left is the cost of a request itself.

python -m gliclass_fast.bench.serving_null PORT [--ray]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI

from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.logs import use_json
from gliclass_fast.serving.service import Answer
from gliclass_fast.serving.settings import Placement, ServeSettings


def null_app(settings: ServeSettings) -> FastAPI:
    """Returns the app of a service that answers its first request, and repeats that answer from then on."""
    app = create_app(settings)
    service, kept = app.state.service, list[Answer]()
    real = service.answer

    async def answer(arguments: Mapping[str, Any], truncate: bool = True) -> Answer:
        if not kept:
            kept.append(await real(arguments, truncate))
        return kept[0]

    service.answer = answer
    return app


def main(port: int, ray: bool) -> None:
    """Serves until SIGTERM, in one process or with one replica on Ray; both log as the command does."""
    use_json("info")
    settings = ServeSettings(device="cpu")
    if ray:
        from gliclass_fast.serving.ray_service import RayService, run_until_signal

        run_until_signal(RayService(settings, Placement(port=port), build_app=null_app, log_level="info"))
    else:
        uvicorn.run(null_app(settings), port=port, log_config=None, access_log=False, server_header=False)


if __name__ == "__main__":
    from gliclass_fast.bench import serving_null  # whose names a replica can import

    serving_null.main(int(sys.argv[1]), "--ray" in sys.argv)
