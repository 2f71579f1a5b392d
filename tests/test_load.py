"""The load generator counts right, wrong, refused and lost answers, and measures from the planned time."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from gliclass_fast.bench import load, load_questions, serving
from gliclass_fast.bench.load import burst, closed_loop, open_loop
from gliclass_fast.bench.load_questions import Question, Target
from gliclass_fast.bench.serving_null import null_app
from gliclass_fast.bench.serving_process import Server, metric
from gliclass_fast.bench.serving_soak import Soak, replicas
from gliclass_fast.bench.serving_tasks import end_in_flight
from gliclass_fast.cli.app import app
from gliclass_fast.serving.ray_environment import free_port
from gliclass_fast.serving.settings import ServeSettings
from tests.stand_in import score
from tools.report import served

pytestmark = pytest.mark.long  # servers in processes of their own
ROOT = Path(__file__).parent.parent


def stand_in() -> Server:
    port = free_port()
    return Server([sys.executable, "-m", "tests.stand_in", str(port)], port)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with stand_in() as running:
        yield running


def question(text: str) -> Question:
    return Question(text, {label: score(text, label) for label in ("sport", "music", "a")})


@pytest.mark.parametrize(
    ("text", "right", "wrong", "status", "fault"),
    [
        ("fine", 1, 0, 200, None),
        ("chunked", 1, 0, 200, None),
        ("near", 1, 0, 200, None),
        ("wrong", 0, 1, 200, "a score is wrong by 2.0e-05"),
        ("fewer", 0, 1, 200, "labels ['a', 'music'], not ['sport', 'music', 'a']"),
        ("twice", 0, 1, 200, "labels ['a', 'music', 'sport'], not ['sport', 'music', 'a']"),
        ("garbage", 0, 1, 200, "no list of labels with scores: b'no JSON'"),
        ("full", 0, 0, 429, None),
        ("broken", 0, 0, 500, """status 500: b'{"error":"internal"}'"""),
    ],
)
def test_every_answer_is_checked(
    server: Server, text: str, right: int, wrong: int, status: int, fault: str | None
) -> None:
    found = asyncio.run(burst(Target(server.port), [question(text)] * 3))
    assert (found.right, found.wrong, found.lost) == (3 * right, 3 * wrong, 0)
    assert found.statuses == {status: 3} and found.without_retry_after == 0
    assert found.faults == ([fault] * 3 if fault else [])
    assert found.errors == (3 if fault else 0)


def test_a_refusal_must_say_when_to_come_again(server: Server) -> None:
    found = asyncio.run(burst(Target(server.port), [question("full"), question("rude")]))
    assert (found.refused, found.without_retry_after, found.errors) == (2, 1, 0)


def test_clients_of_a_closed_loop_wait_for_their_answers(server: Server) -> None:
    found = asyncio.run(closed_loop(Target(server.port), [question("slow one")], clients=8, seconds=0.7))
    assert found.right % 8 == 0 and 8 <= found.right <= 32 and found.errors == 0
    assert 0.2 <= found.percentile(0.0) <= found.percentile(0.5) <= found.percentile(1.0) < found.seconds
    assert found.rate == found.right / found.seconds <= 8 / 0.2


def test_latency_in_an_open_loop_counts_from_the_planned_time(server: Server) -> None:
    """The server answers at once, and the generator's own loop stands still: what it asked late counts."""

    async def stalled() -> load.Tally:
        asyncio.get_running_loop().call_later(0.2, lambda: __import__("time").sleep(0.6))
        return await open_loop(Target(server.port), [question("fine")], rate=100, seconds=1.0)

    found = asyncio.run(stalled())
    assert found.errors == 0 and 60 <= found.right <= 150
    assert found.percentile(0.99) > 0.5 and found.percentile(0.6) > 0.1
    assert found.right == asyncio.run(open_loop(Target(server.port), [question("fine")], 100, 1.0)).right


def test_those_who_leave_are_not_answered(server: Server) -> None:
    found = asyncio.run(burst(Target(server.port), [question("slow")] * 4, leave=True))
    assert found.right == found.lost == 0 and not found.statuses


def test_the_generator_itself_costs_little(server: Server) -> None:
    before = server.cpu()
    found = asyncio.run(closed_loop(Target(server.port), [question("fine")], clients=8, seconds=1.0))
    assert found.errors == 0 and found.client_cpu / found.right < 1e-3
    spent = server.cpu() - before
    assert 0 < spent < 2 * found.seconds and server.resident() > 10 * 2**20


def test_what_a_server_takes_with_it_is_lost() -> None:
    with stand_in() as server:
        assert server.ready_after > 0
        texts = ["slow", "slow", "dies"]
        found = asyncio.run(burst(Target(server.port), list(map(question, texts))))
        assert (found.right, found.lost, found.errors) == (0, 3, 3) and server.wait() == 3
        found = asyncio.run(closed_loop(Target(server.port), [question("fine")], clients=2, seconds=0.2))
        assert found.lost >= 2 and found.right == 0 and "ConnectionRefused" in found.faults[0]


def test_a_server_that_ends_on_request_answers_first() -> None:
    with stand_in() as server:
        found = asyncio.run(end_in_flight(server, Target(server.port), [question("slow")] * 48))
        assert (found.right, found.errors) == (48, 0)
        server.wait()


def test_a_server_that_does_not_start_tells_why() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(RuntimeError, match="ended; its last words:\nno such model"), Server(command, 1):
        pass


def test_metrics_are_summed_over_their_labels() -> None:
    page = '# HELP a_sum x\na_sum{route="/"} 2.0\na_sum{route="/b"} 3.5\na_sum_created 9\nb 1e3\n'
    assert (metric(page, "a_sum"), metric(page, "b"), metric(page, "c")) == (5.5, 1000, 0)


def test_a_soak_kills_the_youngest_replica_and_sees_what_grows() -> None:
    """Two processes that call themselves replicas stand beside the server."""
    port = free_port()
    replica = "(exec -a ray::ServeReplica:app:Model sleep 60) & sleep 0.05;"
    program = f"{2 * replica} {sys.executable} -m tests.stand_in {port}"
    with Server(["bash", "-c", program], port) as server:
        oldest, youngest = replicas(server)
        soak = Soak(server, minutes=0.04, kills=1)
        found = soak.run(Target(port), [question("fine")])
        assert found["right"] > 100 and found["errors"] == 0 and not found["faults"]
        assert soak.killed == [youngest] and replicas(server) == [oldest]
        heavy = next(row for row in found["grown"] if "tests.stand_in" in row["process"])
        assert heavy["MiB"][1] > 10 and abs(heavy["share"]) < 0.5


def test_what_does_nothing_repeats_its_first_answer() -> None:
    with TestClient(null_app(ServeSettings(device="cpu"))) as client:
        bodies = [{"text": text, "labels": ["music", "sport"], "threshold": 0} for text in ("Jazz.", "Goal!")]
        first, second = (client.post("/gliclass", json=body).json() for body in bodies)
    assert first == second and {each["label"] for each in first} == {"music", "sport"}


@pytest.mark.slow
def test_the_service_under_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A short round, in bounds that hold on a machine that does other things too."""
    command = serving.serve_command
    monkeypatch.setattr(serving, "serve_command", lambda port: [*command(port), "--max-queue-tokens", "2048"])
    monkeypatch.setattr(serving, "OVERLOAD", 8.0)  # A second of it fills the queue.
    monkeypatch.setattr(load_questions, "TEXT_WORDS", (4, 20))
    bench = serving.Bench(seconds=0.8, count=64)
    bench.round(0)
    found = bench.found.result()
    values = {row["figure"]: row["value"] for row in found["figures"]}
    assert not found["faults"] and values["errors and wrong answers"] == 0
    assert values["2x overload: neither right nor 429 with Retry-After"] == 0
    assert found["contenders"]["gliclass-fast serve, 2x overload"]["refused"] > 0
    assert values["SIGTERM with 48 in flight: lost"] == 0
    assert values["batches run for clients that left"] <= 3
    assert values["requests/s over the library itself"] > 0.3
    assert values["CPU a text over the library itself"] < 3
    assert values["mean batch over clients"] > 0.2
    assert values["mixed labels over equal ones, requests/s"] > 0.3
    assert values["2x overload: right answers over saturation"] > 0.3
    monkeypatch.setattr(serving, "measure", lambda repeats, step: found)
    file = tmp_path / "found.json"
    done = CliRunner().invoke(app, ["bench", "--preset", "serving", "--device", "cpu", "--json", str(file)])
    assert done.exit_code == 0 and "batches run for clients that left" in done.stdout
    assert json.loads(file.read_text())["figures"] == found["figures"]
    assert "| mean batch over clients | >= 0.4 |" in served(json.loads(file.read_text()))
