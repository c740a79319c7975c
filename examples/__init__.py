"""Small apps, each run by one line: ``wsflow run examples.chat:app``."""
