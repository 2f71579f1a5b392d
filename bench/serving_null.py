"""The service with an engine that does nothing: what is left is the cost of a request itself.

python -m gliclass_fast.bench.serving_null PORT
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.service import Answer
from gliclass_fast.serving.settings import ServeSettings


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


if __name__ == "__main__":
    uvicorn.run(
        null_app(ServeSettings(device="cpu")), port=int(sys.argv[1]), log_level="warning", access_log=False
    )
