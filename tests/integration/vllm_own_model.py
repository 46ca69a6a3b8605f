"""Runs a checkpoint in vLLM's own implementation of its architecture, as a program: prints JSON.

Arguments: the folder, its model_type, and the prompts as JSON lists of token ids.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

NUM_TOKENS = 12


def main() -> None:
    """Print, for each prompt, the greedy tokens and the logprobs of the likeliest at each step."""
    folder, model_type, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    import torch._dynamo

    torch._dynamo.config.disable = True  # vLLM compiles its logprob counting even when eager
    from transformers import AutoConfig, LlamaConfig
    from vllm import LLM, SamplingParams

    # Published with code of its own for the config, which holds nothing but Llama's keys and the loop's.
    AutoConfig.register(model_type, type("Config", (LlamaConfig,), {"model_type": model_type}))
    llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=256, block_size=32)
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=4)
    inputs: Any = [{"prompt_token_ids": ids} for ids in prompts]
    answers = []
    for output in llm.generate(inputs, params, use_tqdm=False):
        [one] = output.outputs
        logprobs = [{token: lp.logprob for token, lp in step.items()} for step in one.logprobs or []]
        answers.append({"token_ids": list(one.token_ids), "logprobs": logprobs})
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
