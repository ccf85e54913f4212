"""The review page on a port of 127.0.0.1, until Ctrl-C."""

import contextlib
import secrets
import socket
import webbrowser
from collections.abc import Callable

import uvicorn

from pawprint.errors import PawprintError
from pawprint.review.app import Review, create_app


def serve(review: Review, port: int, browser: bool, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. `say` gets the address when it is bound; it ends in the token, which no server sees.

    Raises:
        PawprintError: the port is taken.
    """
    token = secrets.token_urlsafe(24)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen()  # who comes before the server runs waits for it
    except OSError as error:
        raise PawprintError(f"Port {port} cannot be used ({error.strerror}). Take another: --port {port + 1}") from None
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/#token={token}"
    say(f"{url} (Ctrl-C ends)")
    if browser:
        webbrowser.open(url)
    config = uvicorn.Config(create_app(review, token), log_level="warning", access_log=False, server_header=False)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after its end
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        if review.suggester:
            review.suggester.close()
