"""One connection's life, on anyio: the same for every transport."""
