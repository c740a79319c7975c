"""The lifecycle of a connection, on anyio: the same for every transport."""
