"""The suite of transports, on each transport of wsflow."""

from wsflow.testing.conformance.transports import *  # noqa: F403
