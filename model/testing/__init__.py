"""For tests, ours and yours: tiny random checkpoints, and a suite to hold any looped decoder against."""

from model.testing.tiny import make_tiny_checkpoint, make_tiny_qwen2, save_tiny, tiny_config, tiny_network

__all__ = ["make_tiny_checkpoint", "make_tiny_qwen2", "save_tiny", "tiny_config", "tiny_network"]
