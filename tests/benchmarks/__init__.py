"""How fast wsflow is, against the handler written by hand and against its peers."""
