"""A small HTTP service. Requests that wait are scored together, whatever their labels.

    pip install fastapi uvicorn
    python examples/fastapi_service.py
    curl localhost:8000/classify -H "Content-Type: application/json" \
        -d '{"text": "Play some jazz.", "labels": ["music", "weather"]}'

One thread calls the pipeline; while it works, new requests wait in a queue, and its next call takes them all.
Set the environment variable MODEL to a folder or a repository id; the default is the demo checkpoint.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from gliclass_fast import ArgumentError, ZeroShotClassificationPipeline, demo

MODEL = os.environ.get("MODEL", str(demo.PATH))
MOST = 64  # requests in a call

Label = Annotated[str, Field(min_length=1, max_length=500)]


class Request(BaseModel):
    text: str = Field(max_length=100_000)
    labels: list[Label] = Field(min_length=1, max_length=100)
    threshold: float = Field(0.5, ge=0, le=1)


@dataclass
class Waiting:
    request: Request
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def score(pipeline: ZeroShotClassificationPipeline, requests: list[Request]) -> list[Any]:
    """Predictions of every request, or the error that it alone would raise."""
    try:
        found: list[Any] = pipeline(
            [each.text for each in requests],
            [each.labels for each in requests],
            threshold=[each.threshold for each in requests],
        )
    except ArgumentError as error:  # labels that do not fit the window: of one request, maybe, not of all
        if len(requests) == 1:
            return [error]
        return [answer for each in requests for answer in score(pipeline, [each])]
    return found


async def serve(queue: asyncio.Queue[Waiting], pipeline: ZeroShotClassificationPipeline) -> None:
    """Takes everything that waits, scores it, and answers; without end."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1) as thread:
        while True:
            group = [await queue.get()]
            while len(group) < MOST and not queue.empty():
                group.append(queue.get_nowait())
            try:
                answers = await loop.run_in_executor(
                    thread, score, pipeline, [each.request for each in group]
                )
            except Exception as error:  # the service goes on
                answers = [error] * len(group)
            for waiting, answer in zip(group, answers, strict=True):
                if not waiting.answer.done():  # its client may have left
                    waiting.answer.set_result(answer)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    pipeline = ZeroShotClassificationPipeline(MODEL, progress_bar=False)
    app.state.queue = asyncio.Queue()
    server = asyncio.create_task(serve(app.state.queue, pipeline))
    yield
    server.cancel()


app = FastAPI(title="gliclass-fast", lifespan=lifespan)


@app.post("/classify")
async def classify(request: Request) -> list[dict[str, Any]]:
    """The labels of a text at or above the threshold, with their scores."""
    waiting = Waiting(request)
    app.state.queue.put_nowait(waiting)
    answer = await waiting.answer
    if isinstance(answer, ArgumentError):
        raise HTTPException(422, str(answer))
    if isinstance(answer, Exception):
        raise HTTPException(500, "the text could not be scored")
    return list(answer)


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=8000)
