"""Commands of `lrp-lens`: arguments in, one function call, results out.

A wrong argument ends with one line on standard error and exit code 2, if possible before a model is loaded.
"""

from typing import Annotated

import typer

from lrp_lens.cli.options import (
    CHAT,
    DEFAULT_REPORT,
    DEFAULT_TRIAGE,
    DEVICE,
    DTYPE,
    FOLDER,
    FORCE,
    RULES,
    TASKS,
)  # fmt: skip
from lrp_lens.cli.running import OneLineErrors, errors_in_one_line, quiet_libraries

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Why did this language model prefer the wrong token? Relevance (LRP) on TransformerLens models.",
)


def _version(asked: bool) -> bool:
    if asked:
        from lrp_lens import __version__

        typer.echo(f"lrp-lens {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Why did this language model prefer the wrong token? Relevance (LRP) on TransformerLens models."""


@app.command()
def explain(
    source: Annotated[
        str | None,
        typer.Argument(metavar="-", help="- reads the prompt from standard input.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model's name on the hub, a local Hugging Face directory, a .gguf file, or smollm2 or gemma3-270m "
            "(`make models`); the demo model if left out."
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The prompt.")] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option(
            help="Read the prompt from this file, without its last line break; - is standard input."
        ),
    ] = None,
    ids: Annotated[
        str | None, typer.Option(metavar="1,2,3", help="Token ids as the prompt, taken as they are.")
    ] = None,
    case: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Without a prompt: which failure of the demo model, smollm2 or gemma3-270m, counted from 0.",
        ),
    ] = None,
    messages: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.json",
            help='A conversation as the prompt, [{"role": "user", "content": "…"}, …]: use the model\'s chat template.',
        ),
    ] = None,
    chat: CHAT = False,
    no_bos: Annotated[
        bool, typer.Option("--no-bos", help="Put no token that begins every text before the prompt.")
    ] = False,
    completion: Annotated[
        str | None, typer.Option(help="What the model said behind the prompt; explain one of its tokens.")
    ] = None,
    completion_file: Annotated[
        str | None, typer.Option(help="Read the completion from this file, without its last line break.")
    ] = None,
    position: Annotated[
        str | None,
        typer.Option(
            metavar="N|TEXT",
            help="Which token of the completion: its index (from 0, or back from -1) or a piece of its text "
            "(in quotes of its own if it is a number).",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="The token to explain, with its leading space if it has one; else the completion's, or the first "
            "choice. Of several tokens, the one that differs from the contrast."
        ),
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="The token to compare it with; else the model's best other choice.")
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(help=f"Rule set: {RULES[0]} (default), {', '.join(RULES[1:-1])} or {RULES[-1]}."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Mask up to this many tokens in the check.")] = 5,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Random orders of tokens in the check; else what the prompt's length affords."
        ),
    ] = None,
    device: DEVICE = None,
    dtype: DTYPE = None,
    out: Annotated[
        str, typer.Option(metavar="FILE.html", help="Where to write the report.")
    ] = DEFAULT_REPORT,
    json: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="Also write all numbers as JSON.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files even if they are no reports of lrp-lens.")
    ] = False,
) -> None:
    """Explain one preference. Without a prompt: a failure of the model's own, offline.

    lrp-lens explain

    lrp-lens explain --model smollm2 --case 1

    lrp-lens explain --model gpt2 --prompt "The cat sat on the" --target " floor" --contrast " mat"

    lrp-lens explain --model CHAT_MODEL --chat --prompt "17 + 25?" --completion "17 + 25 = 42." --position -3

    lrp-lens explain --model smollm2 --prompt "The capital of France is"
    """
    from lrp_lens.cli.inputs import Request, parse_position, read_completion, read_prompt, require_outputs

    with errors_in_one_line():
        require_outputs(out, json, force)
        request = Request(
            model=model,
            prompt=read_prompt(source, prompt, prompt_file, ids, messages),
            case=case,
            completion=read_completion(completion, completion_file),
            position=parse_position(position),
            target=target,
            contrast=contrast,
            rules=rules,
            top_k=top_k,
            seeds=seeds,
            device=device,
            dtype=dtype,
            chat=chat,
            bos=False if no_bos else None,
            out=out,
            json=json,
        )
        with quiet_libraries():
            from lrp_lens.cli.explain import run

        run(request)


@app.command()
def triage(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…",
            help="Logs of lm-evaluation-harness, Inspect or HELM, or JSONL, CSV or parquet of your own; or folders.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The model that made the log: as for explain; the demo model if left out."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help=f"Whose checker judges answers: {', '.join(TASKS[:-1])} or {TASKS[-1]} (the accepted answers are "
            "patterns). Else the log's options and accepted answers decide."
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(help="Rule set, as for explain; attn-lrp if left out: verdicts were tuned under it."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many cases.")] = None,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of the rows; finished cases in it are not done again.")
    ] = DEFAULT_TRIAGE,
    min_gap: Annotated[float, typer.Option(help="Explain decisions whose logit gap is above this.")] = 1.0,
    contrast_model: Annotated[
        str | None, typer.Option(help="A second model, which knows better: what would it have said?")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="Which column of your own rows a case's field comes from."),
    ] = None,
    chat: CHAT = False,
    allow_code_execution: Annotated[
        bool,
        typer.Option("--allow-code-execution", help="Run what the model wrote (humaneval), in a sandbox."),
    ] = False,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="ray[:N]",
            help="Work in N processes, of a Ray cluster or of this machine; each loads the model. Else in this one.",
        ),
    ] = None,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors", help="Do cases again at which something failed; else they are finished."
        ),
    ] = False,
    device: DEVICE = None,
    dtype: DTYPE = None,
) -> None:
    """Explain and verify every failure of benchmark logs. Stopped anywhere, the same command goes on.

    lrp-lens triage samples_gsm8k.jsonl --model smollm2 --task gsm8k --limit 20 --out gsm8k
    """
    from lrp_lens.cli.inputs import TriageRequest

    with errors_in_one_line():
        request = TriageRequest(
            files=tuple(files),
            model=model,
            task=task,
            rules=rules,
            limit=limit,
            out=out,
            min_gap=min_gap,
            contrast_model=contrast_model,
            columns=tuple(column or ()),
            chat=chat,
            allow_code_execution=allow_code_execution,
            workers=workers,
            retry_errors=retry_errors,
            device=device,
            dtype=dtype,
        )
        with quiet_libraries():
            from lrp_lens.cli.triage import run

        run(request)


@app.command()
def report(
    folder: FOLDER,
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE.html", help="Where to write the report; else report.html in the folder."),
    ] = None,
    force: FORCE = False,
) -> None:
    """Show what a triage found, as one HTML file: coverage, verdicts, and every case to unfold."""
    with errors_in_one_line(), quiet_libraries():
        from lrp_lens.cli.runs import run_report

        run_report(folder, out, force)


@app.command("compare-runs")
def compare_runs(
    folders: Annotated[
        list[str], typer.Argument(metavar="DIR DIR…", help="Folders that lrp-lens triage wrote, two or more.")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FILE.html", help="Also write tables and figures to one HTML file.")
    ] = None,
    force: FORCE = False,
) -> None:
    """Compare what triages of the same cases found: gaps, segments, profiles through the layers, verdicts."""
    with errors_in_one_line(), quiet_libraries():
        from lrp_lens.cli.runs import run_comparison

        run_comparison(folders, out, force)
