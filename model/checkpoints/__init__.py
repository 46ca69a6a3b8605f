"""Published checkpoints of looped decoders: config keys read as a `LoopedConfig`, tensors under the names of
`LoopedNetwork`, and back.
"""

from model.checkpoints.adapters import Adapter, adapter_for, is_looped, read_config

__all__ = ["Adapter", "adapter_for", "is_looped", "read_config"]
