"""A queue of jobs: whichever process is free does the next one, and its client sees how far it is.

Run it: ``wsflow run examples.jobs:app --workers 4``. Connect in several terminals:
``wsflow connect ws://127.0.0.1:8000/jobs --app examples.jobs:app``, and type ``start steps=50``,
also several times. A job that nobody watches is cancelled: type ``leave job=…``, or go.

A job whose process dies is lost. What must not be belongs in a task queue: docs/recipes.md.
"""

import logging
import os
import secrets
from typing import Annotated

import anyio
import msgspec
from anyio.abc import TaskGroup

from wsflow import BrokerError, Connection, Registry, Router, Sends, Topic, TopicName

log = logging.getLogger("jobs")


class Start(msgspec.Struct, tag="start"):
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Leave(msgspec.Struct, tag="leave"):
    """Do not watch a job any more: it is cancelled, unless it is done."""

    job: str


class Queued(msgspec.Struct, tag="queued"):
    job: str


class Progress(msgspec.Struct, tag="progress"):
    job: str
    done: int
    of: int
    process: int


class Task(msgspec.Struct):  # what the processes tell each other
    job: str
    steps: int


Queue = Annotated[Topic[Task], "queue"]
Watched = Annotated[Topic[Progress], TopicName("job.{job}")]


class Jobs:
    """The queue, as a process sees it: all processes see all jobs."""

    def __init__(self, queue: Topic[Task], registry: Registry) -> None:
        self.queue, self.registry = queue, registry

    async def work(self) -> None:
        async for task in self.queue:  # while one is done, the others wait here
            try:
                await self.do(task)
            except BrokerError as error:
                log.warning("job %s: %s", task.job, error)

    async def do(self, task: Task) -> None:
        """Do a job, unless another process has it, for as long as somebody watches."""
        watched = self.registry.topic("job.{job}", job=task.job)
        if await watched.count() and await self.registry.claim(f"job.{task.job}", 3600):
            for done in range(1, task.steps + 1):
                await anyio.sleep(0.1)  # in life some work: if it blocks, in a thread
                if not await watched.count():
                    log.info("job %s: cancelled after %d steps", task.job, done)
                    break
                await watched.publish(Progress(task.job, done, task.steps, os.getpid()))


app = Router("/jobs", topics=[Watched])


@app.lifespan  # in each process
async def jobs(queue: Queue, registry: Registry, tasks: TaskGroup) -> Jobs:
    jobs = Jobs(queue, registry)
    tasks.start_soon(jobs.work)
    return jobs


@app.consumer
async def start(
    message: Start,
    connection: Annotated[Connection, Sends(Queued, Progress)],
    registry: Registry,
    jobs: Jobs,
) -> None:
    job = secrets.token_urlsafe(9)
    await connection.send(Queued(job))
    await registry.topic("job.{job}", job=job).join()  # first, so that no progress is missed
    await jobs.queue.publish(Task(job, message.steps))


@app.consumer
async def leave(message: Leave, registry: Registry) -> None:
    await registry.topic("job.{job}", job=message.job).leave()  # as the end of a connection does
