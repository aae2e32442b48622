"""Importing lrp_lens is quick, complete and leaves no trace."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Mapping

import pytest

import lrp_lens

SECONDS_ALLOWED = 0.3

TIMING = """
import time
start = time.process_time()
import lrp_lens
print(time.process_time() - start)
"""

# Libraries first: what they do on import is theirs. Then a snapshot on both sides of every module of ours.
SIDE_EFFECTS = """
import importlib, json, logging, os, pkgutil, random, sys, warnings
import numpy, pandas, plotly.express, plotly.io, plotly.offline
import rich.console, safetensors.torch, tqdm.auto, typer
import torch, transformers, transformer_lens, transformer_lens.model_bridge
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
try:
    from transformer_lens import HookedTransformer
except ImportError:
    pass  # transformer_lens 4

def state():
    root = logging.getLogger()
    return {
        "default dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch seed": torch.get_rng_state().tolist(),
        "numpy seed": str(numpy.random.get_state()),
        "python seed": str(random.getstate()),
        "log level": [root.level, logging.getLogger("transformers").level, logging.root.manager.disable],
        "log handlers": [str(handler) for handler in root.handlers],
        "warning filters": [str(entry) for entry in warnings.filters],
        "plotly template": str(plotly.io.templates.default),
        "plotly renderer": str(plotly.io.renderers.default),
        "pandas display": str(pandas.get_option("display.max_rows")),
        "environment": dict(os.environ),
        "exception hook": str(sys.excepthook),
    }

before = state()
import lrp_lens
for found in pkgutil.walk_packages(lrp_lens.__path__, "lrp_lens."):
    if found.name != "lrp_lens.__main__":
        importlib.import_module(found.name)
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""


def run(program: str) -> str:
    """The last line that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_import_is_quick() -> None:
    """In processor time, whatever else runs; no library that the names need is there yet."""
    assert float(run(TIMING)) < SECONDS_ALLOWED


def test_import_leaves_no_trace() -> None:
    assert json.loads(run(SIDE_EFFECTS)) == []


MODULES = sorted(
    {found.name for found in pkgutil.walk_packages(lrp_lens.__path__, "lrp_lens.")} - {"lrp_lens.__main__"}
)


def test_every_module_imports_on_this_host_and_says_what_it_is() -> None:
    assert [name for name in MODULES if not importlib.import_module(name).__doc__] == []


def test_public_names_are_listed_once() -> None:
    assert len(lrp_lens.__all__) == len(set(lrp_lens.__all__))
    assert lrp_lens.__version__ == "0.1.0"


def test_public_names_exist_and_are_documented() -> None:
    values = {name: getattr(lrp_lens, name) for name in lrp_lens.__all__}
    bare = [
        n for n, value in values.items() if not (isinstance(value, str | Mapping) or inspect.getdoc(value))
    ]
    assert bare == []


def test_a_public_name_that_is_a_room_is_that_room() -> None:
    """`import lrp_lens.room` sets the attribute `room` on the package, and would replace a function of that name."""
    rooms = set(lrp_lens.__all__) & {name.split(".")[1] for name in MODULES}
    assert rooms >= {"plots", "patching", "circuits", "attribution_graphs", "masking", "report"}
    assert all(inspect.ismodule(getattr(lrp_lens, name)) for name in rooms)


LAZY = """
import sys, lrp_lens
assert "plotly" not in sys.modules and "torch" not in sys.modules and set(lrp_lens.__all__) == set(dir(lrp_lens))
lrp_lens.plots.plot_heads, lrp_lens.graph_html
assert "torch" not in sys.modules
assert lrp_lens.patching.compare is lrp_lens.compare
try:
    lrp_lens.plot
except AttributeError as error:
    print(error)
"""


def test_rooms_resolve_without_a_second_import() -> None:
    assert run(LAZY) == "module 'lrp_lens' has no attribute 'plot'"


@pytest.mark.parametrize("room", ["hosts", "run", "report"])
def test_internals_are_no_public_names(room: str) -> None:
    internal = {"dead", "Calls", "Balance", "SiteError", "Section", "figure_block", "page_html"}
    assert not internal & set(importlib.import_module(f"lrp_lens.{room}").__all__)


def test_signatures_fit_into_a_tooltip() -> None:
    """No rule set is written out, and the main door's is short."""
    signatures = {
        name: str(inspect.signature(value))
        for name in lrp_lens.__all__
        if inspect.isfunction(value := getattr(lrp_lens, name))
    }
    door = signatures["run_with_relevance"]
    assert len(door) < 450 and f"RuleSet | str = {lrp_lens.DEFAULT_RULES.name}," in door
    assert not [name for name, text in signatures.items() if "RuleSet(" in text or len(text) > 1000]
