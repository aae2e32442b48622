"""`python -m lrp_lens` is the command `lrp-lens`."""

from lrp_lens.cli import app

if __name__ == "__main__":
    app(prog_name="lrp-lens")
