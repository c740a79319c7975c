"""The command line: ``main`` has the commands; a worker loads only what serving needs."""
