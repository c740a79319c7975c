"""uvicorn at full speed: ``uvicorn --ws wsflow.uvicorn:Protocol module:app``."""

from wsflow.hosting.uvicorn import Protocol

__all__ = ["Protocol"]
