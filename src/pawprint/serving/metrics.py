"""Metrics for Prometheus at /metrics, beside BentoML's own counters. Never a picture or a name of one."""

import functools
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)

REQUESTS = Counter("pawprint_requests_total", "Requests; status 0: the client hung up", ["method", "path", "status"])
for _status in ("500", "503", "504"):  # there from the start: Prometheus does not see the rise of a series that is new
    REQUESTS.labels("POST", "/predict", _status)
SECONDS = Histogram(
    "pawprint_request_seconds",
    "A request from its first byte to the last of its response",
    ["path"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BATCH = Histogram("pawprint_batch_pictures", "Photographs in one /predict/batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
ANSWERS = Counter("pawprint_answers_total", "Predictions by label (a class, or unknown)", ["label"])
REFUSALS = Counter("pawprint_refusals_total", "Photographs and requests refused, by reason", ["reason"])
FEEDBACK = Counter(
    "pawprint_feedback_total", "Feedback on predictions, by whether it is what was predicted", ["agrees"]
)
PARTS = Histogram(
    "pawprint_part_seconds",
    "Parts of a prediction's time: decode, wait, inference",
    ["part"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
CONFIDENCE = Histogram(
    "pawprint_confidence",
    "Probability of the most likely class",
    buckets=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1),
)
IN_FLIGHT = Gauge("pawprint_in_flight", "Photographs being worked on", multiprocess_mode="livesum")
QUEUE = Gauge("pawprint_queue", "Photographs that wait for a core", multiprocess_mode="livesum")
ENDED = Counter(
    "pawprint_decoders_ended_total", "Decoding processes that a photograph ended: too slow, too large, a crash"
)
BODIES = Gauge("pawprint_bodies_bytes", "Bytes of request bodies in memory", multiprocess_mode="livesum")
LOST = Counter("pawprint_traffic_lost_total", "Predictions that the traffic log could not keep")
LOG_UP = Gauge(
    "pawprint_traffic_log_up", "1: the traffic log was written when it last had to", multiprocess_mode="livemin"
)
CHALLENGER = Gauge(
    "pawprint_challenger_up",
    "1: the challenger takes part; 0: it was switched off, and the log says why",
    ["name", "version", "mode"],
    multiprocess_mode="livemin",
)
CHALLENGER_ANSWERS = Counter(
    "pawprint_challenger_shadow_answers_total",
    "Answers in the shadow, by whether the champion's is the same",
    ["agrees"],
)
CHALLENGER_ERRORS = Counter("pawprint_challenger_errors_total", "Errors of the challenger; the champion answered")
CHALLENGER_SKIPPED = Counter("pawprint_challenger_skipped_total", "Pictures that the shadow had no room for")
MODEL_ANSWERS = Counter(
    "pawprint_model_answers_total",
    "Predictions by model (champion; shadow or canary of a challenger) and label",
    ["role", "label"],
)
MODEL_SECONDS = Histogram(
    "pawprint_model_seconds",
    "Inference by model",
    ["role"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
MODEL = Gauge(
    "pawprint_model_info", "1 for the model in service", ["name", "version", "digest"], multiprocess_mode="livemax"
)
HELD_OUT = Gauge(
    "pawprint_held_out_share",
    "Share of each class in the model's predictions of held-out photographs",
    ["label"],
    multiprocess_mode="livemax",
)


@functools.cache
def labelled(metric: _Metric, *labels: str) -> _Metric:
    """`metric.labels(*labels)`, which takes longer than to count; for labels of which there are few."""
    return metric.labels(*labels)


def answered(role: str, label: str, milliseconds: float) -> None:
    """Count a prediction of champion, shadow or canary, so that they can be shown side by side."""
    labelled(MODEL_ANSWERS, role, label).inc()
    labelled(MODEL_SECONDS, role).observe(milliseconds / 1000)
