"""GradDrop from one forward pass against its definition: for each layer a run of its own, with its outputs cut off."""

import pytest
import torch

from lrp_lens import CP_LRP, GRADIENT, RELP, LogitDiff, SequenceLogitDiff, patching
from lrp_lens.hosts import resolve
from lrp_lens.hosts.scope import attached
from lrp_lens.methods.facets import FACETS, record_name
from lrp_lens.ops.gates import scale_gradient
from lrp_lens.run import dropped
from lrp_lens.run.dropped import LayerDrops
from tests import zoo

METRIC = LogitDiff(5, 7)
CLEAN, CORRUPTED = zoo.prompt_tokens(2, 4, 1), zoo.prompt_tokens(2, 4, 2)


def one_by_one(model, layer, rules=GRADIENT, metric=METRIC):
    """A run whose layer hands nothing back through attention and MLP; both are recorded behind the cut."""
    records = resolve(model).record_of
    names = [record_name(part, layer) for part in ("attn_out", "mlp_out")]
    hooks = [
        (records[name].port.point, lambda tensor, hook: scale_gradient(tensor, 0.0))
        for name in names
        if name in records
    ]
    with attached(model, hooks):
        return patching.patching_pass(model, CORRUPTED, metric, rules=rules)


def require_same(star, model, rules=GRADIENT, metric=METRIC, tolerance=1e-10):
    assert len(star.drops) == star.layers()
    for layer, drop in enumerate(star.drops):
        slow = one_by_one(model, layer, rules, metric)
        assert set(drop.gradients) == set(slow.gradients) and drop.activations is star.activations
        for name, gradient in slow.gradients.items():
            torch.testing.assert_close(drop.gradients[name], gradient, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_every_dropped_pass_is_a_run_of_its_own(host, name):
    model = zoo.shared(host, name)
    star = patching.atp_star(model, CORRUPTED, METRIC, qk_fix=False)
    require_same(
        star, model, tolerance=1e-10 if host != "bridge" else 1e-6
    )  # parts are float32 in transformers
    whole = patching.patching_pass(model, CORRUPTED, METRIC, rules=GRADIENT)
    for name, gradient in whole.gradients.items():
        torch.testing.assert_close(star.gradients[name], gradient, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("rules", [RELP, CP_LRP])
@pytest.mark.parametrize("metric", [METRIC, SequenceLogitDiff((5, 6), (7, 8))])
def test_under_rules_and_with_answers_of_several_tokens(rules, metric):
    model = zoo.shared("bridge", "llama")
    star = patching.atp_star(model, CORRUPTED, metric, rules=rules, qk_fix=False)
    require_same(star, model, rules, metric, tolerance=1e-6)


def test_a_norm_behind_the_sublayer_does_not_lead_around_the_drop():
    """The LN-rule replaces what attention and MLP of Gemma 2 write: dropping them must still drop them."""
    model = zoo.shared("bridge", "gemma2")
    star = patching.atp_star(model, CORRUPTED, METRIC, rules=RELP, qk_fix=False)
    first = star.drops[0].gradients
    for part in ("z", "q", "k", "v"):
        assert not first[record_name(part, 0)].any()
    behind = star.gradients[record_name("resid_pre", 1)]
    torch.testing.assert_close(first[record_name("resid_pre", 0)], behind, atol=1e-12, rtol=1e-6)


def test_one_forward_pass_and_backward_passes_that_start_at_their_layer(monkeypatch):
    model = zoo.shared("bridge", "llama")
    starts, forwards, grad = [], [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *of, **how: starts.append(of[0]) or grad(*of, **how))
    with attached(model, [(model.hook_dict["hook_embed"], lambda tensor, hook: forwards.append(1) and None)]):
        star = patching.atp_star(model, CORRUPTED, METRIC, qk_fix=False)
    assert len(forwards) == 1 == star.forwards
    from_metric = [start.ndim == 0 for start in starts]
    # whole; then layer 0 from the stream, nothing dropped; then the two passes, of which the last layer's is whole
    assert from_metric == [True, False, False, True] and star.backwards == 3
    assert star.drops[0].gradients[record_name("z", 1)] is star.gradients[record_name("z", 1)]


def test_a_way_around_the_stream_is_noticed(monkeypatch):
    """The last block also reads what layer 0's attention wrote, past the stream: passes start at the metric then."""
    model, kept = zoo.bridge("llama"), []
    around = [
        (model.hook_dict["blocks.0.hook_attn_out"], lambda tensor, hook: kept.append(tensor) and None),
        (model.hook_dict["blocks.1.hook_mlp_out"], lambda tensor, hook: tensor + kept.pop() * 2.0),
    ]
    way = []
    same_way = LayerDrops._same_way
    monkeypatch.setattr(LayerDrops, "_same_way", lambda *of: way.append(same_way(*of)) or way[-1])
    with attached(model, around):
        star = patching.atp_star(model, CORRUPTED, METRIC, qk_fix=False)
        require_same(star, model, tolerance=1e-6)
        monkeypatch.setattr(LayerDrops, "_same_way", lambda *of: True)  # control: trusted, it is wrong
        trusting = patching.atp_star(model, CORRUPTED, METRIC, qk_fix=False)
        with pytest.raises(AssertionError, match="not close"):
            require_same(trusting, model, tolerance=1e-6)
    assert way == [False]


def test_a_pass_that_drops_nothing_is_no_drop(monkeypatch):
    """Control: without the gates the dropped passes are all the whole one, and the definition says so."""
    model = zoo.shared("bridge", "llama")
    monkeypatch.setattr(dropped, "rerouted", lambda value, inputs, through: value)
    star = patching.atp_star(model, CORRUPTED, METRIC, qk_fix=False)
    with pytest.raises(AssertionError, match="not close"):
        require_same(star, model, tolerance=1e-6)
    assert star.scores(CLEAN, FACETS["mlp_out"]).isfinite().all()
