"""The traffic log as a page: `pawprint traffic report`.

report = summarize(log, Path("champion"), since=0, seed=2017)
Path("traffic.html").write_text(page(report))
"""

import io
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pawprint.files import data_url, render
from pawprint.inference.classifier import OOD_FILE, ModelInfo
from pawprint.serving import traffic
from pawprint.serving.champion import read_champion
from pawprint.serving.drift import FEWEST, Drift, LabelShift, compare, label_shift

ALARM = 0.05  # a p-value below it is called drift


@dataclass(frozen=True)
class Report:
    """The predictions of one model, and the feedback on them."""

    model: str  # name/version
    digest: str
    threshold: float  # of the kNN similarity
    times: NDArray[np.float64]  # [n], seconds since 1970, rising
    labels: list[str]  # [n]
    confidence: NDArray[np.float64]  # [n]
    typicality: NDArray[np.float64]  # [n]
    pictures: int  # different ones
    others: int  # predictions of other models in the log, which are not counted
    drift: Drift | None  # None where there are too few pictures to say
    against: str  # what was compared with: "held-out photographs", of a model of before "training photographs"
    label_shift: LabelShift | None  # likewise, and for a model of before that kept no predictions
    judged: list[tuple[str, str]]  # (predicted, right label) where there is feedback

    def figures(self) -> dict[str, float]:
        """Its numbers, by names that MLflow accepts."""
        found: dict[str, float] = {"answers": len(self.labels), "pictures": self.pictures}
        if self.labels:
            found["confidence_mean"] = float(self.confidence.mean())
            found["typicality_mean"] = float(self.typicality.mean())
        found |= {f"share/{label}": n / len(self.labels) for label, n in sorted(Counter(self.labels).items())}
        if self.drift:
            found |= {f"drift_{name}": getattr(self.drift, name) for name in ("mmd", "p", "separation")}
        if self.label_shift:
            found |= {"label_shift": self.label_shift.distance, "label_shift_p": self.label_shift.p}
        found["feedback"] = len(self.judged)
        if self.judged:
            found["feedback_accuracy"] = sum(label == right for label, right in self.judged) / len(self.judged)
        return found


def summarize(log: Path, folder: Path, since: float, seed: int) -> Report:
    """The predictions in `log` that the model in `folder` gave after `since` (seconds since 1970).

    A picture that came several times counts once in the drift test, whose pictures have to be independent.

    Raises:
        PawprintError: there is no such log, or it is not one of ours.
    """
    info, champion = ModelInfo.read(folder), read_champion(folder)
    rows, others = traffic.read(log, info.model_digest, since)
    embeddings = {row["picture_sha256"]: np.frombuffer(row["embedding"], "<f2") for row in rows if row["embedding"]}
    drift, shift, against = None, None, "held-out photographs"
    if len(embeddings) >= FEWEST:
        kept = load_file(folder / OOD_FILE)
        held_out = kept.get("held_out", kept.get("embeddings"))
        against = against if "held_out" in kept else "training photographs"  # models of before kept only these
        if held_out is not None and len(held_out) >= 2:
            drift = compare(held_out, np.stack(list(embeddings.values())), seed)
        if (before := kept.get("held_out_predicted")) is not None and before.any():
            by_picture = {row["picture_sha256"]: json.loads(row["probabilities"]) for row in rows if row["embedding"]}
            named = Counter(max(one, key=one.__getitem__) for one in by_picture.values())
            shift = label_shift(before, np.array([named[name] for name in info.classes]), seed)
    return Report(
        model=f"{champion.model}/{champion.version}" if champion else "unregistered/0",
        digest=info.model_digest,
        threshold=info.ood_threshold,
        times=np.array([row["time"] for row in rows]),
        labels=[row["label"] for row in rows],
        confidence=np.array([max(json.loads(row["probabilities"]).values()) for row in rows]),
        typicality=np.array([row["typicality"] for row in rows]),
        pictures=len(embeddings),
        others=others,
        drift=drift,
        against=against,
        label_shift=shift,
        judged=[(row["label"], row["right_label"]) for row in rows if row["right_label"] is not None],
    )


def verdict(report: Report) -> str:
    """Both tests in a sentence each."""
    drift, shift = report.drift, report.label_shift
    if drift is None:
        return f"Fewer than {FEWEST} different photographs came: too few to test for drift."
    compared = (
        f"{drift.traffic:,} photographs against {drift.training:,} {report.against}, p = {drift.p:.3f}, told "
        f"apart in {drift.separation:.0%} of all pairs; 50 % is by chance"
    )
    differ = f"Drift: the photographs differ from the {report.against}" if drift.p < ALARM else "No drift was found"
    if shift is None:
        return f"{differ} ({compared})."
    changed = f"{shift.distance:.0%} of the predictions would have to be of another class, p = {shift.p:.3f}"
    classes = "Classes come in other shares" if shift.p < ALARM else "No other shares of classes were found"
    return f"{differ} ({compared}). {classes} ({changed})."


def page(report: Report, beside: Sequence[str] = ()) -> str:
    """One HTML file, nothing fetched. `beside`: sentences on challengers."""
    span = "none"
    if report.labels:
        first, last = (datetime.fromtimestamp(each, UTC) for each in (report.times[0], report.times[-1]))
        span = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    return render(
        "pawprint.serving",
        "traffic.html",
        report=report,
        beside=beside,
        figures=report.figures(),
        span=span,
        verdict=verdict(report),
        plot=_plots(report),
        alarm=any(one and one.p < ALARM for one in (report.drift, report.label_shift)),
        right=sum(label == true for label, true in report.judged),
    )


def _plots(report: Report) -> str:
    """A PNG as a data URL; "" without predictions."""
    if not report.labels:
        return ""
    from matplotlib.figure import Figure  # no pyplot: no display and no state of its own

    canvas = Figure(figsize=(9, 6), layout="constrained")
    (volume, classes), (sure, similar) = canvas.subplots(2, 2)
    hours = (report.times - report.times[-1]) / 3600
    volume.hist(hours, bins=40)
    volume.set(title="predictions, by hours before the last one")
    counts = sorted(Counter(report.labels).items())
    classes.bar(range(len(counts)), [count for _, count in counts])
    classes.set_xticks(range(len(counts)), [name for name, _ in counts], parse_math=False)  # a name may have a `$`
    classes.set(title="predictions by label")
    sure.hist(report.confidence, bins=20)
    sure.set(title="probability of the most likely class")
    similar.hist(report.typicality, bins=30)
    similar.axvline(report.threshold, color="black", linestyle="--")
    similar.set(title="typicality (left of the line: unknown)")
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # letters that no font here has are boxes
        canvas.savefig(buffer, format="png", dpi=110)
    return data_url("png", buffer.getvalue())
