"""Twins against a brute-force definition, on every architecture and host; activation patching against TransformerLens.

The brute-force definition: multiply each cell's change (clean - corrupted) by a number ε, add it at the hook point,
and differentiate the metric of the (gated) model in ε at 0.  It knows nothing of activation ⊙ gradient.
"""

from functools import partial

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
    RuleError,
    SiteError,
    methods,
    patching,
)
from lrp_lens.hosts import dead, resolve
from lrp_lens.methods.facets import BUNDLES, FACETS, PARTS, record_name
from lrp_lens.patching import functions
from lrp_lens.patching.activation import activation_values
from lrp_lens.patching.twins import CutOffWarning
from tests import zoo

METRIC = LogitDiff(5, 7)
CLEAN, CORRUPTED = zoo.prompt_tokens(2, 4, 1), zoo.prompt_tokens(2, 4, 2)
BY_POS = [name for name in FACETS if "all_pos" not in name and "dest_src" not in name]
PARALLEL = ("neox", "gptj", "phi")


def build(host, name):
    """A model of its own: running with a cache leaves hooks on the parts of a TransformerBridge."""
    return zoo.BUILD[host](name)


def tolerance(host):
    return 1e-9 if host == "hooked" else 1e-5


def has(model, part):
    return record_name(part, 0) in resolve(model).record_of and record_name(part, 0) not in dead(model)


def brute_force(model, facets, rules, metric=METRIC, clean=CLEAN, corrupted=CORRUPTED):
    """d metric / d ε of every cell, facet → [layer, *axes]; all ε are 0, so all facets share one pass."""
    layers = range(model.cfg.n_layers)
    with torch.no_grad():
        _, clean_cache = model.run_with_cache(clean)
        _, cache = model.run_with_cache(corrupted)
    before, edits, after = [], [], []
    for hook in rules.plan(model):
        (before if hook.stage == "replace" else after).append((hook.port.name, hook.function))
    records, epsilons = resolve(model).record_of, {}
    for facet in facets:
        sizes = dict(zip(facet.dims, cache[record_name(facet.part, 0)].shape, strict=True))
        epsilon = torch.zeros(len(layers), *(sizes[axis] for axis in facet.axes), dtype=torch.float64)
        epsilons[facet.name] = epsilon.requires_grad_(True)
        shape = [sizes[dim] if dim in facet.axes else 1 for dim in facet.dims]
        order = [facet.axes.index(dim) for dim in facet.dims if dim in facet.axes]
        for layer in layers:
            name = record_name(facet.part, layer)
            change = (clean_cache[name] - cache[name]) * epsilon[layer].permute(order).reshape(shape)
            at = record_name("attn_out", layer) if records[name].plus else name

            def edit(tensor, hook, change=change):
                return tensor + change.reshape(tensor.shape).to(tensor)

            edits.append((records[at].port.name, edit))
    with model.hooks(fwd_hooks=[*before, *edits, *after]):
        value = metric(model(corrupted)).mean()
    gradients = torch.autograd.grad(value, list(epsilons.values()), allow_unused=True)
    return dict(zip(epsilons, gradients, strict=True))


@pytest.fixture(scope="module")
def gpt2():
    return zoo.bridge("gpt2")


@pytest.fixture(scope="module")
def llama():
    return zoo.bridge("llama")


def exact(model, name, source=CLEAN, tokens=CORRUPTED, metric=METRIC, engine="batched"):
    return activation_values(model, tokens, source, FACETS[name], [metric], engine=engine)[0].mean(0)


# ------------------------------------------------------------------------------------ the definition
@pytest.mark.parametrize(("host", "name"), zoo.models("hooked", "bridge"))
def test_twins_equal_the_definition_on_every_architecture(host, name):
    model = build(host, name)
    facets = [FACETS[one] for one in BY_POS if has(model, FACETS[one].part)]
    assert len(facets) == 9 - (name in PARALLEL) - (host == "bridge" and name in ("gptj", "opt"))
    for rules, kind in ((GRADIENT, "attribution"), (RELP, "lrp")):
        backward = patching.patching_pass(model, CORRUPTED, METRIC, rules=rules)
        expected = brute_force(model, facets, rules)
        for facet in facets:
            twin = getattr(patching, f"get_{kind}_patch_{facet.name}")
            found = twin(model, CORRUPTED, CLEAN, METRIC, backward=backward)
            assert found.dtype == expected[facet.name].dtype
            torch.testing.assert_close(
                found, expected[facet.name], atol=tolerance(host), rtol=tolerance(host)
            )


@pytest.mark.parametrize("rules", [ATTN_LRP, CP_LRP], ids=lambda rules: rules.name)
@pytest.mark.parametrize("host", ["hooked", "bridge"])
def test_twins_equal_the_definition_under_other_rules(host, rules):
    if host == "hooked" and not zoo.HOOKED_NAMES:
        pytest.skip("no HookedTransformer here")
    model = build(host, "llama")
    parts = ("resid_pre", "mlp_out", "z", "v") + (("q", "k") if rules is ATTN_LRP else ())
    facets = [FACETS[one] for one in BY_POS if FACETS[one].part in parts]
    expected = brute_force(model, facets, rules)
    backward = patching.patching_pass(model, CORRUPTED, METRIC, rules=rules)
    for facet in facets:
        twin = getattr(patching, f"get_lrp_patch_{facet.name}")
        found = twin(model, CORRUPTED, CLEAN, METRIC, backward=backward)
        torch.testing.assert_close(
            found, expected[facet.name], atol=2 * tolerance(host), rtol=2 * tolerance(host)
        )


def test_attribution_is_the_slope_of_small_patches(gpt2):
    """A patch of a hundredth of the change has about a hundredth of the attributed effect."""
    names = [record_name("z", layer) for layer in range(2)]
    with torch.no_grad():
        _, clean = gpt2.run_with_cache(CLEAN)
        _, own = gpt2.run_with_cache(CORRUPTED)
    step = 1e-5
    sides = [{name: own[name] + s * (clean[name] - own[name]) for name in names} for s in (step, -step)]
    ahead, behind = (exact(gpt2, "attn_head_out_by_pos", side) for side in sides)
    slope = (ahead - behind) / (2 * step)
    found = patching.get_attribution_patch_attn_head_out_by_pos(gpt2, CORRUPTED, CLEAN, METRIC)
    torch.testing.assert_close(found, slope, atol=1e-7, rtol=1e-6)


@pytest.mark.skipif(not zoo.NATIVE_NAMES, reason="no HookedTransformer here")
@pytest.mark.parametrize("name", ["resid_pre", "attn_out", "attn_head_out_by_pos", "attn_head_v_all_pos"])
def test_on_a_linear_model_lrp_patching_is_activation_patching(name):
    """Attention only, no norm, patterns held at the corrupted run's: nothing is left to approximate."""
    model = zoo.native_hooked("attention_only_no_norm")
    with torch.no_grad():
        _, own = model.run_with_cache(CORRUPTED)

    def frozen(tensor, hook):
        return own[hook.name]

    held = [(record_name("pattern", layer), frozen) for layer in range(2)]
    source = exact_source(model, held)
    with model.hooks(fwd_hooks=held):
        base = METRIC(model(CORRUPTED)).mean()
        patched = exact(model, name, source, engine="transformer_lens") - base
    found = getattr(patching, f"get_lrp_patch_{name}")(model, CORRUPTED, source, METRIC, rules=CP_LRP)
    torch.testing.assert_close(found, patched.detach(), atol=1e-9, rtol=1e-9)
    assert found.abs().max() > 0.1


def exact_source(model, held):
    """Clean activations under the held patterns."""
    with model.hooks(fwd_hooks=held), torch.no_grad():
        return model.run_with_cache(CLEAN)[1]


# ------------------------------------------------------------------------------------ activation patching
@pytest.mark.parametrize(
    "name", ["resid_pre", "resid_mid", "mlp_out", "attn_head_k_by_pos", "attn_head_pattern_by_pos"]
)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_batched_sweeps_equal_transformer_lens(architecture, name, request):
    import transformer_lens.patching

    model = request.getfixturevalue(architecture)
    with torch.no_grad():
        _, cache = model.run_with_cache(CLEAN)
        theirs = getattr(transformer_lens.patching, f"get_act_patch_{name}")(
            model, CORRUPTED, cache, lambda logits: METRIC(logits).mean()
        )
    ours = getattr(patching, f"get_act_patch_{name}")(model, CORRUPTED, cache, METRIC, engine="batched")
    torch.testing.assert_close(ours.to(theirs), theirs, atol=1e-5, rtol=1e-5)
    auto = getattr(patching, f"get_act_patch_{name}")(model, CORRUPTED, CLEAN, METRIC)
    torch.testing.assert_close(auto, ours, atol=1e-9, rtol=1e-9)


def test_resid_mid_of_the_bridge_reaches_the_skip_path(gpt2):
    """Patched in the last layer at the last position, nothing of the corrupted stream is left."""
    found = patching.get_act_patch_resid_mid(gpt2, CORRUPTED, CLEAN, METRIC)
    torch.testing.assert_close(found[-1, -1], METRIC(gpt2(CLEAN)).mean().detach(), atol=1e-9, rtol=1e-9)
    with pytest.raises(SiteError, match="not right for resid_mid"):
        patching.get_act_patch_resid_mid(gpt2, CORRUPTED, CLEAN, METRIC, engine="transformer_lens")


def test_dropped_edits_are_refused():
    """TransformerLens would return the unpatched metric here."""
    model = zoo.bridge("gptj")
    with pytest.raises(SiteError, match="drops the edit"):
        patching.get_act_patch_attn_head_pattern_all_pos(model, CORRUPTED, CLEAN, METRIC)
    with pytest.raises(SiteError, match="has no resid_mid"):
        patching.get_act_patch_resid_mid(model, CORRUPTED, CLEAN, METRIC)
    every = patching.get_act_patch_attn_head_all_pos_every(model, CORRUPTED, CLEAN, METRIC)
    assert every[4].isnan().all() and every[:4].isfinite().all()


# ------------------------------------------------------------------------------------ arguments and shapes
def test_every_twin_has_the_shape_of_its_activation_patch(llama):
    backward = patching.patching_pass(llama, CORRUPTED, METRIC)
    names = [*FACETS, *BUNDLES]
    assert {f"get_act_patch_{name}" for name in names} <= set(patching.__all__)
    made = {name for name in vars(functions) if name.startswith("get_")}
    assert made == {name for name in patching.__all__ if name.startswith("get_")} and len(made) == 54
    for name in names:
        if "dest_src" in name:
            continue
        expected = getattr(patching, f"get_act_patch_{name}")(
            llama, CORRUPTED, CLEAN, METRIC, engine="batched"
        )
        found = getattr(patching, f"get_lrp_patch_{name}")(llama, CORRUPTED, CLEAN, METRIC, backward=backward)
        assert found.shape == expected.shape, name
        assert torch.equal(found.isnan(), expected.isnan()), name
    assert expected.shape == (5, 2, 4, 4) and expected[1:3, ..., 2:].isnan().any()


def test_all_positions_are_the_sum_of_positions(llama):
    backward = patching.patching_pass(llama, CORRUPTED, METRIC)
    for part in ("out", "q", "k", "v"):
        total = getattr(patching, f"get_lrp_patch_attn_head_{part}_all_pos")(
            llama, CORRUPTED, CLEAN, METRIC, backward=backward
        )
        each = getattr(patching, f"get_lrp_patch_attn_head_{part}_by_pos")(
            llama, CORRUPTED, CLEAN, METRIC, backward=backward
        )
        torch.testing.assert_close(total, each.sum(1))
    by_entry = patching.get_lrp_patch_attn_head_pattern_dest_src_pos(
        llama, CORRUPTED, CLEAN, METRIC, backward=backward
    )
    by_row = patching.get_lrp_patch_attn_head_pattern_by_pos(
        llama, CORRUPTED, CLEAN, METRIC, backward=backward
    )
    torch.testing.assert_close(by_entry.sum(-1), by_row)


def test_scalar_metrics_caches_batches_and_baseline(gpt2):
    twin = patching.get_lrp_patch_mlp_out

    def scalar(logits):
        return METRIC(logits).mean()

    expected = twin(gpt2, CORRUPTED, CLEAN, METRIC)
    _, cache = gpt2.run_with_cache(CLEAN)
    torch.testing.assert_close(twin(gpt2, CORRUPTED, cache, scalar), expected)
    single = [twin(gpt2, CORRUPTED[i], CLEAN[i], METRIC) for i in range(2)]
    torch.testing.assert_close(torch.stack(single).mean(0), expected)
    base = METRIC(gpt2(CORRUPTED)).mean().detach()
    torch.testing.assert_close(twin(gpt2, CORRUPTED, CLEAN, METRIC, baseline=True), expected + base)


def test_noising_is_denoising_with_the_roles_swapped(gpt2):
    for family in ("act", "attribution", "lrp"):
        twin = getattr(patching, f"get_{family}_patch_resid_pre")
        noising = twin(gpt2, CORRUPTED, CLEAN, METRIC, direction="noising")
        torch.testing.assert_close(noising, twin(gpt2, CLEAN, CORRUPTED, METRIC))


@pytest.mark.parametrize("part", ["q", "k", "pattern"])
def test_what_a_rule_cuts_off_is_nan_with_the_reason(llama, part):
    twin = getattr(patching, f"get_lrp_patch_attn_head_{part}_all_pos")
    with pytest.warns(CutOffWarning, match=f"{part} in layer 0 is cut off by CP_LRP: pattern frozen"):
        assert twin(llama, CORRUPTED, CLEAN, METRIC, rules=CP_LRP).isnan().all()
    half = RELP.override(layers=[1], attention=AttentionWeights(0.0, 0.5, 1.0)) if part == "q" else None
    if half is not None:
        with pytest.warns(CutOffWarning, match="q in layer 1 is cut off"):
            scores = twin(llama, CORRUPTED, CLEAN, METRIC, rules=half)
        assert scores[0].isfinite().all() and scores[1].isnan().all()


def test_the_pattern_takes_its_half_of_the_product(llama):
    """Under the uniform rule, q and k share what the pattern has, and v has the other half."""
    passed = patching.patching_pass(llama, CORRUPTED, METRIC, rules=ATTN_LRP)
    last = record_name("pattern", 1)
    z, v = (passed.gradients[record_name(part, 1)] for part in "zv")
    own = passed.activations
    to_v = (own[record_name("v", 1)] * v).sum()
    to_pattern = (own[last] * passed.gradients[last]).sum() / 2
    total = (own[record_name("z", 1)] * z).sum()
    torch.testing.assert_close(to_v + to_pattern, total)
    scores = methods.gradient_times_input(passed, FACETS["attn_head_pattern_all_pos"])
    torch.testing.assert_close(scores[:, 1].sum(), to_pattern)


# ------------------------------------------------------------------------------------ what is refused
def test_bad_inputs_are_refused(gpt2):
    twin = patching.get_lrp_patch_resid_pre
    with pytest.raises(InputError, match="same number of tokens; received 3 and 4"):
        twin(gpt2, CORRUPTED, CLEAN[:, :3], METRIC)
    with pytest.raises(InputError, match="received 1 clean and 2 corrupted"):
        twin(gpt2, CORRUPTED, CLEAN[:1], METRIC)
    with pytest.raises(InputError, match="have one length"):
        twin(gpt2, [CORRUPTED[0], CORRUPTED[0, :3]], CLEAN, METRIC)
    _, cache = gpt2.run_with_cache(CLEAN)
    with pytest.raises(InputError, match="needs the clean prompts"):
        twin(gpt2, CORRUPTED, cache, METRIC, direction="noising")
    _, small = gpt2.run_with_cache(CLEAN, names_filter=record_name("z", 0))
    with pytest.raises(InputError, match="it has none at"):
        twin(gpt2, CORRUPTED, small, METRIC)
    with pytest.raises(InputError, match="has no rules; received RELP"):
        patching.get_attribution_patch_resid_pre(gpt2, CORRUPTED, CLEAN, METRIC, rules=RELP)
    with pytest.raises(InputError, match="received 'heads'"):
        patching.patching_pass(gpt2, CORRUPTED, METRIC, parts=["heads"])
    for steps in (0, True):
        with pytest.raises(InputError, match=f"at least 1; received {steps}"):
            patching.integrated_pass(gpt2, CORRUPTED, CLEAN, METRIC, steps=steps)


def test_a_pass_of_something_else_is_refused(gpt2):
    twin = patching.get_lrp_patch_resid_pre
    backward = patching.patching_pass(gpt2, CORRUPTED, METRIC, parts=["z"])
    with pytest.raises(InputError, match="made with other parts"):
        twin(gpt2, CORRUPTED, CLEAN, METRIC, backward=backward)
    with pytest.raises(InputError, match="of other tokens"):
        twin(gpt2, CLEAN, CORRUPTED, METRIC, backward=backward)
    with pytest.raises(InputError, match="serves the metric"):
        twin(gpt2, CORRUPTED, CLEAN, LogProb(5), backward=backward)
    with pytest.raises(InputError, match="serves the rules"):
        twin(gpt2, CORRUPTED, CLEAN, METRIC, rules=CP_LRP, backward=backward)


def test_a_pass_of_another_model_is_refused(gpt2, llama):
    """The same tokens, metric and rules, and even the same weights: gradients are those of one model object."""
    twin = patching.get_lrp_patch_resid_pre
    for other in (llama, zoo.bridge("gpt2")):
        backward = patching.patching_pass(other, CORRUPTED, METRIC)
        with pytest.raises(InputError, match="of another model object"):
            twin(gpt2, CORRUPTED, CLEAN, METRIC, backward=backward)
    with pytest.raises(InputError, match="made by patching_pass; received dict"):
        unchecked(twin)(gpt2, CORRUPTED, CLEAN, METRIC, backward={})


def unchecked(twin):
    """A twin without the type checks that pytest adds, as users call it."""
    call = type(twin).__call__
    return partial(getattr(call, "__wrapped__", call), twin)


def test_an_integrated_pass_serves_the_end_of_its_path_only(gpt2):
    twin, other = patching.get_attribution_patch_resid_pre, zoo.prompt_tokens(2, 4, 3)
    passed = patching.integrated_pass(gpt2, CORRUPTED, CLEAN, METRIC, steps=2)
    expected = twin(gpt2, CORRUPTED, CLEAN, METRIC, backward=passed)
    _, cache = gpt2.run_with_cache(CLEAN)
    torch.testing.assert_close(twin(gpt2, CORRUPTED, cache, METRIC, backward=passed), expected)
    _, wrong = gpt2.run_with_cache(other)
    for source in (other, wrong):
        with pytest.raises(InputError, match="other clean prompts"):
            twin(gpt2, CORRUPTED, source, METRIC, backward=passed)
        with pytest.raises(InputError, match="other clean prompts"):
            passed.scores(source, FACETS["mlp_out"])
    _, late = gpt2.run_with_cache(CLEAN, names_filter=record_name("mlp_out", 1))
    with pytest.raises(InputError, match="holds neither"):
        passed.scores(late, FACETS["mlp_out"])
    plain = patching.patching_pass(gpt2, CORRUPTED, METRIC)  # has no path, and serves any
    assert plain.scores(other, FACETS["mlp_out"]).isfinite().all()
    assert methods.gradient_times_input(passed, FACETS["resid_pre"]).isfinite().all()


def test_both_names_of_the_metric_and_its_default(gpt2):
    for family in ("act", "lrp"):
        twin = getattr(patching, f"get_{family}_patch_mlp_out")
        expected = twin(gpt2, CORRUPTED, CLEAN, METRIC)
        torch.testing.assert_close(twin(gpt2, CORRUPTED, CLEAN, patching_metric=METRIC), expected)
        torch.testing.assert_close(twin(gpt2, CORRUPTED, CLEAN, metric=METRIC), expected)
        with pytest.raises(InputError, match="takes one metric"):
            twin(gpt2, CORRUPTED, CLEAN, METRIC, metric=METRIC)
        ids = gpt2(CLEAN)[:, -1].topk(2).indices
        chosen = LogitDiff(ids[:, 0].tolist(), ids[:, 1].tolist())
        torch.testing.assert_close(twin(gpt2, CORRUPTED, CLEAN), twin(gpt2, CORRUPTED, CLEAN, chosen))
        _, cache = gpt2.run_with_cache(CLEAN)
        with pytest.raises(InputError, match="received a cache of activations"):
            twin(gpt2, CORRUPTED, cache)
        for option in ("index_df", "return_index_df"):
            with pytest.raises(InputError, match=f"{option} is an option of transformer_lens"):
                twin(gpt2, CORRUPTED, CLEAN, METRIC, **{option: True})
        with pytest.raises(InputError, match="indexdf is no option"):
            twin(gpt2, CORRUPTED, CLEAN, METRIC, indexdf=None)
    block = patching.get_lrp_patch_block_every(gpt2, CORRUPTED, CLEAN, metric=METRIC)
    torch.testing.assert_close(block[2], expected)
    backward = patching.patching_pass(gpt2, CORRUPTED, METRIC)
    torch.testing.assert_close(twin(gpt2, CORRUPTED, CLEAN, backward=backward), expected)
    with pytest.raises(InputError, match="names its tokens; received None"):
        patching.patching_pass.__wrapped__(gpt2, CORRUPTED, None)


def test_rules_by_the_name_of_their_preset(gpt2):
    twin = patching.get_lrp_patch_mlp_out
    expected = twin(gpt2, CORRUPTED, CLEAN, METRIC, rules=CP_LRP)
    torch.testing.assert_close(twin(gpt2, CORRUPTED, CLEAN, METRIC, rules="CP_LRP"), expected)
    backward = patching.patching_pass(gpt2, CORRUPTED, METRIC, rules="CP_LRP")
    torch.testing.assert_close(
        twin(gpt2, CORRUPTED, CLEAN, METRIC, rules="CP_LRP", backward=backward), expected
    )
    with pytest.raises(RuleError, match=r"rules is a RuleSet, or one of ATTN_LRP, .*received 'LRP'"):
        twin(gpt2, CORRUPTED, CLEAN, METRIC, rules="LRP")


@pytest.mark.parametrize("engine", ["foo", None, "Batched"])
def test_unknown_engines_are_refused(gpt2, engine):
    with pytest.raises(
        InputError, match=f"engine is one of auto, restarted, transformer_lens, batched; received {engine!r}"
    ):
        unchecked(patching.get_act_patch_mlp_out)(gpt2, CORRUPTED, CLEAN, METRIC, engine=engine)


def test_train_mode_is_refused():
    model = zoo.bridge("gpt2").train()
    for family in ("act", "lrp"):
        with pytest.raises(InputError, match="train mode"):
            getattr(patching, f"get_{family}_patch_resid_pre")(model, CORRUPTED, CLEAN, METRIC)


# ------------------------------------------------------------------------------------ AtP*, integrated gradients
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt_oss", "bloom"])
@pytest.mark.parametrize("part", ["q", "k"])
def test_the_qk_fix_recomputes_the_softmax(architecture, part):
    """Each cell patched by hand: the layer's own pattern, times the gradient at the pattern."""
    model = zoo.bridge(architecture)
    facet = FACETS[f"attn_head_{part}_by_pos"]
    star = patching.atp_star(model, CORRUPTED, METRIC, grad_drop=False)
    found = star.scores(CLEAN, facet).mean(0)
    layer, records = 1, resolve(model).record_of
    with torch.no_grad():
        _, clean = model.run_with_cache(CLEAN)
        _, own = model.run_with_cache(CORRUPTED)
    value = own[record_name("v", layer)]
    value = value.repeat_interleave(model.cfg.n_heads // value.shape[2], 2)
    gz = star.gradients[record_name("z", layer)]
    to_pattern = torch.einsum("bihd,bjhd->bhij", gz, value)
    name, pattern = record_name(part, layer), record_name("pattern", layer)
    for pos in range(4):
        for head in range(own[name].shape[2]):

            def patch(tensor, hook, pos=pos, head=head):
                tensor = tensor.clone()
                tensor[:, pos, head] = clean[name][:, pos, head]
                return tensor

            with model.hooks(fwd_hooks=[(records[name].port.name, patch)]), torch.no_grad():
                _, cache = model.run_with_cache(CORRUPTED)
            expected = ((cache[pattern] - own[pattern]) * to_pattern).sum((1, 2, 3)).mean()
            torch.testing.assert_close(found[layer, pos, head], expected, atol=1e-5, rtol=1e-5)


def test_the_qk_fix_refuses_scores_that_are_none():
    model = zoo.bridge("gptj")
    star = patching.atp_star(model, CORRUPTED, METRIC, grad_drop=False)
    assert star.scores(CLEAN, FACETS["attn_head_q_by_pos"]).isfinite().all()
    with pytest.raises(SiteError, match="fires other numbers"):
        star.scores(CLEAN, FACETS["attn_head_k_by_pos"])


def test_grad_drop_averages_over_dropped_layers(gpt2):
    facet = FACETS["attn_head_out_by_pos"]
    plain = patching.atp_star(gpt2, CORRUPTED, METRIC, qk_fix=False)
    signed = patching.atp_star(gpt2, CORRUPTED, METRIC, qk_fix=False, signed=True)
    assert (plain.forwards, plain.backwards) == (1, 3)
    first, second = (one.scores(CLEAN, facet) for one in plain.drops)
    assert (first[:, 0] == 0).all() and (second[:, 1] == 0).all()
    torch.testing.assert_close(plain.scores(CLEAN, facet), first.abs() + second.abs())
    torch.testing.assert_close(signed.scores(CLEAN, facet), first + second)
    last = patching.get_attribution_patch_attn_head_out_by_pos(gpt2, CORRUPTED, CLEAN, METRIC)[1]
    torch.testing.assert_close(first[:, 1].mean(0), last)  # nothing behind the last layer is dropped
    out = plain.scores(CLEAN, FACETS["mlp_out"])
    assert out.shape == (2, 2, 4) and (out >= 0).all()


def test_integrated_gradients_sum_to_the_change_of_the_metric(gpt2):
    change = (METRIC(gpt2(CLEAN)) - METRIC(gpt2(CORRUPTED))).mean().detach()
    errors = []
    for steps in (2, 12):
        passed = patching.integrated_pass(gpt2, CORRUPTED, CLEAN, METRIC, steps=steps)
        scores = patching.get_attribution_patch_resid_pre(gpt2, CORRUPTED, CLEAN, METRIC, backward=passed)
        errors.append((scores[0].sum() - change).abs().item())
    assert errors[1] < 1e-2 * change.abs() and errors[1] < errors[0]
    assert (passed.forwards, passed.backwards) == (14, 13)


def test_one_step_is_the_pass_at_the_middle_of_the_path(gpt2):
    """LRP coefficients are averaged like gradients: those of one step are those between the two embeddings."""
    passed = patching.integrated_pass(gpt2, CORRUPTED, CLEAN, METRIC, steps=1, rules=RELP)
    end = gpt2.run_with_cache(CLEAN)[1]["hook_embed"].detach()
    with gpt2.hooks(fwd_hooks=[("hook_embed", lambda tensor, hook: (tensor + end) / 2)]):
        plain = patching.patching_pass(gpt2, CORRUPTED, METRIC, rules=RELP)
    name = record_name("mlp_out", 0)
    torch.testing.assert_close(passed.gradients[name], plain.gradients[name])
    assert not torch.allclose(
        passed.gradients[name], patching.patching_pass(gpt2, CORRUPTED, METRIC, rules=RELP).gradients[name]
    )


# ------------------------------------------------------------------------------------ controls
def test_controls(gpt2):
    passed = patching.patching_pass(gpt2, CORRUPTED, METRIC, rules=GRADIENT)
    stream = FACETS["resid_pre"]
    name = record_name("resid_pre", 1)
    product = (passed.activations[name] * passed.gradients[name]).sum(-1)
    torch.testing.assert_close(methods.gradient_times_input(passed, stream)[:, 1], product)
    rollout = methods.attention_rollout(passed, stream)
    torch.testing.assert_close(rollout.sum(-1), torch.ones(2, 2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (rollout >= 0).all()
    with pytest.raises(SiteError, match="defined on resid_pre"):
        methods.attention_rollout(passed, FACETS["mlp_out"])
    noise = methods.random_scores(rollout, seed=1)
    assert torch.equal(noise, methods.random_scores(rollout, seed=1)) and noise.shape == rollout.shape


def test_atp_star_counts_the_forwards_of_the_sites_it_scores(gpt2):
    star = patching.atp_star(gpt2, CORRUPTED, METRIC)
    of = {part: FACETS[f"attn_head_{part}_by_pos"] for part in ("out", "q", "k")}
    assert star.forwards_for([of["out"]]) == 1  # the run, whose graph serves every dropped layer
    assert star.forwards_for([of["q"]]) == 3  # the softmax of the run, and with the queries patched
    assert star.forwards_for(of.values()) == star.forwards == 4


def test_nothing_is_left_behind(gpt2):
    with pytest.raises(ZeroDivisionError):
        patching.get_act_patch_resid_pre(gpt2, CORRUPTED, CLEAN, lambda logits: 1 / 0, engine="batched")
    patching.atp_star(gpt2, CORRUPTED, METRIC)
    assert not any(point.fwd_hooks for point in gpt2.hook_dict.values())
    assert set(PARTS) == {facet.part for facet in FACETS.values()}
