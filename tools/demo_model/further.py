"""Train the demo model further on what it fails at, and keep checkpoints: how an answer comes to be right.

1. Start from the weights that ship with the package.
2. One short stage: half of the episodes are the suite's, the others the corpus', so that nothing is forgotten.
   Held-out episodes are left out, as ever, and the cases of `demo_cases` with them.
3. After each of the named steps the model is exported as a Hugging Face directory, which `load_model` takes.

Checkpoints are made where they are looked at, and not stored: one is 1.9 MB, and sixteen steps take three seconds.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from lrp_lens.demo.loader import DEMO_CHECKPOINT
from lrp_lens.errors import UnknownNameError
from tools.demo_model.corpus import SECOND_MIXTURE
from tools.demo_model.export import export
from tools.demo_model.suites import SUITES
from tools.demo_model.training import Stage, Training


def train_further(
    suite: str, out: Path, keep: Sequence[int] = (0, 2, 4, 6, 8, 16), seed: int = 0, batch_tokens: int = 2048
) -> dict[int, Path]:
    """Checkpoints after so many further steps: steps → folder.

    Args:
        suite: name of a suite, as in `Case.suite`.
        out: folder of the checkpoints.
        keep: after which steps one is kept; 0 is the model that ships.
        seed: of the data.
        batch_tokens: tokens a step, padding included.

    Raises:
        UnknownNameError: no suite has this name.
    """
    if suite not in SUITES:
        raise UnknownNameError(f"{suite!r} is no suite of the demo model; there are {', '.join(SUITES)}.")
    mixture = ((SUITES[suite].generator, 1.0), *SECOND_MIXTURE)
    stage = Stage(mixture, max(*keep, 1), 2e-4, warm_up=5, final=0.2)
    run = Training((stage,), seed, batch_tokens)
    shipped = LlamaForCausalLM.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)
    run.model.load_state_dict(shipped.state_dict())
    kept: dict[int, Path] = {}
    for step in range(max(keep) + 1):
        if step:
            run.advance()
        if step in keep:
            kept[step] = Path(out) / f"{step:04d}"
            export(run.model, kept[step])
    return kept
