"""``python -m wsflow`` is the command line."""

from wsflow.cli.main import main

main()
