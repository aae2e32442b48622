"""How good is the model? `python -m tools.demo_model evaluate` prints a table of all suites.

Every suite is asked for held-out prompts; an answer is right if the right word is the model's first choice.
A failure is usable for failure analysis if the right word is among the first ten and more than one logit
behind.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lrp_lens.demo.loader import DEMO_CHECKPOINT
from tools.demo_model.suites import HARD_SUITES, TRAINING_SUITES, Prompt, Suite, held_out_prompts
from tools.demo_model.vocabulary import BOS, PAD, TOKEN_IDS, WORDS

MOST_RANK = 10
"""A usable failure has the right word among the model's first so many."""

LEAST_GAP = 1.001
"""A usable failure has the right word at least so many logits behind: more than 1 on every machine."""


@dataclass(frozen=True)
class Outcome:
    """What the model says after a prompt."""

    prompt: Prompt
    """The prompt, which knows the right answer."""
    said: str
    """The model's first choice."""
    rival: str
    """The first choice among the wrong words."""
    rank: int
    """Rank of the right word; 1 is the top."""
    gap: float
    """Logit of the first choice minus that of the right word; if the model is right, of the right word minus
    that of the rival. Never negative."""

    @property
    def correct(self) -> bool:
        """Whether the right word is the first choice."""
        return self.rank == 1

    @property
    def usable_failure(self) -> bool:
        """Whether this is a failure with the right word within reach and clearly behind."""
        return not self.correct and self.rank <= MOST_RANK and self.gap > LEAST_GAP

    @property
    def source(self) -> str:
        """Where a wrong word comes from: `distractor`, `foil` (tempting, but not in the distractor),
        `prompt` (elsewhere in it) or `not in prompt`.
        """
        spans = self.prompt.segments.get("distractor", ())
        distractor = {word for start, stop in spans for word in self.prompt.words[start:stop]}
        if self.said in distractor:
            return "distractor"
        if self.said == self.prompt.foil:
            return "foil"
        return "prompt" if self.said in self.prompt.words else "not in prompt"


@torch.no_grad()
def next_word_logits(model: PreTrainedModel, prompts: Sequence[Prompt], batch_size: int = 100) -> Tensor:
    """Logits of the word after each prompt, [prompt, vocabulary]."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].words))
    result = torch.empty(len(prompts), len(WORDS))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        lengths = torch.tensor([len(prompts[row].words) + 1 for row in rows])
        tokens = torch.full((len(rows), int(lengths.max())), TOKEN_IDS[PAD])
        for index, row in enumerate(rows):
            words = (BOS, *prompts[row].words)
            tokens[index, : len(words)] = torch.tensor([TOKEN_IDS[word] for word in words])
        logits = model(input_ids=tokens, use_cache=False).logits
        result[rows] = logits[torch.arange(len(rows)), lengths - 1].float()
    return result


def outcomes(model: PreTrainedModel, prompts: Sequence[Prompt]) -> list[Outcome]:
    """What `model` says after each prompt, in the order of the prompts."""
    logits = next_word_logits(model, prompts)
    answers = torch.tensor([[TOKEN_IDS[prompt.answer]] for prompt in prompts])
    right = logits.gather(1, answers)
    ranks = ((logits > right).sum(1) + 1).tolist()
    wrong, rivals = logits.scatter(1, answers, float("-inf")).max(1)
    gaps = (wrong - right[:, 0]).abs().tolist()
    rival_words = [WORDS[index] for index in rivals.tolist()]
    return [
        Outcome(prompt, prompt.answer if rank == 1 else rival, rival, rank, gap)
        for prompt, rival, rank, gap in zip(prompts, rival_words, ranks, gaps, strict=True)
    ]


def accuracies(
    model: PreTrainedModel, count: int = 100, suites: Sequence[Suite] = TRAINING_SUITES
) -> dict[str, float]:
    """Share of right answers on `count` held-out prompts of each suite."""
    result = {}
    for suite in suites:
        found = outcomes(model, list(held_out_prompts(suite, count)))
        result[suite.name] = sum(outcome.correct for outcome in found) / count
    return result


def load_for_evaluation(checkpoint: Path = DEMO_CHECKPOINT) -> PreTrainedModel:
    """The Hugging Face model of a checkpoint directory, in float32."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    return model.eval()


def table(model: PreTrainedModel, count: int, seed: int = 0) -> str:
    """A markdown table: accuracy, usable failures and what is said instead, for every suite."""
    lines = [
        "| suite | prompts | like training | accuracy | usable failures | says instead |",
        "|---|---|---|---:|---:|---|",
    ]
    for suite in TRAINING_SUITES + HARD_SUITES:
        found = outcomes(model, list(held_out_prompts(suite, count, seed)))
        failures = [outcome for outcome in found if not outcome.correct]
        usable = sum(outcome.usable_failure for outcome in found)
        sources = Counter(outcome.source for outcome in failures).most_common(2)
        instead = ", ".join(f"{name} {number / len(failures):.0%}" for name, number in sources)
        lines.append(
            f"| {suite.name} | {suite.description} | {'yes' if suite.in_training else 'no'}"
            f" | {1 - len(failures) / count:.3f} | {usable / count:.1%}"
            f" | {instead if len(failures) >= 5 else ''} |"
        )
    return "\n".join(lines)


def main(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint directory.")] = DEMO_CHECKPOINT,
    count: Annotated[int, typer.Option(min=1, help="Held-out prompts per suite.")] = 500,
    seed: Annotated[int, typer.Option(help="Which prompts are drawn.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Print accuracy and usable failures of every suite as a markdown table."""
    torch.set_num_threads(threads)
    typer.echo(table(load_for_evaluation(checkpoint), count, seed))
