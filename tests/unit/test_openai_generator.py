"""OpenAI-compatible servers, scripted at the HTTP edge."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from pipeline.core import Message, Prompt, Sampling, Step
from pipeline.exceptions import EnvironmentBrokenError, GeneratorError, InputError
from workers.openai_generator import EndpointSettings, OpenAIGenerator

PROMPT = Prompt(messages=(Message("user", "write f"),), prefill="def f(")


def generator(handler: Callable[[httpx.Request], httpx.Response], **settings) -> OpenAIGenerator:
    return OpenAIGenerator(
        EndpointSettings(url="http://server/v1", retry_wait_seconds=0.001, **settings),
        transport=httpx.MockTransport(handler),
    )


class Server:
    """Serves one model, answers each request with its seed, and keeps what was asked."""

    def __init__(self, *, is_vllm: bool = False, text: str = "x)", logprobs: dict | None = None) -> None:
        self.entry = {"id": "coder", "owned_by": "vllm" if is_vllm else "someone"}
        if is_vllm:
            self.entry["max_model_len"] = 2048
        self.text = text
        self.logprobs = logprobs
        self.bodies: list[dict] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [self.entry]})
        body = json.loads(request.content)
        self.bodies.append(body)
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"count": 17})
        choice = {
            "message": {"content": f"{self.text}#{body['seed']}"},
            "finish_reason": "length",
            "logprobs": self.logprobs,
        }
        usage = {"prompt_tokens": 11, "completion_tokens": 5}
        return httpx.Response(200, json={"choices": [choice], "usage": usage})


async def test_each_sample_is_a_request_with_its_own_seed_and_comes_back_in_order():
    server = Server()
    rows = await generator(server).generate([PROMPT, PROMPT], Sampling(num_samples=3, seed=10))
    assert [[c.text for c in row] for row in rows] == [["x)#10", "x)#11", "x)#12"]] * 2
    assert {(c.num_prompt_tokens, c.num_completion_tokens, c.finish_reason) for c in rows[0]} == {
        (11, 5, "length")
    }


async def test_a_vllm_server_goes_on_with_the_prefill_and_counts_tokens_exactly():
    server = Server(is_vllm=True)
    subject = generator(server)
    await subject.generate([PROMPT], Sampling())
    assert server.bodies[0]["messages"][-1] == {"role": "assistant", "content": "def f("}
    assert server.bodies[0]["continue_final_message"] is True
    assert server.bodies[0]["add_generation_prompt"] is False
    assert await subject.count_tokens([PROMPT]) == [17]
    assert (await subject.info()).max_model_tokens == 2048


async def test_a_prefill_that_a_server_repeats_is_not_in_the_text():
    server = Server(text="def f(x)")
    [[completion]] = await generator(server).generate([PROMPT], Sampling())
    assert completion.text == "x)#0"
    assert "continue_final_message" not in server.bodies[0]


async def test_depth_travels_with_a_salt_of_its_own_at_every_depth():
    server = Server(is_vllm=True)
    subject = generator(server, max_recurrence_depth=4)
    for depth in (1, 2, 4):
        [[completion]] = await subject.generate([PROMPT], Sampling(recurrence_depth=depth))
        assert completion.recurrence_depth == depth
    assert [body["vllm_xargs"] for body in server.bodies] == [{"recurrence_depth": d} for d in (1, 2, 4)]
    assert len({body["cache_salt"] for body in server.bodies}) == 3


@pytest.mark.parametrize("depth", [0, 2, 9])
async def test_depth_is_refused_where_the_server_has_no_loop(depth):
    with pytest.raises(InputError, match="recurrence_depth"):
        await generator(Server()).generate([PROMPT], Sampling(recurrence_depth=depth))


async def test_plain_servers_get_no_fields_that_they_do_not_know():
    server = Server()
    await generator(server).generate([PROMPT], Sampling(stop=("\n\n",), min_p=0.05))
    assert set(server.bodies[0]) == {
        "model", "messages", "temperature", "top_p", "seed", "max_tokens", "stop"
    }  # fmt: skip


async def test_a_vllm_server_is_told_min_p():
    server = Server(is_vllm=True)
    await generator(server).generate([PROMPT], Sampling(temperature=0.8, min_p=0.05))
    assert server.bodies[0]["min_p"] == 0.05


async def test_a_vllm_server_tells_what_else_it_might_have_said_and_no_other_is_asked():
    others = [{"token": " -", "logprob": -0.5}, {"token": " +", "logprob": -1.5}]
    logprobs = {"content": [{"token": " -", "logprob": -0.5, "top_logprobs": others}]}
    server = Server(is_vllm=True, logprobs=logprobs)
    [[completion]] = await generator(server).generate([PROMPT], Sampling(num_alternatives=2))
    assert completion.steps == (Step(" -", -0.5, ((" +", -1.5),)),)
    assert (server.bodies[0]["logprobs"], server.bodies[0]["top_logprobs"]) == (True, 2)
    [[plain]] = await generator(Server()).generate([PROMPT], Sampling(num_alternatives=2))
    assert plain.steps == ()


async def test_a_grammar_is_refused_where_only_vllm_would_honour_it():
    with pytest.raises(InputError, match="grammar"):
        await generator(Server()).generate([PROMPT], Sampling(grammar='root ::= "a"'))


async def test_token_estimate_is_never_below_a_token_for_three_bytes():
    text = "for index in range(10):\n    print(index)\n" * 20
    [estimate] = await generator(Server()).count_tokens([Prompt(messages=(Message("user", text),))])
    assert estimate > len(text) / 3


async def test_passing_failures_are_retried_and_cost_no_sample():
    server, failures = Server(), Counter()

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("completions") and failures["calls"] < 2:
            failures["calls"] += 1
            return httpx.Response((429, 503)[failures["calls"] - 1], headers={"retry-after": "0"})
        return server(request)

    [[completion]] = await generator(handler).generate([PROMPT], Sampling())
    assert completion.text == "x)#0"
    assert failures["calls"] == 2


async def test_a_server_that_stays_down_is_named_after_the_last_attempt():
    attempts = Counter()

    def handler(request: httpx.Request) -> httpx.Response:
        attempts["calls"] += 1
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.raises(GeneratorError, match=r"http://server/v1 failed 4 times: .*connection refused"):
        await generator(handler).info()
    assert attempts["calls"] == 4


async def test_a_refused_key_names_the_variable_and_is_not_retried(monkeypatch):
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(401, json={"error": {"message": "bad key"}})

    monkeypatch.setenv("MY_KEY", "secret")
    with pytest.raises(EnvironmentBrokenError, match="bad key") as caught:
        await generator(handler, api_key_variable="MY_KEY").info()
    assert "MY_KEY" in caught.value.hint
    assert seen == ["Bearer secret"]


async def test_a_refused_prompt_is_an_input_error_in_the_servers_words():
    server = Server()

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("completions"):
            return httpx.Response(400, json={"message": "prompt is longer than 2048 tokens"})
        return server(request)

    with pytest.raises(InputError, match="longer than 2048"):
        await generator(handler).generate([PROMPT] * 3, Sampling())


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}'])
async def test_nonsense_from_a_server_is_its_failure_and_not_a_crash(answer):
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("models"):
            return httpx.Response(200, json={"data": []})
        return httpx.Response(200, content=answer)

    with pytest.raises(GeneratorError):
        await generator(handler, model="coder").generate([PROMPT], Sampling())


async def test_several_models_and_no_choice_is_asked_back():
    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": [{"id": "small"}, {"id": "large"}]})

    with pytest.raises(InputError, match="2 models") as caught:
        await generator(handler).info()
    assert "small, large" in caught.value.hint
    assert (await generator(handler, model="large").info()).model == "large"


async def test_no_more_requests_run_at_once_than_allowed():
    server, running, peak = Server(), 0, 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return server(request)

    await generator(handler, num_parallel=2).generate([PROMPT], Sampling(num_samples=6))
    assert peak == 2


async def test_progress_counts_every_completion():
    server, reports = Server(), []
    subject = generator(server)
    subject.on_progress = lambda *numbers: reports.append(numbers)
    await subject.generate([PROMPT], Sampling(num_samples=2))
    assert reports == [(1, 2, 5), (2, 2, 10)]
