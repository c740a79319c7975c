"""Serving an app on sockets: settings, listening, draining."""

from wsflow.server.serve import Server, serve
from wsflow.server.settings import Settings

__all__ = ["Server", "Settings", "serve"]
