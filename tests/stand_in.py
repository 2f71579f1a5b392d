"""Stands in for our server where the load generator is tested: a text's first word says how it answers.

python -m tests.stand_in PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

app = FastAPI()


def score(text: str, label: str) -> float:
    """What stands in for a score."""
    return len(label) / (len(label) + len(text))


@app.get("/health")
@app.get("/ready")
async def ready() -> Response:
    return Response()


@app.post("/gliclass", response_model=None)
async def gliclass(request: Request) -> Response:
    body = await request.json()
    how, text, labels = body["text"].split()[0], body["text"], body["labels"]
    found = [{"label": label, "score": score(text, label)} for label in reversed(labels)]
    if how == "dies":
        os._exit(3)
    elif how == "full":
        return JSONResponse({"error": "full"}, 429, {"Retry-After": "1"})
    elif how == "rude":
        return JSONResponse({"error": "full"}, 429)
    elif how == "broken":
        return JSONResponse({"error": "internal"}, 500)
    elif how == "slow":
        await asyncio.sleep(0.2)
    elif how == "near":
        found[0]["score"] += 5e-6
    elif how == "wrong":
        found[0]["score"] += 2e-5
    elif how == "fewer":
        found.pop()
    elif how == "twice":
        found.append(found[0])
    elif how == "garbage":
        return Response(b"no JSON")
    response = JSONResponse(found)
    return StreamingResponse(_halves(bytes(response.body))) if how == "chunked" else response


async def _halves(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    yield body[len(body) // 2 :]


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
