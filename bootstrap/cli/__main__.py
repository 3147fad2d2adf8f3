"""`python -m bootstrap.cli`: how the supervisor starts each service."""

from bootstrap.cli.main import main

main(prog_name="doorstep")
