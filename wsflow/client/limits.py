"""Limits of a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsflow.limits import Limits, SocketLimits, option


@dataclass(frozen=True, kw_only=True)
class ClientLimits(Limits, SocketLimits):
    """Limits of a client: those of a server's connection, as far as they apply."""

    compression: Literal["none", "deflate"] = option(
        "deflate",
        "Offer to compress messages with permessage-deflate (RFC 7692).",
        group="Messages",
    )
