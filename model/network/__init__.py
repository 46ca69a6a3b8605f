"""The reference network: what a `LoopedConfig` means, in plain PyTorch, one sequence at a time."""

from model.network.cache import KVCache
from model.network.looped import LoopedNetwork, LoopOutput, Recorder

__all__ = ["KVCache", "LoopOutput", "LoopedNetwork", "Recorder"]
