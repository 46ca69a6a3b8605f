"""vLLM's way in: `register` runs in every vLLM process through the `vllm.general_plugins` entry point."""


def register() -> None:
    """Register the looped architectures by name, importing nothing heavy. Safe to call again."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(
        "LoopedQwen2ForCausalLM", "model.vllm_plugin.looped_qwen2:LoopedQwen2ForCausalLM"
    )
