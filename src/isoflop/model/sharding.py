"""What may be split in each net, as data: `isoflop.dist.parallel` knows how, and knows no net.

Paths are those of `named_modules`. A family that has no plan here runs whole on each device, or is refused
with a sentence where a mesh would have to split it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isoflop.records import NetSpec


@dataclass(frozen=True, kw_only=True)
class ShardingPlan:
    """Where a net of the transformer kind may be cut (Shoeybi et al. 2019; Korthikanti et al. 2022, section 4.2.2).

    Attributes:
        blocks: list of the repeated blocks: the units that are gathered, compiled and recomputed.
        embedding: token embedding, split by vocabulary.
        final_norm: norm before the head; what leaves it is gathered over positions.
        head: output head, split by vocabulary; None when it is the embedding's weight.
        columns: in a block, linear maps whose output features are split.
        rows: in a block, linear maps whose input features are split; they end a split half of a block.
        norms: in a block, norms that work on each rank's share of the positions.
        gathered: in a block, modules whose input is gathered over positions: they start a split half.
        divisible: fields of `NetSpec` that the tensor degree must divide.
        losses: methods besides `forward` that a training step may call.
    """

    blocks: str
    embedding: str
    final_norm: str
    head: str | None
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    norms: tuple[str, ...]
    gathered: tuple[str, ...]
    divisible: tuple[str, ...]
    losses: tuple[str, ...]


def _decoder(spec: NetSpec) -> ShardingPlan:
    return ShardingPlan(
        blocks="model.layers",
        embedding="model.embed_tokens",
        final_norm="model.norm",
        head=None if spec.tied_head else "lm_head",
        columns=(
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
        ),
        rows=("self_attn.o_proj", "mlp.down_proj"),
        norms=("input_layernorm", "post_attention_layernorm"),
        gathered=("self_attn", "mlp"),
        divisible=("num_heads", "num_kv_heads", "ffn_dim", "vocab_size"),
        losses=("next_token_loss",),
    )


PLANS: dict[str, Callable[[NetSpec], ShardingPlan]] = {"decoder": _decoder}
"""Family -> its plan."""


def sharding_plan(spec: NetSpec) -> ShardingPlan:
    """The plan of a net's family. Raises ValueError for a family that cannot be split."""
    if spec.family not in PLANS:
        raise ValueError(
            f"nets of family {spec.family!r} have no sharding plan; train them on one device, or add one to "
            "isoflop.model.sharding"
        )
    return PLANS[spec.family](spec)
