"""From coarse to fine: which heads, neurons or residual dimensions carry a node or an edge.

A node's relevance splits over what wrote its state (heads, MLP, biases, the state before), or over the dimensions of
the residual stream; an edge's over the same, when only its target's gradient enters the block.  Each split sums to what
it refines; an entry for the rest makes it close where biases or nonlinearities take a share.
"""

import numpy as np
from torch import Tensor

from lrp_lens.attribution_graphs.arrays import Boundary
from lrp_lens.attribution_graphs.closed_form.account import LayerAccount
from lrp_lens.attribution_graphs.closed_form.state_pass import LayerTensors, StatePass
from lrp_lens.attribution_graphs.closed_form.transition import edge_parts
from lrp_lens.errors import InputError
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import ActivationSite, BiasSite
from lrp_lens.hosts.writes import post_norm
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.views import View


def refine(
    run: StatePass, *, source: tuple[Boundary, int] | None, target: tuple[Boundary, int], into: str
) -> View:
    """What carries a node (no source) or an edge between neighbouring boundaries of one block.

    Args:
        run: the pass.
        source: boundary and position, or None to refine the target node itself.
        target: boundary and position.
        into: "heads" (writers, for a node), "neurons" or "dimensions".

    Returns:
        View with dims ("component",) or ("dimension",), which sums to the relevance of the node or edge.

    Raises:
        InputError: for an unknown `into`, a node without a block before it, or neurons where there is no MLP.
    """
    if into not in ("heads", "neurons", "dimensions"):
        raise InputError(f"A node is refined into 'heads', 'neurons' or 'dimensions'; received {into!r}.")
    if into == "dimensions":
        values = _node_dimensions(run, target) if source is None else _edge_dimensions(run, source, target)
        dims, labels = ("dimension",), tuple(map(str, range(len(values))))
    else:
        if target[0].layer is None:
            raise InputError(
                "The embedding was written by no block, so it has neither heads nor neurons. Use into='dimensions'."
            )
        parts = _parts(run, source, target, into)
        values, dims, labels = np.array(list(parts.values())), ("component",), tuple(parts)
    name = " → ".join(f"{one.label}@{at}" for one, at in filter(None, (source, target)))
    return View(
        values,
        dims,
        {dims[0]: labels},
        name=name,
        towards=run.towards,
        notes=(run.metric_text, f"into {into}"),
    )


def _gradient(run: StatePass, boundary: Boundary) -> Tensor:
    """The metric's gradient at a boundary, [row, pos, d_model]."""
    return run.gradients[boundary.name]


def _at(run: StatePass, node: tuple[Boundary, int]) -> Tensor:
    """The metric's gradient at a node, [d_model]."""
    boundary, position = node
    return run.at_positions(_gradient(run, boundary))[position]


def _state(run: StatePass, boundary: Boundary) -> Tensor:
    """The residual stream at a boundary, [pos, d_model]."""
    if boundary.mid:
        return _back(run, boundary, _gradient(run, boundary)).activation(boundary.name)
    layer = 0 if boundary.layer is None else boundary.layer + 1
    state = run.final_state if layer == run.sites.n_layers else run.calls[layer].state
    return run.batch.first_of_position(state)[0].to(accumulation_dtype(state.dtype))


def _back(run: StatePass, boundary: Boundary, gradient: Tensor) -> LayerTensors:
    """The block that wrote a boundary, run again, with a gradient at that boundary."""
    return run.layer(_layer(boundary), gradient, at=boundary.name)


def _node_dimensions(run: StatePass, node: tuple[Boundary, int]) -> np.ndarray:
    boundary, position = node
    state = _state(run, boundary)
    return (state[position] * _at(run, node).to(state)).double().cpu().numpy()


def _edge_dimensions(
    run: StatePass, source: tuple[Boundary, int], target: tuple[Boundary, int]
) -> np.ndarray:
    tensors = _back(run, target[0], run.only(_gradient(run, target[0]), target[1]))
    product = tensors.activation(_own(source[0], target[0])) * tensors.gradient(_own(source[0], target[0]))
    return product[source[1]].double().cpu().numpy()


def _own(source: Boundary, target: Boundary) -> str:
    """The source's name inside the target's block: the stream after one block is the stream before the next."""
    return source.name if source.mid else Names.resid_pre(_layer(target))


def _parts(
    run: StatePass, source: tuple[Boundary, int] | None, target: tuple[Boundary, int], into: str
) -> dict[str, float]:
    if source is None:
        return _node_heads(run, target) if into == "heads" else _node_neurons(run, target)
    return _edge_heads(run, source, target) if into == "heads" else _edge_neurons(run, source, target)


def _node_heads(run: StatePass, node: tuple[Boundary, int]) -> dict[str, float]:
    """What wrote the state: the state before, each head, the MLP, biases; each times the node's own gradient."""
    boundary, position = node
    layer = _layer(boundary)
    g = _gradient(run, boundary)
    after_attention = Names.resid_mid(layer) if run.mid_states else Names.resid_post(layer)
    tensors = run.layer(layer, g, at=after_attention)
    at = _at(run, node)

    def written(name: str) -> float:
        return float((tensors.activation(name)[position] * at).sum())

    z = Names.attention(layer, "z")
    heads = (tensors.activation(z) * tensors.gradient(z))[position].sum(-1)
    parts = {"residual": written(Names.resid_pre(layer))}
    parts |= {f"H{head}": float(value) for head, value in enumerate(heads)}
    total = parts["residual"] + written(Names.attn_out(layer))
    if not boundary.mid and not run.attention_only:
        whole = run.layer(layer, g)
        out = float((whole.activation(Names.mlp_out(layer))[position] * at).sum())
        parts["MLP"] = out - _mlp_output_bias(run, whole, position)
        total += out
    return _closed(parts, total)


def _node_neurons(run: StatePass, node: tuple[Boundary, int]) -> dict[str, float]:
    """Each neuron of the MLP that wrote the state, and everything else in it."""
    boundary, position = node
    tensors = _with_neurons(run, boundary, run.only(_gradient(run, boundary), position))
    at = _at(run, node)
    post = Names.mlp(tensors.layer, "post")
    neurons = (tensors.activation(post) * tensors.gradient(post))[position]
    total = float((tensors.activation(boundary.name)[position] * at).sum())
    out = float((tensors.activation(Names.mlp_out(tensors.layer))[position] * at).sum())
    parts = {"residual": total - out} | {f"N{index}": float(one) for index, one in enumerate(neurons)}
    return _closed(parts, total)


def _edge_heads(
    run: StatePass, source: tuple[Boundary, int], target: tuple[Boundary, int]
) -> dict[str, float]:
    """The edge's parts: residual, MLP, and each head's OV, K and Q."""
    tensors = run.layer(_layer(target[0]), _through(run, target[0]))
    account = LayerAccount(run, tensors, *run.attention(tensors))
    split = source[0].mid or target[0].mid
    names = (_own(source[0], target[0]), target[0].name)
    transition = next(one for start, end, one in account.transitions(split) if (start, end) == names)
    return edge_parts(transition, target[1], source[1])


def _edge_neurons(
    run: StatePass, source: tuple[Boundary, int], target: tuple[Boundary, int]
) -> dict[str, float]:
    """A self-edge through the MLP: the residual path, each neuron, and what biases take of the neurons' relevance."""
    (start, i), (end, j) = source, target
    if i != j or end.mid or not (start.mid or run.sites.parallel):
        raise InputError(
            "Neurons carry the edge of a position to itself through one MLP; received "
            f"{start.label} at {i} → {end.label} at {j}. Use a graph with split='mid' and an edge from a mid state."
        )
    tensors = _with_neurons(run, end, run.only(_gradient(run, end), j))
    post = Names.mlp(tensors.layer, "post")
    neurons = (tensors.activation(post) * tensors.gradient(post))[j]
    coarse = _edge_heads(run, source, target)
    parts = {"residual": coarse["residual"]}
    if run.sites.parallel:
        heads = (value for label, value in coarse.items() if label not in ("residual", "MLP"))
        parts["attention"] = sum(heads)
    parts |= {f"N{index}": float(one) for index, one in enumerate(neurons)}
    return _closed(parts, sum(coarse.values()))


def _through(run: StatePass, boundary: Boundary) -> Tensor:
    """The metric's gradient at the end of the block in which a boundary lies."""
    return run.gradients[Names.resid_post(_layer(boundary))]


def _with_neurons(run: StatePass, boundary: Boundary, gradient: Tensor) -> LayerTensors:
    if boundary.mid or run.attention_only:
        raise InputError(
            f"No MLP wrote {boundary.label}, so no neurons did. Use into='heads' or 'dimensions'."
        )
    tensors = run.layer(_layer(boundary), gradient)
    if not any(site.layer == tensors.layer and not site.expert for site in run.sites.of(ActivationSite)):
        raise InputError(
            f"The host shows no neurons in layer {tensors.layer} (a mixture of experts). Use into='dimensions'."
        )
    return tensors


def _layer(boundary: Boundary) -> int:
    assert boundary.layer is not None
    return boundary.layer


def _mlp_output_bias(run: StatePass, tensors: LayerTensors, position: int) -> float:
    """b_out ⊙ gradient, and the bias of a norm after the MLP."""
    after = post_norm(run.sites, tensors.layer, "mlp")
    total = 0.0
    for site in run.sites.of(BiasSite):
        mine = site.label == "b_out" or (after is not None and site.record == after.result)
        bias = site.bias() if site.layer == tensors.layer and mine else None
        if bias is not None and site.record in tensors:
            gradient = tensors.gradient(site.record)[position]
            total += float((bias.to(gradient) * gradient).sum())
    return total


def _closed(parts: dict[str, float], total: float) -> dict[str, float]:
    """With an entry for what biases, norms and nonlinearities took, so that the parts sum to the total."""
    return parts | {"biases and nonlinearities": total - sum(parts.values())}
