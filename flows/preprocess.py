"""data/ -> prepared/: checked, split, 300x300.

    python -m flows.preprocess
    python -m flows.preprocess --dask-address tcp://10.0.0.5:8786      # the work on a Dask cluster, by prefect-dask

A cluster's workers need this project's code and environment, and the project's folder under the same path.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import ROOT
from flows.cluster import run_on_dask
from flows.tasks import run, step
from pawprint.config import Params, load_params
from pawprint.data import build, ingest
from pawprint.data.preprocess import Batch
from pawprint.data.quality import Bad
from pawprint.data.shards import Packed

DASK_BATCH = 256  # photographs: what a task costs on a cluster is then small beside its work
Work = Callable[[Batch], list[Packed | Bad]]


@flow(name="preprocess", flow_run_name="preprocess")
def preprocess(on_dask: bool = False) -> None:
    """Check every photograph, give it a split, make it 300x300 and put it into a shard."""
    # 1. what is asked for
    params = load_params(ROOT / "params.yaml")

    # 2. what there is
    photographs = ingest.dataset(ROOT / "data")

    # 3. check, split, resize, write
    if on_dask:  # no step around it: its parts are the tasks
        report = build.prepare(photographs, ROOT / "data", ROOT / "prepared", params, tasks, DASK_BATCH)
    else:
        report = prepare(photographs, params)

    # 4. what came out
    bad = len(report["bad"])
    print(f"{report['dataset']}: {report['photographs']} photographs, {bad} left out; splits {report['splits']}")


@step()
def prepare(photographs: ingest.Dataset, params: Params) -> build.Report:
    """The prepared set, whole or not at all."""
    return build.prepare(photographs, ROOT / "data", ROOT / "prepared", params)


def tasks(work: Work, batches: Sequence[Batch]) -> Iterator[list[Packed | Bad]]:
    """Each batch as a Prefect task, wherever the flow's task runner puts it. A lost worker's are done elsewhere."""
    futures = [pack.submit(work, batch) for batch in batches]
    for future in futures:
        yield future.result()


@task(name="pack", cache_policy=NO_CACHE, persist_result=False, retries=2)
def pack(work: Work, batch: Batch) -> list[Packed | Bad]:
    """A batch of photographs, each checked and made 300x300."""
    return work(batch)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dask-address", help="of a Dask scheduler, such as tcp://10.0.0.5:8786")
    address = parser.parse_args().dask_address
    if address is None:
        run(preprocess)
    else:
        run_on_dask(preprocess, address, on_dask=True)


if __name__ == "__main__":
    main()
