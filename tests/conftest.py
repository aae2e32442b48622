"""What every test gets: no network, one thread per worker, fresh seeds, a check that nothing is left behind.

Fixtures that several rooms need belong here, too; what one room needs stays in its test file.  Model libraries are
imported by the fixtures that need them, so that tests without a model stay quick to start.
"""

import os
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read on import by the libraries they name, so they are set before anything else is imported.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="disabled",
    COLUMNS="120",
    NO_COLOR="1",
)

import hypothesis
import numpy as np
import pytest
import torch

# Helpers of tests hold no tests, and some import only on one host: not for --doctest-modules.
HERE = Path(__file__).parent
collect_ignore = [str(path) for path in HERE.rglob("*.py") if not path.name.startswith("test_")]

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=25
)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _fresh_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (third-party code may use the legacy generator)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    yield
    left = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    assert left == (torch.float32, True, False), f"the test left (dtype, grad, inference) = {left}"


@pytest.fixture(autouse=True)
def _shared_models_left_as_found() -> Iterator[None]:
    """Models of `zoo.shared` are handed back as they were."""
    yield
    if "tests.zoo" in sys.modules:
        changed = sys.modules["tests.zoo"].changed()
        assert not changed, f"the test left shared models changed (build one of its own): {changed}"


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users call it: without the type checks that the tests run under."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def word_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local Hugging Face directory with the tiny Llama whose tokens are words."""
    from tests.word_model import save_word_model

    return save_word_model(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def word_model(request: pytest.FixtureRequest, word_directory: Path) -> Any:
    """That Llama on each host which this transformer_lens has."""
    from lrp_lens.hosts.loading import load_model

    return load_model(word_directory, host=request.param, device="cpu")


@pytest.fixture(scope="session")
def chat_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local Hugging Face directory with the tiny Llama that has a chat template."""
    from tests.chat_model import save_chat_model

    return save_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def chat_model(request: pytest.FixtureRequest, chat_directory: Path) -> Any:
    """That Llama on each host which this transformer_lens has."""
    from lrp_lens.hosts.loading import load_model

    return load_model(chat_directory, host=request.param, device="cpu")


@pytest.fixture(scope="module")
def chat_bridge(chat_directory: Path) -> Any:
    """That Llama on TransformerBridge."""
    from lrp_lens.hosts.loading import load_model

    return load_model(chat_directory, host="TransformerBridge", device="cpu")


def pytest_collectstart() -> None:
    """Import the large libraries before any module of lrp_lens.

    What those import under jaxtyping's hook is compiled anew in every process, as the hook looks for bytecode of its
    own.  Here, and not above, as the process that only hands out tests to workers collects none.
    """
    import pandas  # noqa: F401
    import plotly.graph_objects  # noqa: F401
    import transformer_lens.model_bridge  # noqa: F401


def _packaged(request: pytest.FixtureRequest, name: str) -> Any:
    """A packaged model on the host that a test asks for, or skip where its package is not installed."""
    from lrp_lens.errors import InputError
    from lrp_lens.hosts.loading import HAS_HOOKED_TRANSFORMER, load_model, packages

    host = getattr(request, "param", "TransformerBridge")
    if host == "HookedTransformer" and not HAS_HOOKED_TRANSFORMER:
        pytest.skip("TransformerLens 4: no HookedTransformer")
    try:
        packages.installed_parts(packages.MODELS[name])
    except InputError as error:
        pytest.skip(str(error))
    return load_model(name, host=host, device="cpu")


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Any:
    """SmolLM2-135M-Instruct on TransformerBridge; leave it as it is.

    On another host: `@pytest.mark.parametrize("smollm2", REAL_HOSTS, indirect=True)`.
    """
    return _packaged(request, "smollm2")


@pytest.fixture(scope="session")
def gemma3_270m(request: pytest.FixtureRequest) -> Any:
    """Gemma 3 270M on TransformerBridge, or on another host as `smollm2`."""
    return _packaged(request, "gemma3-270m")


REAL_MODELS = ("smollm2", "gemma3_270m")
REAL_HOSTS = ("TransformerBridge", "HookedTransformer")


@pytest.hookimpl(tryfirst=True)  # before `-m` deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests over the whole zoo run on `zoo_recipes.FIRST` in the first tier, on the rest of it in the full one.

    Over the whole zoo is a test that has cases of a dozen architectures or more; one with a choice of its own keeps it.

    Tests of a real language model are marked `real` and run in the full tier, in a process of their own (Makefile).
    """
    from tests.zoo_recipes import FIRST, NATIVE, RECIPES

    cases: dict[str, dict[str, list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if set(REAL_MODELS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.full)
            item.add_marker(pytest.mark.real)
        for value in (getattr(item, "callspec", None) and item.callspec.params.values()) or ():
            if isinstance(value, str) and value in RECIPES.keys() | NATIVE.keys():
                cases[item.nodeid.partition("[")[0]][value].append(item)
    for by_name in cases.values():
        if len(by_name) >= 12 and by_name.keys() & FIRST:
            for name in by_name.keys() - FIRST:
                for item in by_name[name]:
                    item.add_marker(pytest.mark.full)
                    item.add_marker(pytest.mark.zoo)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of `word_model` and `chat_model` once per host."""
    for name in ("word_model", "chat_model"):
        if name in metafunc.fixturenames:
            from tests import zoo

            hosts = ["TransformerBridge", *(["HookedTransformer"] if zoo.HAS_HOOKED_TRANSFORMER else [])]
            metafunc.parametrize(name, hosts, indirect=True, scope="module")
