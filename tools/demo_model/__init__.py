"""How the demo model was made: its corpus, training, evaluation, and the search for its failures.

`python -m tools.demo_model` lists the commands.  What they write (checkpoint, cases, prompts) lies in `lrp_lens/demo`.
"""
