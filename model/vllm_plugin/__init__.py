"""vLLM's way in: `register` runs in every vLLM process through the `vllm.general_plugins` entry point."""


def register() -> None:
    """Register the looped decoder, and configs that transformers does not know. Safe to call again."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from model.vllm_plugin.hf_configs import LOOPED_CONFIGS
    from model.vllm_plugin.setup import ARCHITECTURE

    ModelRegistry.register_model(ARCHITECTURE, f"model.vllm_plugin.looped:{ARCHITECTURE}")
    for config_class in LOOPED_CONFIGS:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
