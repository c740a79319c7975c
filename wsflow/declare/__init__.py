"""Declarations: the Router, the markers, and the signatures of functions."""
