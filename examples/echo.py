"""Sends back what it gets, text and binary.

Run it: ``wsflow run examples.echo:app``
"""

from wsflow import Router

app = Router("/")


@app.consumer
async def text(message: str) -> str:
    return message


@app.consumer
async def binary(message: bytes) -> bytes:
    return message
