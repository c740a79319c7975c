"""Files of NATS with a user's key: credentials, which have a JWT, too, and NKeys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nats.aio.client import RawCredentials

try:
    from nkeys import from_seed  # type: ignore[import-untyped]
except ModuleNotFoundError:
    from_seed = None

_CREDENTIALS = re.compile(
    r"BEGIN NATS USER JWT-*\s+(?P<jwt>[^\s-]\S*)\s.*BEGIN USER NKEY SEED-*\s+(?P<seed>[^\s-]\S*)",
    re.DOTALL,
)
_AS_NATS_PY_READS_IT = "BEGIN NATS USER JWT\n{jwt}\nBEGIN USER NKEY SEED\n{seed}\n"


def read_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a URL has for ``credentials`` or ``nkey``, for nats-py. The file is read now.

    Raises:
        ValueError: it cannot be used, or nkeys is not installed.
    """
    name = next((each for each in ("credentials", "nkey") if each in options), "")
    if not name:
        return {}
    if from_seed is None:
        raise ValueError(
            f"its option {name} needs nkeys, which is not installed: pip install 'wsflow[nats]'"
        )
    try:
        text = Path(options[name]).read_text()
    except (OSError, UnicodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ValueError(f"its option {name} names a file that cannot be read: {why}") from None
    seed = text.strip()
    keys: dict[str, Any] = {"nkeys_seed_str": seed}
    if name == "credentials":
        found = _CREDENTIALS.search(text)
        if found is None:
            raise ValueError(
                "its option credentials names a file without a USER JWT and a USER NKEY SEED: use "
                "one that nsc has written"
            )
        seed = found["seed"]
        keys = {"user_credentials": RawCredentials(_AS_NATS_PY_READS_IT.format_map(found))}
    try:
        from_seed(bytearray(seed.encode())).wipe()
    except Exception:  # whatever nkeys and its base32 make of it
        raise ValueError(f"its option {name} names a file whose seed is none") from None
    return keys
