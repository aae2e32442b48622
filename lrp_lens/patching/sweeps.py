"""get_act_patch_*: activation patching, with the arguments and shapes of transformer_lens.patching.

One class serves every facet of `FACETS` and every bundle of `BUNDLES`; the named functions are instances of it, in
`twins`.  The facets of a bundle share both runs.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lrp_lens.checks import require_whole
from lrp_lens.errors import SiteError
from lrp_lens.hosts import resolve
from lrp_lens.methods.facets import BUNDLES
from lrp_lens.methods.inputs import PatchingMetric, base_and_source, per_prompt, settled_metric
from lrp_lens.patching.activation import Options, patchable, patched_values
from lrp_lens.patching.cells import Chosen, require_choice
from lrp_lens.patching.checks import Engine, one_metric, require_engine
from lrp_lens.patching.named import Named, bundled, facets_of, filled
from lrp_lens.patching.runs import Runs
from lrp_lens.patching.waves import BATCH_TOKENS
from lrp_lens.progress import require_show
from lrp_lens.run.pairs import Direction


class Sweep(Named):
    """Activation patching of one facet."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "get_act_patch_", "Activation patching")

    def __call__(
        self,
        model: Any,
        corrupted_tokens: Any,
        clean_cache: Any,
        patching_metric: PatchingMetric | None = None,
        *,
        metric: PatchingMetric | None = None,
        direction: Direction = "denoising",
        engine: Engine = "auto",
        layers: int | Sequence[int] | None = None,
        positions: int | Sequence[int] | None = None,
        batch_tokens: int = BATCH_TOKENS,
        prepend_bos: bool | None = None,
        progress: bool | None = None,
        **others: Any,
    ) -> Tensor:
        """The metric of every patched run; patches that put in what is there anyway are not run.

        Args:
            model: HookedTransformer or TransformerBridge in eval mode.
            corrupted_tokens: token ids [batch, pos], or prompts of one length.
            clean_cache: ActivationCache of the clean run, or the clean prompts.
            patching_metric: logits → scalar, or one number per prompt (their mean is returned);
                default: the clean run's top token against its runner-up (needs prompts for clean_cache).
            metric: the same, by the name that transformer_lens' bundles give it.
            direction: "denoising" puts clean activations into the corrupted run; "noising" the reverse, and needs
                prompts for clean_cache.
            engine: "restarted" (each patched run starts at its layer and position, many in one batch; refused where
                that is not exact), "batched" (whole runs, many in one batch) or "transformer_lens" (one at a time).
                "auto": restarted, or batched where that is not exact; transformer_lens where functions are attached
                to the model's hook points.
            layers: the layers that are patched, one or several, from 0 or back from -1; the others are NaN.
            positions: the positions that are patched (of a pattern: the destinations); the others are NaN.
            batch_tokens: positions, of all copies of the prompts, that go through a block at once.
            prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
            progress: show a bar; None: on terminals and in notebooks, after two seconds.
            others: refused; it catches options that only transformer_lens.patching has.

        Returns:
            The metric, with the axes of the facet; NaN in a bundle where the model lacks the part.

        Raises:
            InputError: runs that are not aligned, train mode, noising with a cache, an unknown engine, layers or
                positions out of range, or options that only transformer_lens.patching has (index_df, return_index_df,
                patch_setter).
            SiteError: the model has no such part, the host drops the edit, or an engine that is not right here.
        """
        require_engine(engine)
        require_whole(batch_tokens, "batch_tokens", 1)
        require_show(progress)
        asked = one_metric(self.__name__, patching_metric, metric, others)
        asked = per_prompt(settled_metric(model, clean_cache, asked, prepend_bos), model)
        batch, source = base_and_source(model, corrupted_tokens, clean_cache, direction, asked, prepend_bos)
        facets = facets_of(self.facet)
        require_choice(facets, layers, positions, engine)
        chosen = None
        if layers is not None or positions is not None:
            chosen = Chosen.of(layers, positions, resolve(model).n_layers, batch.ids.shape[1])
        options = Options(engine, chosen, batch_tokens, progress)
        runs = Runs(model, batch, source, [asked])
        results: list[Tensor | None] = []
        for facet in facets:
            try:
                live, right = patchable(runs.sites, runs.dead, facet, engine)
                values, _ = patched_values(runs, facet, live, right, options)
                results.append(values[0].mean(0))
            except SiteError:
                if self.facet not in BUNDLES:
                    raise
                results.append(None)
        return bundled(self.facet, filled(results, facets))
