"""Suites that a transport or a broker of one's own has to pass: the same as wsflow's own.

They are tests for pytest, with anyio's plugin. A test module takes a suite in, and gives the
fixture that it asks for::

    from wsflow.testing.conformance.brokers import *

    @pytest.fixture
    def broker() -> str:
        return f"kafka://localhost?prefix={uuid4()}"
"""

import pytest

pytest.register_assert_rewrite(
    "wsflow.testing.conformance.brokers", "wsflow.testing.conformance.transports"
)
