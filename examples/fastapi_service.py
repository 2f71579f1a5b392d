"""The service as part of an app of your own: it adds a route to those of `gliclass-fast serve`.

    pip install ".[serve]"
    python examples/fastapi_service.py
    curl localhost:8000/topic -H "Content-Type: application/json" -d '{"text": "Play some jazz."}'

Requests that wait are scored together, whatever their labels and whichever route they came by. Set the
environment variable MODEL to a folder or a repository id; the default is the demo checkpoint.
"""

from __future__ import annotations

import os

from fastapi import Request
from pydantic import BaseModel

from gliclass_fast import demo
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.settings import ServeSettings

TOPICS = ["music", "weather", "travel", "restaurant"]

app = create_app(ServeSettings(model=os.environ.get("MODEL", str(demo.PATH))))


class Question(BaseModel):
    text: str


@app.post("/topic")
async def topic(request: Request, question: Question) -> dict[str, str]:
    """Answers with the one topic that fits best."""
    arguments = {"texts": question.text, "labels": TOPICS, "classification_type": "single-label"}
    answer = await request.app.state.service.answer(arguments)
    [[best]] = answer.results
    return {"topic": best["label"]}


if __name__ == "__main__":
    from gliclass_fast.serving.logs import use_json
    from gliclass_fast.serving.server import Server, config_of
    from gliclass_fast.serving.settings import Placement

    use_json("info")
    # at SIGTERM and at ctrl-C it answers what waits, and ends with code 0
    Server(config_of(app, Placement()), app.state.service).run()
