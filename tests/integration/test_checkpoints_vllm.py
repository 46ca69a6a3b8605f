"""IQuest-Loop is the one looped architecture that this vLLM carries: its model and ours compute the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.checkpoints.loading import load_network
from model.testing import make_tiny_checkpoint

pytestmark = pytest.mark.integration

PROMPTS = [[i * 37 % 251 for i in range(n)] for n in (3, 5, 40, 100)]


@pytest.mark.parametrize("num_loops", [2, 3])
def test_a_published_checkpoint_is_to_us_what_it_is_to_vllm(num_loops: int, tmp_path: Path) -> None:
    make_tiny_checkpoint("iquest-loop", tmp_path, recurrence_depth=num_loops, max_recurrence_depth=num_loops)
    command = [sys.executable, "-m", "tests.integration.vllm_own_model", str(tmp_path), "iquestloopcoder"]
    done = subprocess.run(
        [*command, json.dumps(PROMPTS)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    network = load_network(tmp_path)
    for prompt, answer in zip(PROMPTS, json.loads(done.stdout.splitlines()[-1]), strict=True):
        tokens = answer["token_ids"]
        assert network.greedy(prompt, len(tokens)) == tokens
        log_probs = network(torch.tensor(prompt + tokens[:-1])).logits_TV[len(prompt) - 1 :].log_softmax(-1)
        for ours, theirs in zip(log_probs, answer["logprobs"], strict=True):
            for token, logprob in theirs.items():
                assert float(ours[int(token)]) == pytest.approx(logprob, abs=2e-5)
