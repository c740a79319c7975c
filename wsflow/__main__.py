"""``python -m wsflow`` is the command line."""

from wsflow.cli import main

main()
