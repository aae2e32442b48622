"""Agreement with activation patching on the demo model's indirect-object task: Pearson per site and method.

1. Draw held-out pairs: "then X and Y went to the P . S gave the O to"; in the corrupted prompt the second mention of
   the subject S is the other name, which flips the answer.
2. Denoise: patch every cell exactly, and score it by every method.
3. Print Pearson with 95 % bootstrap intervals over pairs, the noise floor, Spearman and sign agreement over all cells
   and over those with an effect, where LRP loses, rules per site chosen on half of the pairs and judged on the other
   half, and the cost.
"""

import argparse
import random
import warnings
from pathlib import Path

import pandas as pd
import torch

from lrp_lens import Comparison, LogitDiff, LogProb, load_demo_model
from lrp_lens.patching import compare, suggest_rules
from tools.demo_model import tasks
from tools.demo_model.corpus import is_held_out
from tools.demo_model.tasks.people import COMMON_TEMPLATES

SITES = (
    "resid_pre", "resid_mid", "attn_out", "mlp_out",
    "attn_head_out_by_pos", "attn_head_q_by_pos", "attn_head_k_by_pos", "attn_head_v_by_pos",
    "attn_head_pattern_by_pos",
)  # fmt: skip
RANKED = ("GRADIENT", "RELP", "ATTN_LRP", "CP_LRP", "ATP_STAR_SIGNED", "integrated gradients", "random")
METHODS = (
    "GRADIENT", "RELP", "ATTN_LRP", "CP_LRP", "ATP_STAR", "ATP_STAR_SIGNED", "ATP_QK_FIX",
    "integrated gradients", "integrated gradients with RELP", "GRADIENT_X_INPUT", "attention rollout", "random",
)  # fmt: skip


def pairs(count: int, seed: int = 0) -> tuple[list[str], list[str], list[str], list[str]]:
    """Clean prompts, corrupted prompts, answers of the clean prompts, and the other names."""
    rng = random.Random(seed)
    clean, corrupted, answers, foils = [], [], [], []
    while len(clean) < count:
        episode = tasks.indirect_object(rng, template=COMMON_TEMPLATES[0], bystanders=0)
        if not is_held_out(episode):
            continue
        (answer,) = episode.answers
        words = list(episode.prompt(answer))
        recipient, subject = episode.answer_word(answer), answer.foil
        swapped = list(words)
        swapped[max(i for i, word in enumerate(words) if word == subject)] = recipient
        clean.append(" ".join(words))
        corrupted.append(" ".join(swapped))
        answers.append(recipient)
        foils.append(subject)
    return clean, corrupted, answers, foils


def cell(row: dict, name: str = "pearson") -> str:
    """A statistic and its interval."""
    value = row[name]
    return "–" if value != value else f"{value:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def agreement_table(rows: pd.DataFrame, floor: pd.DataFrame, metric: str) -> list[str]:
    """Markdown: one line per site, one column per method, noise floor last."""
    lines = ["| site | " + " | ".join(METHODS) + " | exact, halves |", "|---" * (len(METHODS) + 2) + "|"]
    for site in SITES:
        part = rows[(rows.metric == metric) & (rows.site == site)].set_index("method")
        cells = [cell(part.loc[method].to_dict()) for method in METHODS]
        (noise,) = floor[(floor.metric == metric) & (floor.site == site)].to_dict("records")
        lines.append(f"| {site} | " + " | ".join(cells) + f" | {noise['pearson']:.2f} |")
    return lines


def rank_table(found: Comparison, metric: str) -> list[str]:
    """Markdown: Spearman and sign agreement above the floor, in brackets over every cell."""
    above, every = (
        found.with_floor(floor).table().set_index(["metric", "site", "method"])
        for floor in (found.floor, 0.0)
    )
    lines = [f"| site | cells ≥ {found.floor:.0%} | all | " + " | ".join(RANKED) + " |"]
    lines.append("|---" * (len(RANKED) + 3) + "|")
    for site in SITES:
        cells = []
        for method in RANKED:
            one, all_cells = above.loc[metric, site, method], every.loc[metric, site, method]
            texts = [
                "–" if one[name] != one[name] else f"{one[name]:.2f} ({all_cells[name]:.2f})"
                for name in ("spearman", "sign_agreement")
            ]
            cells.append(", ".join(texts))
        row = above.loc[metric, site, "GRADIENT"]
        lines.append(f"| {site} | {row.n_ranked} | {row.n_cells} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--figures", type=Path, help="folder for one HTML figure per site")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", DeprecationWarning)
    model = load_demo_model()
    clean, corrupted, answers, foils = pairs(options.pairs)
    metrics = {"logit difference": LogitDiff(answers, foils), "log-probability": LogProb(answers)}
    found = compare(model, clean, corrupted, metrics, sites=SITES, methods=METHODS, samples=options.samples)
    print(f"{found!r}\nUnsigned methods (ATP_STAR, attention rollout) are compared with |exact|.\n")
    rows, floor = found.table(), found.noise_floor()
    for metric in metrics:
        print(f"Pearson with activation patching, {metric}\n")
        print("\n".join(agreement_table(rows, floor, metric)) + "\n")
    print(
        "Spearman, sign agreement over the cells with an effect (in brackets: over every cell), logit difference\n"
    )
    print("\n".join(rank_table(found, "logit difference")) + "\n")
    losses = found.losses()
    print("Where LRP loses to GRADIENT (the whole 95 % interval of the paired difference lies below 0)\n")
    print("| metric | site | rules | GRADIENT | LRP | difference |\n|---|---|---|---|---|---|")
    for row in losses[losses.loses].to_dict("records"):
        print(
            f"| {row['metric']} | {row['site']} | {row['method']} | {row['gradient']:.2f} | {row['lrp']:.2f} | "
            f"{cell(row, 'difference')} |"
        )
    if options.figures:
        options.figures.mkdir(parents=True, exist_ok=True)
        for site in SITES:
            found.plot(site, ("GRADIENT", "RELP", "integrated gradients")).write_html(
                options.figures / f"{site}.html"
            )
    chosen = suggest_rules(model, clean, corrupted, metrics["logit difference"], sites=SITES)
    print("\nRules chosen per site on half of the pairs, judged on the other half (Pearson)\n")
    print("| site | chosen | calibration | held out | best held out |\n|---|---|---|---|---|")
    for row in chosen.table.to_dict("records"):
        print(
            f"| {row['site']} | {row['chosen']} | {row['calibration']:.2f} | {row['held_out']:.2f} | "
            f"{row['best_held_out']:.2f} ({row['best']}) |"
        )
    first = rows[(rows.metric == "logit difference") & (rows.site == SITES[0])]
    print(
        "\nCost, all sites together\n\n| method | forwards | backwards | seconds | peak memory |\n|---|---|---|---|---|"
    )
    exact = [item.cost for (metric, _), item in found.exact.items() if metric == "logit difference"]
    print(
        f"| activation patching | {sum(one.forwards for one in exact)} | 0 | {sum(one.seconds for one in exact):.1f} | "
        f"{max(one.peak_mb for one in exact):.0f} MB |"
    )
    for row in first.to_dict("records"):
        print(
            f"| {row['method']} | {row['forwards']} | {row['backwards']} | {row['seconds']:.2f} | "
            f"{row['peak_mb']:.0f} MB |"
        )


if __name__ == "__main__":
    main()
