"""Bad declarations, one kind a file, each with the report that it gets beside it."""
