"""Limits of a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsflow.limits import Limits, SocketLimits, documented, option


@documented
@dataclass(frozen=True, kw_only=True)
class ClientLimits(Limits, SocketLimits):
    """Limits of a client: those of a server's connection, as far as they apply.

    Raises:
        TypeError: as ``Limits``.
        ValueError: as ``Limits``.
    """

    compression: Literal["none", "deflate"] = option(
        "deflate",
        "Offer to compress messages with permessage-deflate (RFC 7692).",
        group="Messages",
    )
