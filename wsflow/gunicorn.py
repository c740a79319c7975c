"""gunicorn with uvicorn at full speed: ``gunicorn -k wsflow.gunicorn.Worker module:app``.

It needs ``gunicorn`` and ``uvicorn-worker``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from wsflow.hosting.uvicorn import Protocol

__all__ = ["Worker"]


class Worker(UvicornWorker):  # type: ignore[misc]
    """uvicorn's worker for gunicorn, with wsflow's protocol for WebSockets."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {**UvicornWorker.CONFIG_KWARGS, "ws": Protocol}
