"""What README shows is run: its Python, its table of accuracies, its support table."""

import re
from pathlib import Path

import torch

import lrp_lens
from lrp_lens.demo.evaluation import accuracies, load_for_evaluation
from lrp_lens.demo.suites import HARD_SUITES, TRAINING_SUITES
from lrp_lens.hosts.transformer_bridge import ARCHITECTURES
from tests import zoo

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COUNT = 500  # prompts a suite, as README says
ROUNDING = 0.004  # two prompts of 500 may fall the other way on another processor


def rows(text: str) -> dict[str, list[str]]:
    """First cell → cells, for the rows of markdown tables."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return {line[0]: line for line in cells if len(line) > 2}


def test_five_minutes_run() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert torch.equal(names["same_logits"], names["logits"])
    assert isinstance(names["rel"], lrp_lens.RelevanceCache)


def test_accuracies_are_what_the_script_prints() -> None:
    shown, suites = rows(README), (*TRAINING_SUITES, *HARD_SUITES)
    assert all(suite.name in shown for suite in suites)
    measured = accuracies(load_for_evaluation(), COUNT, suites[::4])  # a quarter of the 20 seconds it takes
    for name, accuracy in measured.items():
        assert abs(float(shown[name][3]) - accuracy) <= ROUNDING, name


def test_every_architecture_of_the_support_table_is_in_the_zoo() -> None:
    held = {type(zoo.hugging_face(name, torch.float32)).__name__ for name in zoo.ARCHITECTURES}
    assert held == ARCHITECTURES


def test_every_public_name_in_the_text_exists() -> None:
    for name in re.findall(r"`([A-Z][A-Za-z_]+|[a-z_]+)\(", README):
        assert name in lrp_lens.__all__ or hasattr(lrp_lens.RelevanceCache, name) or name in OTHERS, name


OTHERS = {"to_dataframe", "save"}  # methods of a View
