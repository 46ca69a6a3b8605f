"""The looped model: configuration, reference mathematics, checkpoints, vLLM plugin. Stands alone."""
