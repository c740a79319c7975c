"""Suites that run over every transport, the fake one included."""
