"""Clients take turns at the threads, and the gauge of what waits is right whatever becomes of a job."""

import contextvars
import gc
import threading
import weakref

import pytest

from pawprint.serving import metrics
from pawprint.serving.access_log import CLIENT
from pawprint.serving.decoder import FairPool


def submit(pool: FairPool, client: str, work, *args):
    def of_client():
        CLIENT.set(client)
        return pool.submit(work, *args)

    return contextvars.copy_context().run(of_client)


def test_a_client_with_many_jobs_waits_for_itself_alone() -> None:
    pool, begin, order = FairPool(1, "test"), threading.Event(), []
    first = submit(pool, "many", begin.wait)
    jobs = [submit(pool, "many", order.append, "many") for _ in range(20)]
    jobs += [submit(pool, client, order.append, client) for client in ("one", "another")]
    begin.set()
    for job in (first, *jobs):
        job.result(10)
    pool.shutdown()
    assert order[:3] == ["many", "one", "another"] and order.count("many") == 20


def test_what_is_cancelled_or_fails_leaves_nothing() -> None:
    class Picture:
        pass

    def fail(picture: Picture) -> None:
        raise ValueError("damaged")

    pool, begin, before = FairPool(1, "test"), threading.Event(), metrics.QUEUE._value.get()
    blocks = submit(pool, "a", begin.wait)
    cancelled = submit(pool, "a", fail, Picture())
    assert metrics.QUEUE._value.get() >= before + 1 and cancelled.cancel()
    picture = Picture()
    seen, failed = weakref.ref(picture), submit(pool, "b", fail, picture)
    del picture
    begin.set()
    assert blocks.result(10)
    with pytest.raises(ValueError, match="damaged"):
        failed.result(10)
    pool.shutdown()
    assert metrics.QUEUE._value.get() == before
    gc.disable()
    try:
        del failed
        assert seen() is None  # without the collector of cycles
    finally:
        gc.enable()
