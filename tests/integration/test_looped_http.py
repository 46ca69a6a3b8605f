"""`loopwright model serve`: vLLM's own server over a looped model, as other programs meet it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.exits import ExitRequest
from model.network import LoopedNetwork
from model.testing import save_tiny, tiny_config, tiny_network
from tests.integration.looped_engine import serve_command

pytestmark = pytest.mark.integration

PROMPT = tuple(i * 37 % 251 for i in range(40))
START_SECONDS = 300


@dataclass(frozen=True)
class Server:
    """A server, and the network whose checkpoint it serves."""

    client: httpx.Client
    network: LoopedNetwork

    def complete(self, *, num_tokens: int = 8, **xargs: Any) -> httpx.Response:
        """Ask for a greedy completion of PROMPT."""
        return self.client.post("/v1/completions", json=body(num_tokens, **xargs))

    def greedy(self, num_tokens: int, depth: int | None, stop: ExitRequest | None = None) -> list[int]:
        """Return what the reference network says."""
        return self.network.greedy(list(PROMPT), num_tokens, depth=depth, exit_request=stop)


def body(num_tokens: int, **xargs: Any) -> dict[str, Any]:
    return {
        "model": "looped",
        "prompt": list(PROMPT),
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "vllm_xargs": xargs or None,
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    network = tiny_network(tiny_config("ouro"))
    folder = save_tiny(network, tmp_path_factory.mktemp("served") / "looped")
    command, port = serve_command(folder, "--metrics", "--", "--served-model-name", "looped")
    log = folder.parent / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    try:
        wait_until_healthy(client, process, log)
        yield Server(client, network)
    finally:
        process.terminate()
        process.wait(60)


def wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_request_runs_at_the_depth_that_it_names(server: Server, depth: int) -> None:
    answer = server.complete(recurrence_depth=depth).json()
    assert answer["choices"][0]["token_ids"] == server.greedy(8, depth)


def test_a_request_that_names_none_runs_as_the_checkpoint_was_trained(server: Server) -> None:
    [choice] = server.complete().json()["choices"]
    assert choice["token_ids"] == server.greedy(8, None)


def test_an_answer_brings_the_report_that_its_request_wants(server: Server) -> None:
    answer = server.complete(recurrence_depth=2, loop_report=1).json()
    report = answer["kv_transfer_params"]["loop_report"]
    assert list(report["depth_counts"]) == ["2"]
    assert len(report["latent_change"]) == len(report["hidden_rms"]) == 2
    assert not server.complete(recurrence_depth=2).json().get("kv_transfer_params")


def test_a_request_stops_by_the_rule_that_it_names(server: Server) -> None:
    asked = {"recurrence_depth": 4, "exit_rule": "latent", "exit_threshold": 0.6}
    answer = server.complete(num_tokens=16, **asked, loop_report=1).json()
    assert answer["choices"][0]["token_ids"] == server.greedy(16, 4, ExitRequest("latent", 0.6))
    assert min(answer["kv_transfer_params"]["loop_report"]["depth_counts"]) < "4"


def test_a_chat_runs_at_the_depth_that_it_names_and_brings_its_report(server: Server) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    asked = {**body(5, recurrence_depth=2, loop_report=1), **chat}
    answer = server.client.post("/v1/chat/completions", json=asked).json()
    num_run = answer["usage"]["total_tokens"] - 1  # the last token is sampled, not run
    assert answer["kv_transfer_params"]["loop_report"]["depth_counts"] == {"2": num_run}
    refused = server.client.post("/v1/chat/completions", json={**body(5, recurrence_depth=0), **chat})
    assert refused.status_code == 400


def test_json_true_is_depth_1(server: Server) -> None:
    # vLLM reads numbers that way, before anything of ours sees the request.
    assert server.complete(recurrence_depth=True).json()["choices"][0]["token_ids"] == server.greedy(8, 1)


DEPTHS = "recurrence_depth must be a whole number from 1 to 4"
BAD: list[tuple[dict[str, Any], str]] = [
    ({"recurrence_depth": 0}, f"{DEPTHS}, got 0"),
    ({"recurrence_depth": False}, f"{DEPTHS}, got 0"),
    ({"recurrence_depth": 99}, f"{DEPTHS}, got 99"),
    ({"recurrence_depth": 2.0}, f"{DEPTHS}, got 2.0"),
    ({"recurrence_depth": "two"}, f"{DEPTHS}, got 'two'"),
    ({"exit_rule": "act"}, "exit_rule must be one of none, hazard, latent, kl, argmax, got 'act'"),
    ({"exit_rule": "latent", "exit_threshold": -1}, "exit_threshold must be a number above 0, got -1"),
    (
        {"exit_rule": "hazard", "exit_threshold": 1.5},
        "exit_threshold of hazard must be a probability above 0, got 1.5",
    ),
]


def test_what_cannot_be_served_is_refused_alone_while_others_run(server: Server) -> None:
    good = {**body(200, recurrence_depth=3), "stream": True}
    token_ids: list[int] = []
    with server.client.stream("POST", "/v1/completions", json=good) as stream:
        lines = stream.iter_lines()
        token_ids += tokens_of(next(line for line in lines if tokens_of(line)))
        for xargs, message in BAD:
            refused = server.complete(**xargs)
            assert refused.status_code == 400, message
            assert refused.json()["error"]["message"] == message
        for line in lines:
            token_ids += tokens_of(line)
    assert token_ids == server.greedy(200, 3)


def tokens_of(line: str) -> list[int]:
    """The tokens that a line of a stream brings."""
    data = line.removeprefix("data: ")
    choices = json.loads(data)["choices"] if data.startswith("{") else []
    return choices[0].get("token_ids") or [] if choices else []


def test_the_page_of_metrics_counts_tokens_by_depth(server: Server) -> None:
    def count() -> float:
        page = server.client.get("/metrics").text.splitlines()
        lines = [line for line in page if line.startswith('loopwright_loop_tokens_total{depth="4"')]
        return sum(float(line.split()[-1]) for line in lines)

    before = count()
    server.complete(num_tokens=5, recurrence_depth=4)
    assert count() > before
