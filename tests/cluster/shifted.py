"""``python -m tests.cluster.shifted run …``: as ``python -m wsflow run …``, with a clock that is an
hour ahead of that of the machine."""

from __future__ import annotations

import datetime
import time

AHEAD = 3600
_time, _time_ns = time.time, time.time_ns


class Shifted(datetime.datetime):
    """A datetime whose now is an hour ahead."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(time.time(), tz)


def main() -> None:
    time.time = lambda: _time() + AHEAD
    time.time_ns = lambda: _time_ns() + AHEAD * 10**9
    datetime.datetime = Shifted  # type: ignore[misc]
    from wsflow.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
