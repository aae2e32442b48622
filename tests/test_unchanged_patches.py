"""Patches that put in what the run has there anyway are not run, and have the unpatched metric; all others are."""

import sys

import numpy as np
import pytest
import torch

from lrp_lens import LogitDiff, SequenceLogitDiff, compare, patching
from lrp_lens.hosts.scope import attached
from lrp_lens.methods.facets import FACETS, record_name
from lrp_lens.patching import waves
from lrp_lens.patching.activation import activation_values
from tests import zoo
from tests.patched_alone import patch_one_by_one

METRIC = LogitDiff(5, 7)
CORRUPTED = zoo.prompt_tokens(2, 6, 2)
CLEAN = CORRUPTED.clone()
CLEAN[0, 3:], CLEAN[1, 4:] = zoo.prompt_tokens(2, 6, 1)[0, 3:], zoo.prompt_tokens(2, 6, 1)[1, 4:]
SITES = ("resid_pre", "resid_mid", "attn_head_k_by_pos", "attn_head_pattern_by_pos", "attn_head_out_all_pos")
HOSTS = [host for host in zoo.BUILD if host != "native"]


@pytest.fixture(params=HOSTS, scope="module")
def llama(request):
    """A model of its own: the definition leaves hooks on the parts of a TransformerBridge."""
    return request.param, zoo.BUILD[request.param]("llama")


@pytest.fixture
def ran(monkeypatch):
    """The cells that are run, in either of the two ways."""
    cells = []
    room = sys.modules["lrp_lens.patching.activation"]
    for name, position in (("wave", 4), ("whole_batches", 3)):
        original = getattr(waves, name)

        def spy(*arguments, original=original, position=position):
            cells.extend(arguments[position])
            return original(*arguments)

        monkeypatch.setattr(room, name, spy)
    return cells


def every_cell(values):
    return list(np.ndindex(values.shape[2:]))


@pytest.mark.parametrize("engine", ["restarted", "batched"])
@pytest.mark.parametrize("site", SITES)
def test_nothing_before_the_first_difference_is_run(llama, engine, site, ran):
    host, model = llama
    found = activation_values(model, CORRUPTED, CLEAN, FACETS[site], [METRIC], engine=engine)
    base = METRIC(model(CORRUPTED)).detach()
    cells = every_cell(found)
    together = {(layer, tuple(cell)) for layer, *cell in cells} - set(ran)
    axes = FACETS[site].axes
    if "pos" in axes or "dest_pos" in axes:
        at = axes.index("pos" if "pos" in axes else "dest_pos")
        early = {(layer, tuple(cell)) for layer, *cell in cells if cell[at] < 3}
        # of the embedding alone, a token that both prompts have is the same at any position
        assert together >= early
        assert all(
            cell[at] < 3 or CLEAN[:, cell[at]].eq(CORRUPTED[:, cell[at]]).all() for _, cell in together
        )
    else:
        assert not together
    for layer, cell in together:
        torch.testing.assert_close(found[(0, slice(None), layer, *cell)], base, atol=0, rtol=1e-12)
    tolerance = 1e-9 if host != "bridge" else 1e-6  # transformers computes parts in float32
    if site != "resid_mid" or host != "bridge":  # see hosts.patching
        order = [(layer, tuple(cell)) for layer, *cell in cells]
        expected = patch_one_by_one(model, CORRUPTED, CLEAN, site, [METRIC], order)
        torch.testing.assert_close(found.flatten(2), expected, atol=tolerance, rtol=tolerance)


def test_one_bit_in_one_row_is_a_patch_that_is_run(ran):
    model = zoo.bridge("llama")
    name = record_name("mlp_out", 0)
    _, cache = model.run_with_cache(CORRUPTED)
    cache = {key: value.detach().clone() for key, value in cache.items()}
    patched = patching.get_act_patch_mlp_out(model, CORRUPTED, cache, METRIC)
    assert not ran and torch.equal(patched, patched[0, 0].expand_as(patched))
    cache[name][1, 2, 0] = torch.nextafter(cache[name][1, 2, 0], torch.tensor(torch.inf).to(cache[name]))
    patching.get_act_patch_mlp_out(model, CORRUPTED, cache, METRIC)
    assert ran == [(0, (2,))]


def test_a_cache_holds_patterns_of_every_layer():
    model = zoo.bridge("llama")
    _, cache = model.run_with_cache(CLEAN)
    found = patching.get_act_patch_attn_head_pattern_by_pos(model, CORRUPTED, cache, METRIC)
    of_prompts = patching.get_act_patch_attn_head_pattern_by_pos(model, CORRUPTED, CLEAN, METRIC)
    torch.testing.assert_close(found, of_prompts)


def test_functions_of_the_users_may_count_runs_so_every_patch_is_run(ran):
    model = zoo.bridge("llama")
    calls = []
    with attached(model, [(model.hook_dict["blocks.0.hook_mlp_out"], lambda tensor, hook: calls.append(1))]):
        found = activation_values(model, CORRUPTED, CLEAN, FACETS["mlp_out"], [METRIC], engine="batched")
    assert len(ran) == len(every_cell(found)) and calls


def test_a_comparison_says_how_many_patches_were_run(ran):
    model = zoo.shared("bridge", "llama")
    options = dict(methods=["RELP"], samples=0, ks=())
    sites = ["mlp_out", "attn_head_v_by_pos"]
    found = compare(model, CLEAN, CORRUPTED, METRIC, sites=sites, **options)
    table = found.table().set_index("site")
    heads = found.exact["metric", "attn_head_v_by_pos"].values.shape[-1]
    assert table.n_cells.tolist() == [2 * 6, 2 * 6 * heads]
    assert table.exact_forwards.tolist() == [2 * 3, 2 * 3 * heads]
    assert len(ran) == table.exact_forwards.sum()
    assert np.all(found.exact["metric", "mlp_out"].values[:, :, :3] == 0)
    answers = SequenceLogitDiff((5, 6), (7, 8))  # all but the last token is appended: two rows of 7
    several = compare(model, CLEAN, CORRUPTED, answers, sites=["mlp_out"], **options)
    assert several.table().exact_forwards.tolist() == [2 * 4]


def test_a_finished_part_of_a_checkpoint_has_them_too(tmp_path, ran, monkeypatch):
    model = zoo.shared("bridge", "llama")
    options = dict(sites=["mlp_out"], methods=["RELP"], samples=0, ks=(), checkpoint=tmp_path)
    first = compare(model, CLEAN, CORRUPTED, METRIC, **options)
    ran.clear()
    monkeypatch.setattr("lrp_lens.patching.runs.Runs.unchanged", lambda *_: frozenset())
    again = compare(model, CLEAN, CORRUPTED, METRIC, **options)  # a host that gives other bits, say
    assert not ran
    np.testing.assert_array_equal(
        again.exact["metric", "mlp_out"].values, first.exact["metric", "mlp_out"].values
    )
