"""The scoreboard: what wsflow withstands, measured.

``board`` says what a row is. A module ``test_….py`` for each row has its checks: each puts a load
or a fault on real parts and returns figures. pytest runs them small, ``pytest -m hardening`` whole,
and ``python -m tests.scoreboard`` prints the table.
"""
