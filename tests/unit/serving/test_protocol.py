"""A connection that ends takes what it sent with it, and one connection holds few requests at a time."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState

from pawprint.serving.protocol import LimitedProtocol

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@asynccontextmanager
async def connected(
    app: Callable[..., Awaitable[None]],
) -> AsyncIterator[tuple[list[LimitedProtocol], asyncio.StreamReader, asyncio.StreamWriter]]:
    """(protocols of the connections to a server of `app`, reader and writer of one)."""
    config = uvicorn.Config(app, lifespan="off", log_level="critical")
    config.load()
    made: list[LimitedProtocol] = []

    def protocol() -> LimitedProtocol:
        made.append(LimitedProtocol(config, ServerState(), {}))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield made, reader, writer
    writer.close()
    server.close()


async def until(done: Callable[[], object]) -> None:
    while not done():
        await asyncio.sleep(0.01)


def test_requests_that_were_not_begun_go_with_their_connection() -> None:
    """Pipelined behind one that is still being answered; without waiting for the collector of cycles."""

    async def run() -> None:
        answer = asyncio.Event()

        async def app(scope, receive, send) -> None:
            await answer.wait()

        async with connected(app) as (made, _, writer):
            writer.write((b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + bytes(1000)) * 3)
            await until(lambda: made and made[0].pipeline)
            queued = weakref.ref(made[0].pipeline[-1][0])
            assert len(queued().body) == 1000
            made[0].transport.abort()
            await until(lambda: made[0] not in made[0].connections)
            gc.disable()
            try:
                assert queued() is None and not made[0].cycle.body
            finally:
                gc.enable()
            answer.set()

    asyncio.run(run())


def test_the_request_that_is_answered_hears_of_the_end_of_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Also with others behind it; what it still writes is dropped, and fails nowhere."""
    heard: list[str] = []

    async def run() -> None:
        async def app(scope, receive, send) -> None:
            await receive()
            heard.append((await receive())["type"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x"})
            heard.append("written")

        async with connected(app) as (made, _, writer):
            writer.write(GET * 3)
            await until(lambda: made and made[0].pipeline)
            made[0].transport.abort()
            async with asyncio.timeout(30):
                await until(lambda: len(heard) == 2)

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert heard == ["http.disconnect", "written"] and not caplog.records


def test_a_connection_holds_few_pipelined_requests() -> None:
    """Of 5,000 in one packet eleven are answered, in order, and the last response says that the others are not."""

    async def run() -> None:
        answer, most = asyncio.Event(), 0

        async def app(scope, receive, send) -> None:
            await answer.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

        async with connected(app) as (made, reader, writer):
            writer.write(GET * 5000)
            await until(lambda: made and made[0].pipeline)
            await asyncio.sleep(0.2)
            most = len(made[0].pipeline)
            answer.set()
            async with asyncio.timeout(30):
                answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
            assert most == 10 and len(answers) == 11
            assert [b"connection: close" in each for each in answers] == [False] * 10 + [True]

    asyncio.run(run())
