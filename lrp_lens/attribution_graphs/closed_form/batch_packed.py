"""Edges by their definition, many targets to one backward pass: the slow reference, and what distant layers need.

The definition (arXiv 2604.17761, equation 11), with h_s the source states, h_t the target states and g the gradient at
the target, held constant:

    A[j, i] = Σ_k h_s[i, k] · ∂⟨h_t[j], g[j]⟩ / ∂h_s[i, k]

1. The blocks between source and target run again on copies of the source states, one copy per target.
2. Copy c gets the gradient g[j_c] at its target position j_c alone; one backward pass serves all copies.
3. Every block sees its own mask, window and rotary tables (`replay`), so nothing comes from the future.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lrp_lens.attribution_graphs.closed_form.state_pass import StatePass
from lrp_lens.hosts.forward import require_eval, require_gradients
from lrp_lens.hosts.names import Names
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.run.recording import Recorder


def batch_packed(
    run: StatePass,
    source: tuple[int, bool],
    target: tuple[int, bool],
    *,
    copies: int = 16,
    progress: Callable[[int], object] = lambda rows: None,
) -> Tensor:
    """All edges between two boundaries, [target position, source position].

    Args:
        run: the pass, with the gradient at the target boundary known.
        source: (block, mid): the state before that block, or after its attention.
        target: (block, mid): the state before that block (the number of blocks for the final stream), or after its
            attention.  Must lie after the source.
        copies: targets that share one backward pass (B in the paper).
        progress: called with the number of targets done.
    """
    rows = []
    for start in range(0, run.length, copies):
        positions = range(start, min(start + copies, run.length))
        rows.append(packed_rows(run, source, target, positions))
        progress(len(positions))
    return torch.cat(rows)


def packed_rows(
    run: StatePass, source: tuple[int, bool], target: tuple[int, bool], positions: range
) -> Tensor:
    """A[positions, :], from one backward pass over a copy for each position; arguments as `batch_packed`."""
    require_gradients()
    require_eval(run.model)
    (first, from_mid), (last, to_mid) = source, target
    end = Names.resid_mid(last) if to_mid else Names.resid_post(last - 1)
    gradient = run.at_positions(run.gradients[end])
    recorder = Recorder(run.sites, run.batch)
    names = {Names.resid_mid(first)} if from_mid else set()
    if to_mid:
        names.add(Names.resid_mid(last))
    names |= {other for name in names for other in run.sites.record_of[name].plus}
    lines, places = run.batch.home[
        positions.start : positions.stop
    ].T  # the row of each target, and the column there
    state = run.calls[first].state[lines].clone().requires_grad_(True)
    layers = range(first, last + to_mid)
    with run.hooks.attached(recorder, names, layers), run.row_blocks.entered(layers, run.mask_length):
        output = state
        for layer in layers:
            output = run.calls[layer].run(output, lines)
            run.require_same(layer, output, int(lines[0]))
        if to_mid:
            output = recorder.kept[Names.resid_mid(last)][-1]
        sources = [state]
        if from_mid:
            record = run.sites.record_of[Names.resid_mid(first)]
            sources = [recorder.kept[name][-1] for name in (record.name, *record.plus)]
        cotangent = torch.zeros_like(output)
        copies = torch.arange(len(positions), device=output.device)
        cotangent[copies, places] = gradient[positions.start : positions.stop].to(output.dtype)
        gradients = torch.autograd.grad(output, sources, cotangent, allow_unused=True)
    wide = accumulation_dtype(state.dtype)
    total = sum(one.to(wide) for one in gradients if one is not None)
    relevance = (total * sources[0].detach().to(wide)).sum(-1)
    if not run.batch.branches:
        return relevance
    columns = run.batch.columns[
        lines
    ]  # padding, at -1, has no relevance: it goes into a column that is cut off
    found = relevance.new_zeros(len(positions), run.length + 1)
    return found.scatter_add(1, columns % (run.length + 1), relevance)[:, :-1]
