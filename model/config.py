"""What a looped decoder is: its blocks, how they repeat, what a pass is given, when it stops. No torch here.

Data flows embedding → prelude → (injection → core → step rule → norm) × passes → coda → head. A family is a
setting of these fields (`model.families`), a published checkpoint a reading of its keys into them
(`model.checkpoints`), and `model.network` the function that they describe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_type_hints

from model.exceptions import LoopConfigError

NormKind = Literal["rms", "layer"]
NormPlacement = Literal["pre", "sandwich", "outer_sandwich", "output", "post", "peri"]
QKNorm = Literal["none", "head", "projection", "head_after_rope"]
RopeStyle = Literal["none", "halves", "pairs"]
Mlp = Literal["swiglu", "relu2", "relu", "sigma_moe"]
Injection = Literal["none", "add", "linear", "diagonal"]
StateInit = Literal["input", "zeros", "noise"]
LaterAttention = Literal["own", "gated_window", "shared"]
StepRule = Literal["plain", "damped", "damped_anchored"]
LoopOrder = Literal["model", "layer"]
DepthEncoding = Literal["none", "sinusoidal"]
Gate = Literal["none", "hazard", "act", "token_choice", "expert_choice"]
ExitRule = Literal["none", "hazard", "act", "latent", "kl", "argmax"]
KVPolicy = Literal["depth_indexed", "last_exited", "single", "single_restored", "first_then_shared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary positions; `scaling` is the checkpoint's own `rope_scaling`, as vLLM reads it."""

    style: RopeStyle = (
        "halves"  # which components turn together: i and i + d/2 ("halves"), 2i and 2i + 1 ("pairs")
    )
    theta: float = 10_000.0
    fraction: float = 1.0  # of the head's components that turn; MoEUT turns half of them
    scaling: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """Sigma-MoE (arXiv 2405.16039): sigmoid scores, no competition between experts, the top k summed.

    `num_attention_experts` makes each head's values and outputs mixtures as well (SwitchHead); 0 is dense.
    """

    num_experts: int
    expert_size: int  # width of one expert's hidden layer
    num_experts_per_token: int
    num_attention_experts: int = 0
    num_attention_experts_per_token: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockConfig:
    """One transformer block: attention and MLP of a width, and where its norms stand.

    norm_placement, with f attention or MLP and n its norms:
        pre: x + f(n(x)); Llama, Qwen, IQuest, Nanbeige, Parcae, MoR
        sandwich: x + n'(f(n(x))); Ouro
        outer_sandwich: n'(x + f(n(x))); Huginn
        output: x + n'(f(x)); OLMo-2
        post: n'(x + f(x)); Universal Transformer
        peri: x + f(x), the norm only before what ends in a softmax or sigmoid; MoEUT
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    norm: NormKind = "rms"
    norm_eps: float = 1e-6
    norm_placement: NormPlacement = "pre"
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: QKNorm = "none"  # "head_after_rope" has no weight (Parcae), the others have
    qk_bias: bool = False  # a learned bias of queries and keys beside the projection's (Huginn)
    rope: RopeConfig = field(default_factory=RopeConfig)
    mlp: Mlp = "swiglu"
    mlp_bias: bool = False
    mlp_scale: float = 1.0  # of the activation; Parcae halves it
    value_gate_channels: int = (
        0  # over 0: token embeddings are added to values, gated by these channels (Parcae)
    )
    moe: MoeConfig | None = None

    def __post_init__(self) -> None:
        _check_literals(self)
        _require(
            self.num_attention_heads % self.num_key_value_heads == 0, "query heads must divide by key heads"
        )
        _require(
            (self.mlp == "sigma_moe") == (self.moe is not None), "sigma_moe and its settings go together"
        )
        _require(0.0 < self.rope.fraction <= 1.0, f"rope fraction {self.rope.fraction} is outside 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopedConfig:
    """A looped decoder. Raises LoopConfigError where settings contradict each other.

    kv_policy, where pass t of a core layer writes its keys and values, and what a later token finds there:
        depth_indexed: a slot for each pass. What was trained; the same function under any chunking. A row
            that stops early is still computed to its request's depth, so that its slots are the trained ones.
        last_exited: the same, but a row that stops leaves the batch; its last pass fills its deeper slots.
        single: one slot, the last pass stays. Depends on where chunks of the prompt end.
        single_restored: one slot; after the last pass the first one's keys and values are put back (arXiv
            2605.23872, cache=first, decode=full). Depends on where chunks end, too.
        first_then_shared: `num_shared_slots` slots, the last of them shared by all further passes.
    later_attention, what passes after the first attend to:
        own: keys and values of the same pass.
        gated_window: the first pass's, and a window of their own, mixed by a gate of each head (IQuest).
        shared: the first pass's alone; nothing is written. The same function under any chunking, one slot.
    """

    family: str
    vocab_size: int
    max_position_embeddings: int
    block: BlockConfig
    num_prelude_layers: int = 0
    num_core_layers: int
    num_coda_layers: int = 0
    tie_word_embeddings: bool = False
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    has_final_norm: bool = True
    value_embedding_layers: tuple[
        int, ...
    ] = ()  # physical layers whose values get a token embedding (Parcae)

    recurrence_depth: int  # passes that the checkpoint was trained with: the default of a request
    max_recurrence_depth: int  # the most that a request may ask for
    min_recurrence_depth: int = 1
    injection: Injection = "none"
    state_init: StateInit = "input"
    state_noise_scale: float = 1.0  # of the noise, beside Huginn's sqrt(2/5D) and the embedding's scale
    norms_prelude_output: bool = False  # Parcae's ln_prelude
    norms_each_pass: bool = False  # the final norm, after every pass, before the next (Ouro, Nanbeige)
    norms_core_output: bool = False  # the final norm once after the last pass, before the coda (Huginn)
    projects_core_output: bool = False  # Parcae's C
    later_attention: LaterAttention = "own"
    window_size: int | None = None  # of the later passes' own keys, itself included (IQuest)
    loop_order: LoopOrder = "model"
    step_rule: StepRule = "plain"
    anchor_weight: float = 0.0
    depth_encoding: DepthEncoding = "none"
    gate: Gate = "none"
    router_scale: float = 1.0  # MoR's alpha
    exit_rule: ExitRule = "none"
    exit_threshold: float = 1.0
    kv_policy: KVPolicy = "depth_indexed"
    num_shared_slots: int = 2  # of first_then_shared

    def __post_init__(self) -> None:
        _check_literals(self)
        _require(self.num_core_layers > 0, "the core holds no layer")
        _require(
            1 <= self.min_recurrence_depth <= self.recurrence_depth <= self.max_recurrence_depth,
            f"depths do not rise: least {self.min_recurrence_depth}, trained {self.recurrence_depth}, "
            f"most {self.max_recurrence_depth}",
        )
        _require(0.0 <= self.anchor_weight <= 1.0, f"anchor_weight {self.anchor_weight} is outside 0..1")
        _require(
            (self.later_attention == "gated_window") == (self.window_size is not None),
            "a window size belongs to gated_window attention, and to no other",
        )
        _require(
            self.later_attention != "gated_window" or self.kv_policy not in ("single", "single_restored"),
            "gated_window attention reads the first pass's keys beside its own: one slot cannot hold both",
        )
        _require(self.num_shared_slots >= 1, "first_then_shared needs a slot")
        _require(
            self.later_attention != "gated_window" or self.num_slots() > 1 or self.max_recurrence_depth == 1,
            "gated_window attention needs a slot beside the first pass's",
        )
        _require(
            self.later_attention != "shared" or self.kv_policy == "depth_indexed",
            "with shared attention later passes write nothing: no other kv_policy has a meaning",
        )
        _require(
            self.gate not in ("token_choice", "expert_choice") or self.kv_policy == "depth_indexed",
            "a router's tokens attend to those that went as deep: its kv_policy is depth_indexed",
        )
        _require(
            self.gate in ("none", "hazard") or (self.step_rule == "plain" and self.loop_order == "model"),
            "routers and halting means choose among whole, plain passes",
        )
        _require(
            self.injection == "none" or self.state_init != "input",
            "what is injected is the state already: give it another state_init",
        )
        _require(
            self.exit_rule == "none" or self.exit_rule in self.exit_rules,
            f"{self.family} cannot stop by {self.exit_rule}: {', '.join(self.exit_rules) or 'no rule'} can",
        )

    @property
    def num_layers(self) -> int:
        """Number of physical layers."""
        return self.num_prelude_layers + self.num_core_layers + self.num_coda_layers

    @property
    def core_start(self) -> int:
        """Index of the first looped layer."""
        return self.num_prelude_layers

    @property
    def core_stop(self) -> int:
        """One past the last looped layer."""
        return self.num_prelude_layers + self.num_core_layers

    @property
    def core_layers(self) -> range:
        """Indices of the looped layers."""
        return range(self.core_start, self.core_stop)

    @property
    def is_plain_at_depth_1(self) -> bool:
        """Return whether one pass is a dense stack: nothing stands between prelude, core and coda."""
        return (
            self.injection == "none"
            and self.state_init == "input"
            and self.depth_encoding == "none"
            and self.gate == "none"
            and self.loop_order == "model"
            and not (self.norms_prelude_output or self.norms_each_pass)
            and not (self.norms_core_output or self.projects_core_output)
        )

    @property
    def is_chunk_invariant(self) -> bool:
        """Return whether the function is the same however a prompt is cut."""
        return self.kv_policy in ("depth_indexed", "last_exited")

    @property
    def is_depth_nested(self) -> bool:
        """Return whether pass t of a token is the same whatever the number of passes.

        Then keys and values of a deep request serve every shallower one. A coda reads the last state, a
        damped step depends on the number of steps, and shared slots hold the last pass.
        """
        return (
            self.num_coda_layers == 0
            and self.step_rule == "plain"
            and self.loop_order == "model"
            and self.kv_policy == "depth_indexed"
            and self.gate not in ("token_choice", "expert_choice")
        )

    @property
    def exit_rules(self) -> tuple[ExitRule, ...]:
        """Rules by which a request of this model may stop early.

        Damped steps know their number beforehand. Reading logits between passes bears no coda.
        """
        if self.step_rule != "plain" or self.loop_order != "model":
            return ()
        if self.gate == "act":  # its output is a weighted mean of all passes, not a state to stop at
            return ("act",)
        if self.gate in ("token_choice", "expert_choice"):  # a router decides for each token
            return ()
        learned: tuple[ExitRule, ...] = ("hazard",) if self.gate == "hazard" else ()
        read_outs: tuple[ExitRule, ...] = ("kl", "argmax") if self.num_coda_layers == 0 else ()
        return (*learned, "latent", *read_outs)

    def num_slots(self, max_depth: int | None = None) -> int:
        """Return how many places for keys and values a core layer has, for depths up to `max_depth`."""
        depth = self.max_recurrence_depth if max_depth is None else max_depth
        if self.kv_policy in ("single", "single_restored") or self.later_attention == "shared":
            return 1
        return min(depth, self.num_shared_slots) if self.kv_policy == "first_then_shared" else depth

    def slot(self, pass_index: int) -> int:
        """Return the place that pass `pass_index` (from 0) of a core layer writes to and reads from."""
        return min(pass_index, self.num_slots() - 1)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json_dict(cls, values: Mapping[str, Any]) -> LoopedConfig:
        """Return the settings that `to_json_dict` wrote.

        Raises:
            LoopConfigError: a key is missing or unknown, or a value is out of range.
        """
        return read_settings(cls, values)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise LoopConfigError(message)


def _check_literals(config: Any) -> None:
    for name, hint in get_type_hints(type(config)).items():
        allowed = get_args(hint)
        value = getattr(config, name)
        if allowed and all(isinstance(one, str) for one in allowed) and value not in allowed:
            raise LoopConfigError(f"{name} {value!r} is none of {', '.join(allowed)}")


def read_settings(cls: Any, values: Mapping[str, Any]) -> Any:
    """Return the dataclass `cls`, and those inside it, with these plain JSON values.

    Raises:
        LoopConfigError: a key is missing or unknown, or a value is out of range.
    """
    unknown = set(values) - {one.name for one in fields(cls)}
    if unknown:
        raise LoopConfigError(f"unknown settings of {cls.__name__}: {', '.join(sorted(unknown))}")
    hints = get_type_hints(cls)
    given = {name: _value(hints[name], value) for name, value in values.items()}
    try:
        return cls(**given)
    except TypeError as error:
        raise LoopConfigError(f"the settings of {cls.__name__} do not fit: {error}") from error


def _value(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    classes = [one for one in (hint, *get_args(hint)) if is_dataclass(one)]
    return read_settings(classes[0], value) if classes and isinstance(value, Mapping) else value
