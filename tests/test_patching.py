"""Twins against a brute-force definition, on every architecture and host; activation patching against TransformerLens.

The brute-force definition: multiply each cell's change (clean - corrupted) by a number ε, add it at the hook point,
and differentiate the metric of the (gated) model in ε at 0.  It knows nothing of activation ⊙ gradient.
"""

import warnings

import pytest
import torch

from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GRADIENT,
    RELP,
    AttentionWeights,
    InputError,
    LogitDiff,
    LogProb,
    MetricError,
    SiteError,
    patching,
)
from lrp_lens.hosts import dead, resolve
from lrp_lens.patching.activation import activation_values
from lrp_lens.patching.facets import BUNDLES, FACETS, PARTS, record_name
from lrp_lens.patching.twins import CutOffWarning
from tests import zoo

METRIC = LogitDiff(5, 7)
CLEAN, CORRUPTED = zoo.prompt_tokens(2, 4, 1), zoo.prompt_tokens(2, 4, 2)
MODELS = [("hooked", name) for name in zoo.HOOKED_NAMES] + [("bridge", name) for name in zoo.BRIDGE_NAMES]
BY_POS = [name for name in FACETS if "all_pos" not in name and "dest_src" not in name]
PARALLEL = ("neox", "gptj", "phi")


def build(host, name):
    return getattr(zoo, host)(name)


def tolerance(host):
    return 1e-9 if host == "hooked" else 1e-5


def has(model, part):
    return record_name(part, 0) in resolve(model).record_of and record_name(part, 0) not in dead(model)


def brute_force(model, facet, rules, metric=METRIC, clean=CLEAN, corrupted=CORRUPTED):
    """d metric / d ε of every cell, [layer, *axes]: see the module's docstring."""
    names = [record_name(facet.part, layer) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        _, clean_cache = model.run_with_cache(clean)
        _, cache = model.run_with_cache(corrupted)
    sizes = dict(zip(facet.dims, cache[names[0]].shape, strict=True))
    epsilon = torch.zeros(len(names), *(sizes[axis] for axis in facet.axes), dtype=torch.float64)
    epsilon.requires_grad_(True)
    hooks = [[], [], []]
    for hook in rules.plan(model):
        stage = ("replace", "read", "scale").index(hook.stage)
        hooks[2 if stage else 0].append((hook.port.name, hook.function))
    records = resolve(model).record_of
    for layer, name in enumerate(names):
        shape = [sizes[dim] if dim in facet.axes else 1 for dim in facet.dims]
        order = [dim for dim in facet.dims if dim in facet.axes]
        weights = epsilon[layer].permute([facet.axes.index(dim) for dim in order]).reshape(shape)
        change = (clean_cache[name] - cache[name]) * weights
        at = record_name("attn_out", layer) if records[name].plus else name

        def edit(tensor, hook, change=change):
            return tensor + change.reshape(tensor.shape).to(tensor)

        hooks[1].append((records[at].port.name, edit))
    with model.hooks(fwd_hooks=[*hooks[0], *hooks[1], *hooks[2]]):
        value = metric(model(corrupted)).mean()
    return torch.autograd.grad(value, epsilon)[0]


@pytest.mark.parametrize(("host", "name"), MODELS, ids=lambda part: part)
def test_twins_equal_the_definition_on_every_architecture(host, name):
    model = build(host, name)
    for rules in (GRADIENT, RELP):
        backward = patching.patching_pass(model, CORRUPTED, METRIC, rules=rules)
        kind = "attribution" if rules is GRADIENT else "lrp"
        for facet in (FACETS[one] for one in BY_POS):
            twin = getattr(patching, f"get_{kind}_patch_{facet.name}")
            if not has(model, facet.part):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", CutOffWarning)
                    if facet.part == "pattern":
                        assert twin(model, CORRUPTED, CLEAN, METRIC, backward=backward).isnan().all()
                        continue
                with pytest.raises(SiteError, match="has no resid_mid"):
                    twin(model, CORRUPTED, CLEAN, METRIC, backward=backward)
                continue
            found = twin(model, CORRUPTED, CLEAN, METRIC, backward=backward)
            expected = brute_force(model, facet, rules)
            torch.testing.assert_close(found.double(), expected, atol=tolerance(host), rtol=tolerance(host))
