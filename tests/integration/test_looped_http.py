"""`loopwright model serve`: vLLM's own server over a looped model, as other programs meet it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.network import LoopedNetwork
from model.testing import save_tiny, tiny_config, tiny_network

pytestmark = pytest.mark.integration

LOOPWRIGHT = [sys.executable, "-c", "from pipeline.cli import main; main()"]
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

    def greedy(self, num_tokens: int, depth: int) -> list[int]:
        """Return what the reference network says."""
        ids = list(PROMPT)
        for _ in range(num_tokens):
            ids.append(int(self.network(torch.tensor(ids), depth=depth).logits_TV[-1].argmax()))
        return ids[len(PROMPT) :]


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*LOOPWRIGHT, "model", "serve", "--model", str(folder), "--port", str(port), "--metrics"]
    command += ["--set", "engine.max_model_tokens=512", "--set", "engine.kv_cache_bytes=67108864"]
    log = folder.parent / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--", "--served-model-name", "looped"], stdout=out, stderr=out)
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
    assert choice["token_ids"] == server.greedy(8, server.network.config.recurrence_depth)


def test_an_answer_brings_the_report_that_its_request_wants(server: Server) -> None:
    answer = server.complete(recurrence_depth=2, loop_report=1).json()
    report = answer["kv_transfer_params"]["loop_report"]
    assert list(report["depth_counts"]) == ["2"]
    assert len(report["latent_change"]) == len(report["hidden_rms"]) == 2
    assert not server.complete(recurrence_depth=2).json().get("kv_transfer_params")


BAD = {
    "recurrence_depth 0": {"recurrence_depth": 0},
    "recurrence_depth 9": {"recurrence_depth": 9},
    "recurrence_depth 'two'": {"recurrence_depth": "two"},
    "exit_rule 'act'": {"exit_rule": "act"},
    "exit_threshold -1": {"exit_rule": "latent", "exit_threshold": -1},
}


def test_what_cannot_be_served_is_refused_alone_while_others_run(server: Server) -> None:
    good = {**body(200, recurrence_depth=3), "stream": True}
    token_ids: list[int] = []
    with server.client.stream("POST", "/v1/completions", json=good) as stream:
        lines = stream.iter_lines()
        token_ids += tokens_of(next(line for line in lines if tokens_of(line)))
        for name, xargs in BAD.items():
            refused = server.complete(**xargs)
            assert refused.status_code == 400, name
            message = refused.json()["error"]["message"]
            assert name.split()[0] in message
            assert name.split()[1] in message
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
