"""`python -m tools.demo_model` lists the commands: train, evaluate, find-cases, draw-prompts."""

import typer

from tools.demo_model import draw_prompts, evaluation, find_cases, training

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make the demo model and what ships with it."
)
app.command("train")(training.main)
app.command("evaluate")(evaluation.main)
app.command("find-cases")(find_cases.main)
app.command("draw-prompts")(draw_prompts.main)

if __name__ == "__main__":
    app(prog_name="python -m tools.demo_model")
