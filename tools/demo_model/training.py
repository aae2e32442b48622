"""Train the demo model from scratch: `python -m tools.demo_model train --out runs/demo`.

1. Draw documents from the corpus (no downloads), sort pools of them by length, cut batches of about
   `batch_tokens` tokens. A pool depends only on (seed, stage, pool number), so a run can be resumed exactly.
2. Train a Llama (which has no biases at all) with AdamW in two stages; answers weigh 1, copied words 0.3,
   all other words 0.05.
3. Export a Hugging Face directory: config, float16 weights, tokenizer.

One thread is fastest on shared cores. 3,300 steps take about 20 minutes; Ctrl-C saves, `--resume` continues.
"""

import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaForCausalLM

from lrp_lens.errors import InputError
from lrp_lens.files import replacing
from tools.demo_model.batches import BatchStream
from tools.demo_model.corpus import FIRST_MIXTURE, SECOND_MIXTURE, Mixture
from tools.demo_model.evaluation import accuracies
from tools.demo_model.export import demo_config, export


@dataclass(frozen=True)
class Stage:
    """A part of the training with its own mixture and learning-rate schedule."""

    mixture: Mixture
    """What documents are made of."""
    steps: int
    """Number of optimiser steps."""
    learning_rate: float
    """Peak learning rate; a cosine leads from there to the final one."""
    warm_up: int
    """Steps of linear warm-up."""
    final: float
    """What is left of the learning rate after the last step, as a share of the peak."""

    def rate(self, step: int) -> float:
        """Learning rate at `step`, counted from 1."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, step / self.warm_up) * ((1 - self.final) * cosine + self.final)


def weighted_loss(model: LlamaForCausalLM, tokens: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of the next token, averaged with `weights` [batch, position]."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


class Training:
    """The state of a run: model, optimiser, stage, step and position in the data.

    A new stage starts with a fresh optimiser. `save` and `load` round-trip everything, so that an
    interrupted run ends with the same weights as an uninterrupted one.
    """

    def __init__(self, stages: tuple[Stage, ...], seed: int = 0, batch_tokens: int = 4096) -> None:
        torch.manual_seed(seed)
        self.model = LlamaForCausalLM(demo_config())
        self.stages, self.seed, self.batch_tokens = stages, seed, batch_tokens
        self.stage, self.step, self.total = 0, 0, 0
        self._start_stage()

    def _start_stage(self) -> None:
        stage = self.stages[self.stage]
        matrices = [weight for weight in self.model.parameters() if weight.ndim >= 2]
        vectors = [weight for weight in self.model.parameters() if weight.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98), fused=True)
        self.stream = BatchStream(stage.mixture, f"{self.seed}/{self.stage}", self.batch_tokens)

    @property
    def done(self) -> bool:
        """Whether every stage is finished."""
        return self.stage == len(self.stages) - 1 and self.step == self.stages[-1].steps

    def advance(self) -> float:
        """One optimiser step; returns the loss before it."""
        if self.step == self.stages[self.stage].steps:
            self.stage, self.step = self.stage + 1, 0
            self._start_stage()
        self.step, self.total = self.step + 1, self.total + 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.stages[self.stage].rate(self.step)
        loss = weighted_loss(self.model, *self.stream.next())
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def save(self, path: Path) -> None:
        """Write everything needed to continue; replaces `path` only when the new file is complete."""
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "counters": {
                "stage": self.stage,
                "step": self.step,
                "total": self.total,
                "pool": self.stream.pool,
                "batch": self.stream.batch,
            },
            "settings": self._settings(),
        }
        with replacing(path) as part:
            torch.save(state, part)

    def load(self, path: Path) -> None:
        """Continue from `save`; InputError if the run had other settings."""
        state = torch.load(path, weights_only=True)
        if state["settings"] != self._settings():
            raise InputError(
                f"a run can only be resumed with the settings it was started with: {path} has"
                f" {state['settings']}, this run {self._settings()}; repeat the options or use another --out"
            )
        counters = state["counters"]
        self.stage, self.step, self.total = counters["stage"], counters["step"], counters["total"]
        self.model.load_state_dict(state["model"])
        self._start_stage()
        self.optimiser.load_state_dict(state["optimiser"])
        self.stream.pool, self.stream.batch = counters["pool"], counters["batch"]

    def _settings(self) -> dict:
        steps = [stage.steps for stage in self.stages]
        return {"steps": steps, "seed": self.seed, "batch_tokens": self.batch_tokens}


def stages(first_steps: int, second_steps: int) -> tuple[Stage, ...]:
    """The curriculum: short texts at a high learning rate first, then the whole corpus."""
    first = Stage(FIRST_MIXTURE, first_steps, 2e-3, warm_up=150, final=0.5)
    second = Stage(SECOND_MIXTURE, second_steps, 1.5e-3, warm_up=50, final=0.02)
    return (first, second) if second_steps else (first,)


@contextmanager
def _stop_on_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C asks for a stop after the running step instead of tearing it apart.

    A run that was started with interrupts ignored (`nohup`, a shell's `&`) goes on ignoring them.
    """
    asked: list[bool] = []
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:
        yield asked
        return
    signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the resume state, the log and the checkpoints.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the first stage.")] = 2000,
    second_steps: Annotated[int, typer.Option(min=0, help="Steps of the second stage.")] = 1300,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the data.")] = 0,
    batch_tokens: Annotated[int, typer.Option(min=128, help="Tokens a step, padding included.")] = 4096,
    keep_every: Annotated[
        int, typer.Option(min=0, help="Keep a checkpoint every so many steps; 0: none.")
    ] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Save the resume state every so many steps.")] = 250,
    evaluate_prompts: Annotated[int, typer.Option(min=1, help="Prompts a suite for these accuracies.")] = 100,
    evaluate_every: Annotated[
        int, typer.Option(min=0, help="Log accuracies every so many steps; 0: never.")
    ] = 250,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in this folder.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train the demo model and export it to OUT/checkpoint as a Hugging Face directory."""
    torch.set_num_threads(threads)
    state, log = out / "state.pt", out / "log.jsonl"
    if resume and not state.exists():
        raise typer.BadParameter(f"there is nothing to resume in {out}: start without --resume")
    if state.exists() and not resume:
        raise typer.BadParameter(f"{out} already holds a run: pass --resume or another --out")
    out.mkdir(parents=True, exist_ok=True)
    run = Training(stages(steps, second_steps), seed, batch_tokens)
    if resume:
        try:
            run.load(state)
        except InputError as error:
            raise typer.BadParameter(str(error)) from error
    whole = sum(stage.steps for stage in run.stages)
    average = None
    with _stop_on_interrupt() as asked, tqdm(total=whole, initial=run.total, unit="step") as bar:
        while not run.done and not asked:
            loss = run.advance()
            average = loss if average is None else 0.98 * average + 0.02 * loss
            bar.update()
            bar.set_postfix(loss=f"{average:.3f}")
            if evaluate_every and run.total % evaluate_every == 0:
                entry = {
                    "step": run.total,
                    "loss": round(average, 4),
                    "accuracy": accuracies(run.model, evaluate_prompts),
                }
                with log.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            if keep_every and run.total % keep_every == 0:
                export(run.model, out / "steps" / f"{run.total:06d}")
            if run.total % save_every == 0:
                run.save(state)
    run.save(state)
    if not run.done:
        typer.echo(f"stopped after step {run.total} of {whole}; continue with --resume")
        raise typer.Exit(130)
    export(run.model, out / "checkpoint")
    typer.echo(f"exported {out / 'checkpoint'}")
