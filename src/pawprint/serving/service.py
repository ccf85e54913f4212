"""The BentoML service `pawprint`.

bentoml serve                     # in the project's root: serves champion/
bentoml serve pawprint:latest     # the Bento that was built last
curl -F image=@cat.jpg http://localhost:3000/predict
"""

import logging
import os
import shutil
import signal
import tempfile
from typing import Any

import bentoml
import click
from bentoml.exceptions import BentoMLException
from bentoml.images import Image
from starlette.middleware.cors import CORSMiddleware

from pawprint.errors import PawprintError, port_problem
from pawprint.parallel import cores
from pawprint.serving import traffic
from pawprint.serving.access_log import AccessLogMiddleware, log_as_json
from pawprint.serving.app import AppState, create_app
from pawprint.serving.challenger import Challenger
from pawprint.serving.challenger import load as load_challenger
from pawprint.serving.champion import model_folder, registered_model, serving_params, verify
from pawprint.serving.decoder import Decoders
from pawprint.serving.engine import Engine
from pawprint.serving.kept import FOLDER, PictureStore
from pawprint.serving.middleware import BodyLimitMiddleware, OriginMiddleware
from pawprint.serving.protocol import limit_connections

try:
    params = serving_params()
except PawprintError as error:
    raise BentoMLException(str(error)) from None  # which `bentoml serve` prints as one sentence

HOST, PORT = "127.0.0.1", 3000  # BentoML's own default is every address of the machine

# What `bentoml containerize` builds on. A distribution that BentoML does not know gets no compiler and no git from it:
# all packages are wheels, and that is half of the image (docs/decisions/stack.md).
IMAGE = Image(base_image="python:3.11.14-slim-bookworm", distro="slim").run(
    "install -d -o bentoml -g bentoml /home/bentoml/traffic"  # where a volume for the traffic log belongs
)

limit_connections(params.body_seconds)
# The workers inherit these. A picture has a core: threads of BLAS beside it double the CPU time that it takes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# glibc raises both thresholds to the largest block that was freed, a body of 20 MB say, and each arena keeps as much.
for _name, _value in (("ARENA_MAX", 2 * cores()), ("MMAP_THRESHOLD_", 4 * 2**20), ("TRIM_THRESHOLD_", 4 * 2**20)):
    os.environ.setdefault(f"MALLOC_{_name}", str(_value))
os.environ["FORWARDED_ALLOW_IPS"] = ",".join(params.trusted_proxies)  # uvicorn's setting; its default is 127.0.0.1
app = create_app(params)
state: AppState = app.state.service


@bentoml.service(
    name="pawprint",
    image=IMAGE,
    workers=1,
    http={"host": HOST, "port": PORT},
    # The service's own limits end a request before. BentoML keeps a timer for each request, and with it some 5 kB,
    # until this many seconds after its start.
    traffic={"timeout": 30},
    # OpenTelemetry's middleware costs 0.35 ms a request though nobody listens; access_log.py gives the request ids.
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": False}},  # access_log.py has its own: one JSON line with the request's id
)
@bentoml.asgi_app(app)
class Pawprint:
    """Classifies pictures, and says where each prediction comes from."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def check() -> None:  # BentoML calls it once, before any worker, without an instance
        """Refuse to start, in one sentence: the model is missing, damaged or another one, or the port is taken."""
        bento = Pawprint.bento  # type: ignore[attr-defined]
        try:
            _replace_supervisor()
            verify(str(bento.tag) if bento else "", bento.info.labels.get("model_digest") if bento else None)
            _refuse_taken_port()
        except PawprintError as error:
            raise BentoMLException(str(error)) from None

    def __init__(self) -> None:
        log_as_json()
        version = bentoml.server_context.bento_version
        bento = "" if version == "not available" else f"{bentoml.server_context.bento_name}:{version}"
        pictures = PictureStore(traffic.folder() / FOLDER, params.keep_days, params.keep_mb)
        log = traffic.TrafficLog(traffic.path(registered_model(model_folder())), params.traffic_rows, pictures)
        state.traffic = log
        state.decoders = decoders = Decoders(params, cores())

        def load() -> tuple[Engine, Challenger | None]:
            engine = Engine(model_folder(), bento, params, log, decoders)
            return engine, load_challenger(params.challenger, engine, log)

        state.load = load
        try:
            state.install(*load())
        except PawprintError as error:
            # Another start would meet it again: the supervisor, which would try for ever, ends.
            logging.getLogger("pawprint").error("%s", error)
            logging.getLogger("uvicorn.error").disabled = True  # it would add two tracebacks
            os.kill(os.getppid(), signal.SIGTERM)
            raise SystemExit(1) from None

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what was accepted and write the traffic log."""
        if state.decoders:
            state.decoders.close()
        if state.challenger:
            state.challenger.close()
        state.engine.close()
        if state.traffic:
            state.traffic.close()


def _replace_supervisor() -> None:
    """BentoML's process supervisor takes commands on two TCP ports of 127.0.0.1, from any user of the machine.

    From here on it takes them on Unix sockets in a folder of its owner's. BentoML has no setting for it. And circus
    refuses a command beside another: a SIGTERM or Ctrl-C while it starts its workers was lost. It waits its turn now.
    """
    if os.name != "posix":
        return
    from bentoml._internal.utils import circus  # here: the workers need none of it

    class PrivateArbiter(circus.Arbiter):  # type: ignore[misc]
        def __init__(self, watchers: Any, endpoint: str, pubsub_endpoint: str, **options: Any) -> None:
            folder = tempfile.mkdtemp(prefix="pawprint-supervisor-")  # mode 0700
            super().__init__(watchers, f"ipc://{folder}/control", f"ipc://{folder}/events", **options)
            self.exit_stack.callback(shutil.rmtree, folder, ignore_errors=True)

        def stop(self) -> Any:
            if self._exclusive_running_command and not self._stopping:
                self.loop.call_later(0.1, self.stop)
                return None
            return super().stop()

    circus.Arbiter = PrivateArbiter


def _refuse_taken_port() -> None:
    """BentoML itself would say it with forty lines of traceback. The address is what its command line was given."""
    given = getattr(click.get_current_context(silent=True), "params", {})
    host, port = given.get("host") or HOST, given.get("port") or PORT
    if problem := port_problem(host, port):
        raise PawprintError(
            f"Port {port} on {host} cannot be used ({problem}). Take another: "
            f"`make serve PORT={port + 1}` or `bentoml serve --port {port + 1}`."
        )


Pawprint.add_asgi_middleware(AccessLogMiddleware)  # type: ignore[attr-defined]
Pawprint.add_asgi_middleware(OriginMiddleware, params=params)  # type: ignore[attr-defined]
if params.allowed_origins:
    Pawprint.add_asgi_middleware(  # type: ignore[attr-defined]
        CORSMiddleware, allow_origins=params.allowed_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
Pawprint.add_asgi_middleware(BodyLimitMiddleware, params=params)  # type: ignore[attr-defined]
