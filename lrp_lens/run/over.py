"""relevance_over: one record of reduced relevance for each of many prompts, in constant memory.

1. Take a window of prompts, lazily; tokenise each alone with its metric.  What is refused is a record with its reason.
2. Sort the window by length and cut it into batches of at most so many tokens; metrics of one kind go together, and a
   function of all logits, which would read padding, only with prompts of its own length.
3. Run each batch (`run_with_relevance`), and reduce it to views and ledgers of single prompts.  A batch that is refused
   runs prompt by prompt, so that only the prompt at fault is left out.
4. Hand the records on in the prompts' order, as soon as they are there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError, MetricError, did_you_mean
from lrp_lens.hosts import resolve
from lrp_lens.hosts.chat import is_messages
from lrp_lens.hosts.forward import require_eval, require_gradients
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import Row, padded, tokenize
from lrp_lens.metrics import Metric, MetricLike, as_metric
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set
from lrp_lens.run.absorbed import QUESTIONS
from lrp_lens.run.one_example import caches_of_examples
from lrp_lens.run.prompt_relevance import PromptRelevance
from lrp_lens.run.recording import NamesFilter
from lrp_lens.run.relevance import Memory, ask, relevance_run

VIEWS = ("tokens", "positions", "layers", "heads", "components", "ledger")
"""What a record can hold: methods of RelevanceCache."""
_OF_EMBEDDINGS = {"tokens", "positions"}
_OF_ACCOUNTS = {"components", "ledger"}


@dataclass(frozen=True, eq=False)
class _Question:
    index: int
    batch: TokenBatch
    """The prompt alone, without an answer."""
    metric: Metric
    rows: int
    """How many there are with the metric's answers, and of how many tokens."""
    width: int

    @property
    def tokens_alone(self) -> int | None:
        """The length that prompts beside it have to have; None for any, as the metric reads no padding."""
        return None if self.metric.terms() else self.width


def relevance_over(
    model: Any,
    prompts: Iterable[Any],
    metric: MetricLike | Iterable[MetricLike | None] | None = None,
    *,
    views: str | Sequence[str] = ("tokens",),
    rules: RuleSet | str = DEFAULT_RULES,
    prepend_bos: bool | None = None,
    batch_tokens: int = 1024,
    window: int = 256,
    memory: Memory = "auto",
    progress: bool | None = None,
) -> Iterator[PromptRelevance]:
    """Relevance of each prompt of a data set, streamed: a record for each, in their order.

    Args:
        model: as `run_with_relevance`.
        prompts: texts, conversations or token ids, one prompt each; a generator is read a window at a time.
        metric: one for all prompts, or an iterable of metrics, one for each; default the top token against the
            runner-up.
        views: what is kept of each prompt, of `tokens`, `positions`, `layers`, `heads`, `components` and `ledger`.
        rules: a rule set or the name of a preset.
        prepend_bos: as there.
        batch_tokens: how many tokens run together, padding included; a longer prompt runs alone.
        window: how many prompts are read ahead, to be sorted by length.
        memory: as there, for each batch.
        progress: show a bar over the prompts; None: where it takes long.

    Returns:
        An iterator of `PromptRelevance`.  A prompt that cannot be explained is a record with its `error`.

    Raises:
        InputError: train mode, no iterable of prompts, an unknown view, or a number below 1.
        MetricError: a metric for all that the model has no tokens for, or for several examples; fewer metrics than
            prompts.
        RuleError, SiteError: as `run_with_relevance`.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model, relevance_over
        >>> prompts = ["mary gave the key to", "", "then mary and john went to the park . john gave the key to"]
        >>> for one in relevance_over(load_demo_model(device="cpu"), prompts, LogitDiff("mary", "john")):
        ...     print(one.index, one.error is None and one.views["tokens"].shape)
        0 (6,)
        1 False
        2 (15,)
    """
    require_gradients()
    require_show(progress)
    sites, rules = resolve(model), as_rule_set(rules)
    require_eval(model)
    wanted = _views(views)
    for name, value in (("batch_tokens", batch_tokens), ("window", window)):
        require_whole(value, name, 1)
    if (
        isinstance(prompts, str | bytes | Mapping)
        or not isinstance(prompts, Iterable)
        or is_messages(prompts)
    ):
        raise InputError(
            f"prompts is an iterable of prompts; received {type(prompts).__name__}, a single one or none. Put it into "
            "a list, or call run_with_relevance."
        )
    rules.plan(model)
    if wanted & _OF_ACCOUNTS:
        rules.require("relevance_over", sites, QUESTIONS)
    metrics = _metrics(model, prompts, metric)
    names = {Names.EMBED, Names.POS_EMBED} & set(sites.record_of)
    chosen: NamesFilter = sorted(names) if wanted <= _OF_EMBEDDINGS else None

    def run(together: Sequence[_Question]) -> list[PromptRelevance]:
        rows = [Row(_ids(one.batch), one.batch.segments[0] if one.batch.segments else ()) for one in together]
        batch = padded(model, rows, left=False, single=False)
        joined = together[0].metric.together([one.metric for one in together[1:]])
        _, cache = relevance_run(
            model, batch, joined, rules, chosen, logits="metric", memory=memory, progress=False
        )
        found = []
        alone = caches_of_examples(model, cache, accounts=bool(wanted & _OF_ACCOUNTS))
        for question, own in zip(together, alone, strict=True):
            made = {name: getattr(own, name)() for name in VIEWS if name in wanted}
            ledger = made.pop("ledger", None)
            value = float(own.metric_value[0])
            found.append(PromptRelevance(question.index, None, value, own.metric_text, made, ledger))
        return found

    def read(index: int, prompt: Any, one: MetricLike | None) -> _Question:
        batch = tokenize(model, prompt, None, prepend_bos)
        if len(batch.ids) != 1 or batch.examples is not None:
            raise InputError(
                f"Each of the prompts is a single one; received a batch of {len(batch.ids)} rows."
            )
        answered, bound = ask(model, batch, one)
        rows, width = answered.ids.shape
        return _Question(index, batch, bound.metric, rows, width)

    return _stream(prompts, metrics, read, run, batch_tokens, window, progress)


def _stream(
    prompts: Iterable[Any],
    metrics: Iterator[MetricLike | None],
    read: Callable[[int, Any, MetricLike | None], _Question],
    run: Callable[[Sequence[_Question]], list[PromptRelevance]],
    batch_tokens: int,
    window: int,
    progress: bool | None,
) -> Iterator[PromptRelevance]:
    """Windows of prompts → records in their order."""
    source = enumerate(prompts)
    total = len(prompts) if isinstance(prompts, Sized) else None
    done: dict[int, PromptRelevance] = {}
    following = 0
    with progress_bar(total=total, what="prompts", show=progress, unit="prompt") as bar:
        while taken := list(islice(source, window)):
            questions = []
            for index, prompt in taken:
                own = _next(metrics, index)
                try:
                    questions.append(read(index, prompt, own))
                except (InputError, MetricError) as error:
                    done[index] = PromptRelevance(index, error)
            for together in [[], *_batches(questions, batch_tokens)]:
                done |= {record.index: record for record in _or_one_by_one(run, together)}
                while following in done:
                    yield done.pop(following)
                    following += 1
                    bar.update(1)


def _or_one_by_one(
    run: Callable[[Sequence[_Question]], list[PromptRelevance]], together: Sequence[_Question]
) -> list[PromptRelevance]:
    """The records of a batch; of one that is refused, those of its prompts run alone."""
    try:
        return run(together) if together else []
    except (InputError, MetricError) as error:
        if len(together) == 1:
            return [PromptRelevance(together[0].index, error)]
    return [record for one in together for record in _or_one_by_one(run, [one])]


def _batches(questions: Iterable[_Question], batch_tokens: int) -> Iterator[list[_Question]]:
    """Questions of like length and like metrics, at most so many tokens together, shortest first."""
    open_: list[list[_Question]] = []
    for one in sorted(questions, key=lambda question: question.width):
        group = next((group for group in open_ if _fit(group[0], one)), None)
        if group is None:
            open_.append([one])
            continue
        group.append(one)
        if sum(other.rows for other in group) * one.width > batch_tokens:
            group.pop()
            yield list(group)
            group[:] = [one]
    yield from open_


def _fit(first: _Question, one: _Question) -> bool:
    """Whether one batch metric can be made of those of two questions."""
    return first.metric.alike(one.metric) and first.tokens_alone == one.tokens_alone


def _next(metrics: Iterator[MetricLike | None], index: int) -> MetricLike | None:
    for metric in metrics:
        return metric
    raise MetricError(f"There is one metric for all prompts, or one for each; prompt {index} has none left.")


def _metrics(model: Any, prompts: Any, metric: Any) -> Iterator[MetricLike | None]:
    """The metric of each prompt."""
    if isinstance(metric, Iterable) and not isinstance(metric, str | Mapping):
        if isinstance(metric, Sized) and isinstance(prompts, Sized) and len(metric) != len(prompts):
            raise MetricError(
                f"There is one metric for all prompts, or one for each; received {len(metric)} metrics for "
                f"{len(prompts)} prompts."
            )
        return iter(metric)
    one = as_metric(metric).resolve(model)
    if len(one.terms()) > 1:
        raise MetricError(
            f"A metric for all prompts has one answer; {one} has {len(one.terms())}. Pass a list of metrics, one for "
            "each prompt."
        )
    return repeat(one)


def _views(views: Any) -> set[str]:
    names = [views] if isinstance(views, str) else list(views) if isinstance(views, Iterable) else [views]
    for name in names or [None]:
        if name not in VIEWS:
            raise InputError(
                f"views are some of {', '.join(VIEWS)}; received {name!r}.{did_you_mean(name, VIEWS)}"
            )
    return set(names)


def _ids(batch: TokenBatch) -> list[int]:
    start = batch.starts[0]
    return batch.ids[0, start : start + batch.lengths[0]].tolist()
