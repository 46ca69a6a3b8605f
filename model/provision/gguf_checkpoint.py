"""A Qwen2 GGUF file read as a checkpoint: weights dequantised one at a time, tokenizer rebuilt from metadata.

transformers opens GGUF too, but holds the whole float32 model in memory (4 GB for half a billion parameters),
drops the fact that head and embedding are one matrix, and leaves the text normaliser out of tokenizer.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.exceptions import ModelError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gguf import ReaderTensor

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # gguf.TokenType
_ROWS_AT_ONCE = 8192  # bounds the memory that dequantising a large table takes
# Two quantisations of one matrix differ by the coarser one's rounding (Q5_0: 4 %); two matrices, by far more.
_MAX_TIED_DIFFERENCE = 0.2


class GgufCheckpoint:
    """A `.gguf` file of the qwen2 architecture."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        try:
            reader = GGUFReader(path)
        except (ValueError, IndexError) as exc:
            raise ModelError(f"{path} is no readable GGUF file: {exc}") from exc
        self._fields = reader.fields
        self._tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in reader.tensors}
        architecture = self._field("general.architecture")
        if architecture != "qwen2":
            raise ModelError(
                f"{path} is a GGUF of architecture {architecture!r}",
                hint="GGUF is read for qwen2 only; give a folder of safetensors for others",
            )
        self._tie_word_embeddings = self._are_head_and_embedding_one()
        self.config: dict[str, Any] = self._read_config()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each tensor in float32; a head that is tied to the embedding is left out."""
        for name, tensor in self._named_tensors():
            yield name, _dequantise(tensor)

    def num_elements(self) -> dict[str, int]:
        """Return the number of elements of each tensor that `tensors` yields."""
        return {name: int(tensor.n_elements) for name, tensor in self._named_tensors()}

    def _named_tensors(self) -> Iterator[tuple[str, ReaderTensor]]:
        for name, tensor in self._tensors.items():
            if name == "token_embd.weight":
                yield _NAMES[name], self._embedding()
            elif not (self._tie_word_embeddings and name == "output.weight"):
                yield transformers_name(name), tensor

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer as transformers' Qwen2Tokenizer, normaliser and added tokens as published."""
        from transformers import AddedToken, Qwen2Tokenizer

        tokens: list[str] = self._field("tokenizer.ggml.tokens")
        types: list[int] = self._field("tokenizer.ggml.token_type")
        tokenizer = Qwen2Tokenizer(
            # Added tokens are in the vocabulary too: so they keep their ids, whatever the order of adding.
            vocab={token: i for i, token in enumerate(tokens) if types[i] != _UNUSED},
            merges=[tuple(merge.split(" ", 1)) for merge in self._field("tokenizer.ggml.merges")],
            unk_token=None,
            eos_token=tokens[self._field("tokenizer.ggml.eos_token_id")],
            pad_token=tokens[self._field("tokenizer.ggml.padding_token_id")],
            model_max_length=self.config["max_position_embeddings"],
        )
        tokenizer.add_tokens(
            [
                AddedToken(token, special=types[i] == _CONTROL, normalized=False)
                for i, token in enumerate(tokens)
                if types[i] in (_CONTROL, _USER_DEFINED)
            ]
        )
        tokenizer.chat_template = self._field("tokenizer.chat_template")
        tokenizer.save_pretrained(folder)

    def token_ids(self) -> dict[str, Any]:
        """Return the metadata's ids; generation also ends at the document's end, as Qwen publishes it."""
        bos = self._field("tokenizer.ggml.bos_token_id")
        eos = self._field("tokenizer.ggml.eos_token_id")
        return {
            "bos_token_id": bos,
            "eos_token_id": list(dict.fromkeys((eos, bos))),
            "pad_token_id": self._field("tokenizer.ggml.padding_token_id"),
        }

    def _field(self, key: str) -> Any:
        if key not in self._fields:
            raise ModelError(f"the GGUF file lacks {key}")
        return self._fields[key].contents()

    def _read_config(self) -> dict[str, Any]:
        from transformers import Qwen2Config

        embedding = self._tensors["token_embd.weight"]
        return Qwen2Config(
            architectures=["Qwen2ForCausalLM"],
            vocab_size=int(embedding.shape[1]),
            hidden_size=self._field("qwen2.embedding_length"),
            intermediate_size=self._field("qwen2.feed_forward_length"),
            num_hidden_layers=self._field("qwen2.block_count"),
            num_attention_heads=self._field("qwen2.attention.head_count"),
            num_key_value_heads=self._field("qwen2.attention.head_count_kv"),
            max_position_embeddings=self._field("qwen2.context_length"),
            # Stored as float32: 1e-6 comes back as 9.999999974752427e-07.
            rms_norm_eps=float(f"{self._field('qwen2.attention.layer_norm_rms_epsilon'):.6g}"),
            rope_parameters={"rope_type": "default", "rope_theta": self._field("qwen2.rope.freq_base")},
            tie_word_embeddings=self._tie_word_embeddings,
            bos_token_id=self._field("tokenizer.ggml.bos_token_id"),
            eos_token_id=self._field("tokenizer.ggml.eos_token_id"),
        ).to_dict()

    def _are_head_and_embedding_one(self) -> bool:
        head = self._tensors.get("output.weight")
        if head is None:
            return True
        rows = slice(0, _ROWS_AT_ONCE)
        head_VD = _dequantise_rows(head, rows)
        difference_VD = head_VD - _dequantise_rows(self._tensors["token_embd.weight"], rows)
        return bool((difference_VD**2).mean() < _MAX_TIED_DIFFERENCE**2 * (head_VD**2).mean())

    def _embedding(self) -> ReaderTensor:
        tables = [self._tensors["token_embd.weight"]]
        if self._tie_word_embeddings and "output.weight" in self._tensors:
            tables.append(self._tensors["output.weight"])
        # Files are made with the head in finer steps than the embedding: more bytes, less rounding.
        return max(tables, key=lambda table: int(table.n_bytes))


def transformers_name(name: str) -> str:
    """Return the name that transformers gives to a GGUF tensor.

    Raises:
        ModelError: the tensor is none of the qwen2 architecture's.
    """
    if name in _NAMES:
        return _NAMES[name]
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if not found or found[2] not in _BLOCK_NAMES:
        raise ModelError(f"the GGUF file has a tensor that a Qwen2 model has not: {name}")
    return f"model.layers.{found[1]}.{_BLOCK_NAMES[found[2]]}.{found[3]}"


def _dequantise(tensor: ReaderTensor) -> torch.Tensor:
    import numpy as np
    import torch

    shape = tuple(int(size) for size in reversed(tensor.shape))
    values = np.empty(shape, dtype=np.float32)
    for start in range(0, shape[0], _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        values[rows] = _dequantise_rows(tensor, rows)
    return torch.from_numpy(values)


def _dequantise_rows(tensor: ReaderTensor, rows: slice) -> np.ndarray:
    from gguf import dequantize

    return dequantize(tensor.data[rows], tensor.tensor_type)
