"""`pawprint cluster`: a Ray cluster to run stages and `pawprint batch` on."""

import signal
import threading
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Several processes or machines for one run (docs/cluster.md).")


@app.callback()
def _group() -> None:
    pass  # so that the one command keeps its name


@app.command(epilog="Example: pawprint cluster up --local 2")
def up(
    local: Annotated[int, typer.Option(min=1, help="nodes, all of them on this machine")],
    cpus: Annotated[int, typer.Option(min=1, help="cores of a node")] = 1,
) -> None:
    """Start a cluster of processes on this machine, until Ctrl-C. It listens on 127.0.0.1 and asks for a token."""
    from pawprint import parallel

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    parallel.make_token()
    with parallel.local_cluster(local, cpus) as cluster:
        print(f"{local} nodes of {cpus} core{'s' * (cpus > 1)}. In another terminal, before other commands:")
        print(f"export PAWPRINT_ENGINE=ray RAY_ADDRESS={cluster.address}", flush=True)
        try:
            ended.wait()
        except KeyboardInterrupt:
            print("Stopped.")
