"""`python -m gradlab` is the command `gradlab`."""

from gradlab.cli import app

app(prog_name="gradlab")
