"""A connection that ends takes what it sent with it."""

import asyncio
import gc
import weakref

import uvicorn
from uvicorn.server import ServerState

from pawprint.serving.protocol import LimitedProtocol


def test_requests_that_were_not_begun_go_with_their_connection() -> None:
    """Pipelined behind one that is still being answered; without waiting for the collector of cycles."""

    async def run() -> None:
        answer = asyncio.Event()

        async def app(scope, receive, send) -> None:
            await answer.wait()

        config = uvicorn.Config(app, lifespan="off", log_level="critical")
        config.load()
        made: list[LimitedProtocol] = []

        def protocol() -> LimitedProtocol:
            made.append(LimitedProtocol(config, ServerState(), {}))
            return made[-1]

        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        post = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + bytes(1000)
        writer.write(post * 3)
        await writer.drain()
        while not made or not made[0].pipeline:
            await asyncio.sleep(0.01)
        queued = weakref.ref(made[0].pipeline[-1][0])
        assert len(queued().body) == 1000
        made[0].transport.abort()
        while made[0] in made[0].connections:
            await asyncio.sleep(0.01)
        gc.disable()
        try:
            assert queued() is None and not made[0].cycle.body
        finally:
            gc.enable()
        writer.close()
        server.close()
        answer.set()

    asyncio.run(run())
