"""A flow whose tasks run on a Dask cluster, by prefect-dask.

run_on_dask(preprocess, "tcp://10.0.0.5:8786", on_dask=True)

A cluster's workers need this project's code and environment, and the project's folder under the same path.
"""

from typing import Any

from prefect import Flow
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from flows.tasks import explained, run
from pawprint.errors import PawprintError


def run_on_dask(flow: Flow[..., Any], address: str, *args: Any, **kwargs: Any) -> None:
    """Run a flow to its end as `steps.run` does, its submitted tasks on the cluster; one sentence if none answers."""
    with explained():
        _run(flow, address, *args, **kwargs)


def _run(flow: Flow[..., Any], address: str, *args: Any, **kwargs: Any) -> None:
    from distributed import Client
    from prefect.server.api.server import SubprocessASGIServer
    from prefect_dask.task_runners import DaskTaskRunner

    try:
        Client(address, timeout=10).close()  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise PawprintError(
            f"No Dask scheduler answers at {address} ({error}). Start one, or leave out `--dask-address`."
        ) from None
    runner: Any = DaskTaskRunner(address=address)
    on_cluster = flow.with_options(task_runner=runner)
    if get_current_settings().api.url:
        run(on_cluster, *args, **kwargs)
        return
    # Workers report to the same temporary server: with no address each of them would start one of its own.
    server = SubprocessASGIServer()
    server.start(timeout=90)
    try:
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            run(on_cluster, *args, **kwargs)
    finally:
        server.stop()
