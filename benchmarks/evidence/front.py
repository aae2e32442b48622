"""What the front page says of the evidence: made of the rows, so that it cannot say anything else.

Each function gives a text that stands between two marks of README; a test makes it again from the committed rows.
"""

from collections.abc import Iterable

import pandas as pd

from benchmarks.evidence.decision import REPLACEMENTS, decide
from benchmarks.evidence.methods import RULES
from benchmarks.evidence.parts import SITES
from benchmarks.evidence.ranking import KEY, by_case, estimate, ranked
from benchmarks.evidence.recommendations import recommendation_table
from benchmarks.evidence.store import Store

TABLED = ("tokens", "components", "heads")
LATER = {
    "missed": "heads that a method may have missed",
    "circuits": "circuits",
    "stability": "their stability",
}
"""Parts that the table of recommendations has no line of."""
BASELINES = ("ablation regression", "leave-one-out")
SHOWN = ("ATTN_LRP", "CP_LRP", "RELP")
"""Presets whose shares are told."""
SITE_WORDS = dict(
    zip(SITES, ("the residual stream", "attention outputs", "MLP outputs", "head outputs", "queries", "keys", "values"),
        strict=True)
)  # fmt: skip
MODEL_NAMES = {"smollm2": "SmolLM2-135M", "gemma3-270m": "Gemma 3 270M"}


def front(store: Store) -> dict[str, str]:
    """Mark → what stands between it and its end."""
    rows = {part: store.every(part) for part in (*TABLED, *LATER, "shares")}
    decision = decide(rows["tokens"], store.every("rules"))
    return {
        "evidence": f"\n{recommendation_table(rows, decision)}\n",
        "where relevance loses": losses(rows["tokens"], decision.chosen),
        "what was measured": f"{measured(rows)} {ranks(rows['components'])}",
        "token shares": shares(rows["shares"]),
    }


def losses(rows: pd.DataFrame, default: str) -> str:
    """In how many tasks two baselines are ahead of the default, and how far it is ahead of the former one."""
    cases = by_case(rows, "delta_a", "replacement", REPLACEMENTS)
    by_task = cases.groupby(level=["model", "task"]).mean()
    regression, alone = ((by_task[name] > by_task[default]).sum() for name in BASELINES)
    short = by_task[[("agreement" in task) for _, task in by_task.index]]
    own, theirs = short[default], short[list(BASELINES)].to_numpy()
    behind = {
        kind: _minus(rows if correct is None else rows[rows["correct"] == correct], default, "ATTN_LRP")
        for kind, correct in (("all", None), ("failures", False))
    }
    return (
        "**Where relevance loses:** a surrogate fitted to the model's answers with words left out (`ablation "
        f"regression`, 64 forward passes) explains tokens better than the default in {regression} of {len(by_task)} "
        f"pairs of model and task, and leaving words out one by one (a forward pass a word) in {alone} of "
        f"{len(by_task)}; relevance takes one forward and one backward pass. Where one short word decides (agreement, "
        f"BLiMP) the default has a ΔA of {own.min():.1f} to {own.max():.1f}, these two {theirs.min():.1f} to "
        f"{theirs.max():.1f}. ATTN_LRP, the former default, is {behind['all']} behind {default}, on failures alone "
        f"{behind['failures']}; RELP is {_minus(rows, 'ATTN_LRP', 'RELP')} behind ATTN_LRP on tokens."
    )


def _minus(rows: pd.DataFrame, better: str, worse: str) -> str:
    """The paired difference of two methods, each model the same weight."""
    ranking = ranked(by_case(rows, "delta_a", "replacement", REPLACEMENTS), [better, worse])
    assert ranking is not None
    return estimate(ranking.difference(better, worse))


def measured(rows: dict[str, pd.DataFrame]) -> str:
    """Of how many prompts and tasks the lines of the table are, and what is not measured."""
    said = []
    for part, words, unit in (
        ("components", "Components, queries and keys are", "pairs"),
        ("heads", "Head ablation is", "prompts"),
    ):
        own = rows[part]
        if len(own):
            each = own.drop_duplicates(KEY).groupby(["model", "task"]).size()
            tasks = list(dict.fromkeys(own["task"]))
            names = f" ({_listed(tasks)})" if len(tasks) < 4 else ""
            most = f"{each.min()} to {each.max()}" if each.min() < each.max() else f"{each.max()}"
            said.append(
                f"{words} of {len(tasks)} task{'s' * (len(tasks) > 1)}{names}, {most} {unit} a model and task."
            )
    missing = [LATER[part] for part in LATER if not len(rows[part])]
    every = set(rows["tokens"]["task"])
    lacking = {
        part: [one for one in sorted(every - set(rows[part]["task"])) if not one.startswith("BLiMP")]
        for part in ("components", "heads")
        if len(rows[part])
    }
    called = {"components": "components", "heads": "head ablation"}
    missing = [
        f"{called[part]} of {len(tasks)} more task{'s' * (len(tasks) > 1)}"
        for part, tasks in lacking.items()
        if tasks
    ] + missing
    missing += [words for part, words in called.items() if not len(rows[part])]
    said.append(f"**Not measured yet:** {_listed(missing)}." if missing else "")
    return " ".join(one for one in said if one)


def shares(rows: pd.DataFrame) -> str:
    """What all tokens together hold of the metric under three presets, model by model."""
    said = []
    for model, own in rows.groupby("model", sort=False):
        by_rules = own.groupby("method")["share"]
        middle = {name: _percent(by_rules.get_group(name).median()) for name in SHOWN}
        low, high = (_percent(by_rules.get_group("RELP").quantile(at)) for at in (0.1, 0.9))
        prompts, tasks = own.drop_duplicates(KEY).shape[0], own["task"].nunique()
        said.append(
            f"on {prompts} prompts of {tasks} tasks {MODEL_NAMES[str(model)]}'s words together held, at the median, "
            f"{middle['ATTN_LRP']} of the difference under AttnLRP, {middle['CP_LRP']} under CP-LRP and "
            f"{middle['RELP']} under RelP, where a tenth of the prompts lay below {low} and a tenth above {high}"
        )
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def ranks(rows: pd.DataFrame) -> str:
    """Where plain gradients order the cells better than every rule set, on every model."""
    by_model = (
        rows[rows["method"].isin(RULES)].groupby(["model", "site", "method"])["spearman"].mean().unstack()
    )
    first = (by_model.idxmax(axis=1) == "GRADIENT").groupby(level="site").all()
    where = [words for site, words in SITE_WORDS.items() if first.get(site, False)]
    ahead = (
        f"by ranks, plain gradients are ahead of every rule set at {_listed(where)}, on every model."
        if where
        else "by ranks, plain gradients are ahead of every rule set at no site of every model."
    )
    return f"The correlation is Pearson's, which large effects decide; {ahead}"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
