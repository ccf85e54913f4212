"""Models whose evaluation is known, for the tests of the gate and of releases."""

import numpy as np

from pawprint.evaluation.corruptions import CorruptionReport
from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.gate import Contender
from pawprint.evaluation.latency import Speed
from pawprint.evaluation.metrics import Figure, Scores, measure
from pawprint.evaluation.ood import OODReport
from pawprint.evaluation.slices import slices

N = 400
FAST = Speed(latency_p50_ms=10, latency_p95_ms=12, throughput_per_second=100, size_mb=10, machine="one")


def contender(
    sure: float,
    wrong: int,
    *,
    seed: int = 0,
    noise: float = 0.0,
    hashes: str = "h",
    speed: Speed = FAST,
    accepted: int = 0,
) -> Contender:
    """N photographs of two classes; the first `wrong` are wrong, each answer given with `sure`."""
    labels = np.arange(N) % 2
    confidence = np.clip(sure + np.random.default_rng(seed).normal(0, noise, N), 0.51, 0.999)
    confidence[:wrong] = 1 - confidence[:wrong]
    probabilities = np.where(np.arange(2) == labels[:, None], confidence[:, None], 1 - confidence[:, None])
    names = tuple(f"{hashes}{i}" for i in range(N))
    scores = Scores(names, names, labels, probabilities, ("cat", "dog"), np.ones(N))
    report = EvaluationReport(
        model_digest="",
        test=measure(scores),
        slices=slices(scores, {"half": ["first" if i < N // 2 else "second" for i in range(N)]}, least=20),
        corruptions=CorruptionReport(
            photographs=N, accuracy=1.0, under={"blur": 0.9}, lost={"blur": Figure.share(40, N)}
        ),
        ood=OODReport(pictures=10, real=True, accepted=Figure.share(accepted, 10)),
        speed=speed,
    )
    return Contender(report, scores)
