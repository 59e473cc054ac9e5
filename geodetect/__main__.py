"""`python -m geodetect` is `geodetect`."""

from geodetect.cli.main import main

main(prog_name="geodetect")
