"""Patched runs that start at their layer and position, against the definition: one whole run for each patch."""

import collections
import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lrp_lens import InputError, LogitDiff, LogProb, SequenceLogitDiff, SiteError, compare, patching
from lrp_lens.hosts import dead, resolve, restart
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.restart import Run
from lrp_lens.methods import relevance_method
from lrp_lens.methods.facets import FACETS, record_name
from lrp_lens.methods.inputs import aligned
from lrp_lens.metrics import CallableMetric, Metric
from lrp_lens.patching import waves
from lrp_lens.patching.activation import activation_values
from lrp_lens.patching.cells import Chosen, grouped
from lrp_lens.rules import RELP
from tests import zoo
from tests.patched_alone import patch_one_by_one

METRIC = LogitDiff(5, 7)
CLEAN, CORRUPTED = zoo.prompt_tokens(2, 5, 1), zoo.prompt_tokens(2, 5, 2)
SITES = ("resid_pre", "attn_head_k_by_pos", "attn_head_pattern_by_pos", "mlp_out", "attn_head_out_all_pos")


def definition(model, site, found, metrics=(METRIC,), own=CORRUPTED, other=CLEAN, only=None):
    """The same cells as `found` [metric, batch, layer, *axes], one whole run each; NaN but for `only`."""
    cells = [(layer, cell) for layer, *cell in itertools.product(*map(range, found.shape[2:]))]
    cells = [(layer, tuple(cell)) for layer, cell in cells if only is None or (layer, *cell) in only]
    values = torch.full_like(found, torch.nan)
    for (layer, cell), one in zip(
        cells, patch_one_by_one(model, own, other, site, metrics, cells).unbind(-1), strict=True
    ):
        values[(slice(None), slice(None), layer, *cell)] = one
    return values


def restarted(model, site, metrics=(METRIC,), own=CORRUPTED, other=CLEAN, **options):
    return activation_values(model, own, other, FACETS[site], list(metrics), engine="restarted", **options)


def same(host, found, expected):
    tolerance = 1e-9 if host != "bridge" else 1e-6  # transformers computes parts in float32
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance, equal_nan=True)


def live(model, site):
    name = record_name(FACETS[site].part, 0)
    return name in resolve(model).record_of and name not in dead(model)


@pytest.fixture(params=[host for host in zoo.BUILD if host != "native"], scope="module")
def llama(request):
    return request.param, zoo.BUILD[request.param]("llama")


# ------------------------------------------------------------------------------------ fast = slow
@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_restarted_sweeps_equal_the_definition_on_every_architecture(host, name):
    model = zoo.BUILD[host](name)
    run = Run(model, resolve(model), CORRUPTED)
    assert all(run.start(after) is not None for after in range(5))
    for site in SITES if name in ("llama", "gemma2", "ln_gelu_new") else ("mlp_out", "attn_head_k_by_pos"):
        if "attention_only" in name and site == "mlp_out":
            with pytest.raises(SiteError, match="never fires"):
                restarted(model, site)
        elif live(model, site):
            found = restarted(model, site)
            same(host, found, definition(model, site, found))
            assert found.std() > 1e-3


@pytest.mark.parametrize("site", [name for name in FACETS if name not in SITES])
def test_restarted_sweeps_equal_the_definition_at_every_site(llama, site):
    """Two key-value heads serve four query heads."""
    host, model = llama
    if site == "resid_mid" and host == "bridge":
        expected = activation_values(model, CORRUPTED, CLEAN, FACETS[site], [METRIC], engine="batched")
        return same(host, restarted(model, site), expected)
    found = restarted(model, site)
    if site == "attn_head_pattern_dest_src_pos":
        only = [(0, 1, 2, 1), (1, 3, 4, 0), (1, 0, 4, 4)]
        cells = torch.stack([found[(slice(None), slice(None), *cell)] for cell in only], dim=-1)
        expected = patch_one_by_one(model, CORRUPTED, CLEAN, site, [METRIC], [(c[0], c[1:]) for c in only])
        return same(host, cells, expected)
    same(host, found, definition(model, site, found))


def test_several_metrics_and_answers_share_the_patched_runs(llama):
    """Metrics at different positions, one of all logits, and answers of several tokens, two rows a prompt."""
    host, model = llama

    def squares(logits):
        return logits.square().mean((1, 2))

    early = LogProb(5, pos=1)
    for metrics in ([METRIC, early], [early, CallableMetric(squares), METRIC]):
        found = restarted(model, "mlp_out", metrics)
        same(host, found, definition(model, "mlp_out", found, metrics))
        assert found[metrics.index(early), :, :, 2:].std(-1).max() < 1e-9  # nothing before the patch changes
    answers = SequenceLogitDiff((5, 8), (7, 9, 11))
    own, other = (aligned(model, ids, "these", answers) for ids in (CORRUPTED, CLEAN))
    found = restarted(model, "attn_out", [answers])
    assert found.shape == (1, 2, 2, 7) and own.ids.shape == (4, 7)
    bound = answers.bind(own.starts, own.prompt_lengths, model.cfg.d_vocab)
    same(host, found, definition(model, "attn_out", found, [bound], own.ids, other.ids))
    assert found[..., -2:].std() > 1e-6  # in the answers, too


def test_small_batches_and_parts_of_the_cells_give_the_same(llama):
    host, model = llama
    whole = restarted(model, "attn_head_out_by_pos")
    same(host, restarted(model, "attn_head_out_by_pos", batch_tokens=1), whole)
    for layers, positions, rows, columns in ((1, [0, -1], [1], [0, 4]), ([0, 1], 3, [0, 1], [3])):
        part = restarted(model, "attn_head_out_by_pos", layers=layers, positions=positions)
        expected = torch.full_like(whole, torch.nan)
        for row, column in itertools.product(rows, columns):
            expected[:, :, row, column] = whole[:, :, row, column]
        same(host, part, expected)
        twin = patching.get_act_patch_attn_head_out_by_pos(
            model, CORRUPTED, CLEAN, METRIC, layers=layers, positions=positions
        )
        same(host, twin, expected[0].mean(0))
    with pytest.raises(InputError, match=r"layers lie in \[-2, 2\); received 2"):
        restarted(model, "mlp_out", layers=2)
    with pytest.raises(InputError, match="whose patches cover all positions"):
        restarted(model, "attn_head_out_all_pos", positions=1)


def test_long_prompts_share_starts():
    facet = FACETS["mlp_out"]
    where = [(layer, (pos,)) for layer in range(3) for pos in range(40)]
    groups = grouped(facet, where, 40)
    assert list(groups) == list(range(0, 40, 3)) and sum(map(len, groups.values())) == len(where)
    assert all(start <= pos < start + 3 for start, cells in groups.items() for _, (pos,) in cells)
    assert all(cells == sorted(cells) for cells in groups.values())
    assert Chosen.of(None, None, 2, 3) == Chosen((0, 1), (0, 1, 2))


# ------------------------------------------------------------------------------------ controls
def test_a_restart_from_the_wrong_layer_is_noticed(llama, monkeypatch):
    """By the definition, if states are taken elsewhere; by the check, if blocks were kept wrongly."""
    model = llama[1]
    right = restarted(model, "mlp_out")
    state = restart.Start.state
    with monkeypatch.context() as patch:
        patch.setattr(
            restart.Start, "state", lambda self, layer, copies: state(self, max(layer - 1, 0), copies)
        )
        assert (restarted(model, "mlp_out") - right).abs().max() > 1e-3
    run = Run(model, resolve(model), CORRUPTED)
    calls = dict(run._calls)
    for layer in (0, 1):
        run._calls[layer] = replace(calls[layer], state=calls[1 - layer].state)
    assert run.start(0) is None and run.start(2) is None
    again = Run(model, resolve(model), CORRUPTED)
    layer = again._past.layer
    monkeypatch.setattr(again._past, "layer", lambda index, rows, after: layer(1 - index, rows, after))
    assert again.start(0) is not None and again.start(2) is None and again.start(2) is None
    other = Run(model, resolve(model), CORRUPTED)
    layer_of = other._past.layer
    monkeypatch.setattr(other._past, "layer", lambda index, rows, after: layer_of(index, 1 - rows, after))
    assert other.start(2) is None  # the keys of another prompt


def test_where_a_restart_is_not_exact_whole_runs_are_made(llama, monkeypatch):
    host, model = llama
    expected = restarted(model, "mlp_out")
    start = Run.start
    monkeypatch.setattr(Run, "start", lambda self, after: None if after else start(self, after))
    same(host, restarted(model, "mlp_out"), expected)
    monkeypatch.setattr(Run, "start", lambda self, after: None)
    with pytest.raises(SiteError, match="Use engine='auto' or 'batched'"):
        restarted(model, "mlp_out")
    monkeypatch.setattr(waves, "wave", None)
    found = activation_values(model, CORRUPTED, CLEAN, FACETS["mlp_out"], [METRIC])
    same(host, found, expected)


def test_with_hooks_of_the_users_whole_runs_are_made_one_at_a_time(llama):
    """A hook may hold one number for each row and position, as this one does."""
    host, model = llama
    noise = torch.randn(2, 5, model.cfg.d_model, generator=torch.Generator().manual_seed(0)).double()
    name = record_name("mlp_out", 1)

    with model.hooks(fwd_hooks=[(name, lambda tensor, hook: tensor + noise)]):
        found = activation_values(model, CORRUPTED, CLEAN, FACETS["attn_out"], [METRIC])
        expected = definition(model, "attn_out", found)
        with pytest.raises(InputError, match="runs every cell; received layers=1"):
            patching.get_act_patch_attn_out(
                model, CORRUPTED, CLEAN, METRIC, engine="transformer_lens", layers=1
            )
    same(host, found, expected)
    assert (found - restarted(model, "attn_out")).abs().max() > 1e-3


# ------------------------------------------------------------------------------------ compare
def counted(monkeypatch, name, original):
    """Count the calls of a function wherever the package has imported it."""
    calls = []

    def count(*arguments, **options):
        calls.append(name)
        return original(*arguments, **options)

    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("lrp_lens") and getattr(module, name, None) is original:
            monkeypatch.setattr(module, name, count)
    return calls


def test_compare_asks_once(monkeypatch):
    """For 2 sites and 3 methods: what a method's own pass asks, and a handful for all the rest."""
    from lrp_lens.hosts import tokens

    model = zoo.shared("bridge", "llama")
    resolve(model)  # looks at the model once in its life
    looked_up = counted(monkeypatch, "resolve", resolve)
    read = counted(monkeypatch, "tokenize", tokens.tokenize)
    bound, bind = [], Metric.bind
    monkeypatch.setattr(Metric, "bind", lambda self, *options: bound.append(1) or bind(self, *options))
    whole = counted(monkeypatch, "forward", forward)
    sites, methods = ["mlp_out", "attn_out"], ["GRADIENT", "RELP", "CP_LRP"]
    compare(model, CLEAN, CORRUPTED, METRIC, sites=sites, methods=methods, samples=0)
    counts = collections.Counter(looked_up + read)
    # its plain run asks once, too
    assert counts["resolve"] <= 3 + 4 * len(methods) and counts["tokenize"] <= 2 + len(methods)
    assert len(bound) <= 1 + len(methods)
    assert len(whole) <= 2 + 2 * len(methods)  # both runs; for each method its own and its clean run
    assert looked_up and read and bound and whole


def test_an_interrupted_comparison_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    model = zoo.shared("bridge", "llama")
    options = dict(sites=["mlp_out", "attn_out"], methods=["GRADIENT", "RELP", "random"], samples=20)
    expected = compare(model, CLEAN, CORRUPTED, METRIC, **options)
    kept = dict(checkpoint=tmp_path / "kept", **options)
    room, done = sys.modules["lrp_lens.patching.activation"], []
    wave = waves.wave

    def interrupted(*arguments):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(1)
        return wave(*arguments)

    monkeypatch.setattr(room, "wave", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(model, CLEAN, CORRUPTED, METRIC, **kept)
    done.clear()
    found = compare(model, CLEAN, CORRUPTED, METRIC, **kept)
    assert len(done) == 2 * 5 - 7
    scoring = sys.modules["lrp_lens.patching.scoring"]
    monkeypatch.setattr(room, "wave", None)
    monkeypatch.setattr(scoring, "_scores", None)
    again = compare(model, CLEAN, CORRUPTED, METRIC, **kept)  # nothing is left to do
    timed = ["seconds", "peak_mb", "exact_seconds"]
    for one in (found, again):
        assert one.table().drop(columns=timed).equals(expected.table().drop(columns=timed))
        for key, scores in expected.scores.items():
            np.testing.assert_array_equal(one.scores[key].values, scores.values)
    other = zoo.bridge("llama")
    with torch.no_grad():
        other.blocks[1].mlp.out.weight[0, 0] *= 1.2
    for name, wrong in dict(
        model=dict(model=other),
        clean=dict(clean=CLEAN.flip(1)),
        corrupted=dict(corrupted=CORRUPTED.flip(1)),
        metric=dict(metric=LogitDiff(5, 8)),
        layers=dict(layers=1),
        direction=dict(direction="noising"),
        sites=dict(sites=["mlp_out"]),
        engine=dict(engine="batched"),
    ).items():
        with pytest.raises(InputError, match=f"written for other {name}\\."):
            compare(**dict(model=model, clean=CLEAN, corrupted=CORRUPTED, metric=METRIC) | kept | wrong)
    method = replace(
        relevance_method(RELP), score=lambda passed, source, facet: passed.scores(source, facet) / 2
    )
    with pytest.raises(InputError, match="written for other method RELP"):
        compare(model, CLEAN, CORRUPTED, METRIC, **kept | dict(methods=[method]))
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(InputError, match="is a file"):
        compare(model, CLEAN, CORRUPTED, METRIC, **options, checkpoint=path)


def test_layers_and_positions_of_a_comparison_are_cells_of_the_whole():
    model = zoo.shared("bridge", "llama")
    options = dict(sites=["mlp_out", "attn_head_out_by_pos"], methods=["RELP", "random"], samples=0, ks=())
    whole = compare(model, CLEAN, CORRUPTED, METRIC, **options)
    part = compare(model, CLEAN, CORRUPTED, METRIC, layers=[1], positions=[2, -1], **options)
    for key, scores in {
        **whole.exact,
        **{k: v for k, v in whole.scores.items() if "random" not in k},
    }.items():
        found = part.exact[key] if len(key) == 2 else part.scores[key]
        expected = np.full_like(scores.values, np.nan)
        expected[:, 1, [2, 4]] = scores.values[:, 1, [2, 4]]
        np.testing.assert_allclose(found.values, expected, atol=1e-9)
    rows = part.table().set_index(["site", "method"])
    assert rows.n_cells["mlp_out", "RELP"] == 2 == rows.exact_forwards["mlp_out", "RELP"]
    assert rows.n_cells["attn_head_out_by_pos", "RELP"] == 8
    assert np.isfinite(rows.pearson["attn_head_out_by_pos", "random"])
