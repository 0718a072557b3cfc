"""`python -m wsp`: the command of the same name."""

from wsp.cli import main

main()
