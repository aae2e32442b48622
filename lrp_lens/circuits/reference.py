"""What replaces an edge outside a circuit: the other run's output, a mean over prompts, or zero.

Fixed writers (biases, position embeddings) are no edges of a circuit; they always stay as the run has them.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.circuits.components import FIXED
from lrp_lens.circuits.writers import Writers
from lrp_lens.errors import InputError
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.metrics import BoundMetric
from lrp_lens.run.pairs import plain_run

Ablation = Literal["corrupted", "mean", "zero"]
ABLATIONS = ("corrupted", "mean", "zero")


def outputs_of(
    writers: Writers, batch: TokenBatch, bound: BoundMetric | None = None
) -> tuple[Float[Tensor, "writer batch pos d_model"], Float[Tensor, "batch read d_vocab"]]:
    """Every writer's output in a plain run, and its logits (with a metric, where it reads them)."""
    logits, activations = plain_run(writers.model, batch, writers.names(), bound)
    return writers.outputs(activations), logits


def replacements(
    writers: Writers,
    ablation: str,
    own: Float[Tensor, "writer batch pos d_model"],
    clean: TokenBatch,
    reference: Any,
) -> Float[Tensor, "writer batch pos d_model"]:
    """What the other edges carry under "mean" (over the reference prompts, position by position) or "zero" ablation.

    Args:
        writers: of the model.
        ablation: "mean" or "zero".
        own: every writer's output for the prompts that are run.
        clean: those prompts.
        reference: prompts of the mean, as long as the clean ones.

    Raises:
        InputError: for reference prompts of another length.
    """
    if ablation == "zero":
        other = torch.zeros_like(own)
    else:
        if clean.forced:
            raise InputError(
                "A mean over prompts goes position by position, and this metric appends answers to the prompts; "
                "received ablation='mean'. Use ablation='corrupted' or 'zero', or a metric of one token."
            )
        batch = tokenize(writers.model, reference)
        if len(set(batch.lengths + clean.lengths)) > 1:
            raise InputError(
                f"A mean over prompts goes position by position, so all prompts have one length; received "
                f"{sorted(set(batch.lengths + clean.lengths))}. Use prompts of one length, or another ablation."
            )
        other = outputs_of(writers, batch)[0].mean(1, keepdim=True).expand_as(own).clone()
    fixed = [index for index, writer in enumerate(writers.graph.writers) if writer.kind in FIXED]
    other[fixed] = own[fixed]
    return other


def require_ablation(ablation: str, corrupted: TokenBatch | None, reference: Any) -> None:
    """Raise InputError for an ablation that is unknown, or lacks its prompts."""
    if ablation not in ABLATIONS:
        raise InputError(f"ablation is one of {', '.join(map(repr, ABLATIONS))}; received {ablation!r}.")
    if ablation == "corrupted" and corrupted is None:
        raise InputError(
            "ablation='corrupted' replaces edges by those of the corrupted prompts; received none. Pass `corrupted`, "
            "or use 'mean' or 'zero'."
        )
    if (ablation == "mean") != (reference is not None):
        raise InputError(
            f"ablation='mean' replaces edges by means over `reference` prompts, and only it does; received "
            f"ablation={ablation!r} {'without' if reference is None else 'with'} reference prompts."
        )
