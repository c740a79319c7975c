"""Settings of a wrong type."""

from typing import Annotated, Any

from wsflow import Router, Topic, TopicName

wrong: Any = 5
text: Any = "100"
chat: Any = "chat"
one: Any = Annotated[Topic[str], "news"]

app = Router(wrong)


@app.consumer
async def say(
    message: str,
    history: Annotated[Topic[str], TopicName("a", history=text)],
    age: Annotated[Topic[str], TopicName("b", history=1, max_age=True)],
    number: Annotated[Topic[str], TopicName(wrong)],
    named: Annotated[Topic[str], "a", "b"],
) -> None: ...


for number, options in enumerate(
    [
        {"subprotocols": chat},
        {"subprotocols": wrong},
        {"subprotocols": ["a b"]},
        {"topics": one},
        {"topics": Topic[str]},
        {"topics": wrong},
        {"codec": []},
    ]
):
    router = Router(f"/{number}", **options)

    @router.consumer
    async def more(message: str) -> None: ...

    app.include(router)

app.include(Router("/none"), prefix=wrong)
