"""Slow work: up to 16 jobs of one connection at a time; jobs for one customer keep their order.

Run it: ``wsflow run examples.workers:app``
"""

import anyio
import msgspec

from wsflow import Router


class Job(msgspec.Struct, tag="job"):
    id: int
    customer: str
    seconds: float = 1.0


class Done(msgspec.Struct, tag="done"):
    id: int


class Status(msgspec.Struct, tag="status"):
    pass


class Finished(msgspec.Struct, tag="finished"):
    jobs: int


class Tally:
    """How many jobs a connection has had done."""

    def __init__(self) -> None:
        self.jobs = 0


app = Router("/jobs")


@app.on_connect
async def start() -> Tally:
    return Tally()


@app.consumer(concurrency=16, key="customer")
async def work(job: Job, tally: Tally) -> Done:
    await anyio.sleep(job.seconds)
    tally.jobs += 1
    return Done(job.id)


@app.consumer  # has a lane of its own: it answers at once, however many jobs are at work
async def status(message: Status, tally: Tally) -> Finished:
    return Finished(tally.jobs)
