"""The traffic log as a page that a person looks at: `pawprint traffic report`.

report = summarize(log, Path("champion"), since=0, seed=2017)
Path("traffic.html").write_text(page(report))
"""

import base64
import html
import io
import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.serving.champion import Champion
from pawprint.serving.drift import FEWEST, Drift, compare

ALARM = 0.05  # a p-value below it is called drift
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ccc}
img{max-width:100%;background:#fff}
.alarm{border-left:.4rem solid #c00;padding-left:.8rem}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}"""


@dataclass(frozen=True)
class Report:
    """What one model answered, and what became of it."""

    model: str  # name/version
    digest: str
    threshold: float  # of typicality
    times: NDArray[np.float64]  # [n], seconds since 1970, rising
    labels: list[str]  # [n]
    confidence: NDArray[np.float64]  # [n]
    typicality: NDArray[np.float64]  # [n]
    pictures: int  # different ones
    others: int  # answers of other models in the log, which are not looked at
    drift: Drift | None  # None where there are too few pictures to say
    judged: list[tuple[str, str]]  # (answer, what a person says), where one said something

    def figures(self) -> dict[str, float]:
        """The numbers of it, by names that MLflow takes."""
        found: dict[str, float] = {"answers": len(self.labels), "pictures": self.pictures}
        if self.labels:
            found["confidence_mean"] = float(self.confidence.mean())
            found["typicality_mean"] = float(self.typicality.mean())
        found |= {f"share/{label}": n / len(self.labels) for label, n in sorted(Counter(self.labels).items())}
        if self.drift:
            found |= {"drift_mmd": self.drift.mmd, "drift_p": self.drift.p}
        found["feedback"] = len(self.judged)
        if self.judged:
            found["feedback_accuracy"] = sum(said == right for said, right in self.judged) / len(self.judged)
        return found


def summarize(log: Path, folder: Path, since: float, seed: int) -> Report:
    """The answers in `log` that the model in `folder` gave after `since` (seconds since 1970).

    A picture that came several times counts once in the drift test, whose pictures have to be independent.

    Raises:
        PawprintError: there is no such log, or it is not one of ours.
    """
    info, champion = ModelInfo.read(folder), Champion.read(folder)
    rows, others = _read(log, info.model_digest, since)
    ours = [row for row in rows if len(row["embedding"])]
    firsts = {row["picture_sha256"]: np.frombuffer(row["embedding"], "<f2") for row in ours}
    drift = None
    if len(firsts) >= FEWEST:
        training = load_file(folder / "typicality.safetensors")["embeddings"]
        drift = compare(training, np.stack(list(firsts.values())), seed)
    return Report(
        model=f"{champion.model or 'unregistered'}/{champion.version or '0'}",
        digest=info.model_digest,
        threshold=info.typicality_threshold,
        times=np.array([row["time"] for row in rows]),
        labels=[row["label"] for row in rows],
        confidence=np.array([max(json.loads(row["probabilities"]).values()) for row in rows]),
        typicality=np.array([row["typicality"] for row in rows]),
        pictures=len({row["picture_sha256"] for row in rows}),
        others=others,
        drift=drift,
        judged=[(row["label"], row["right_label"]) for row in rows if row["right_label"] is not None],
    )


def _read(log: Path, digest: str, since: float) -> tuple[list[sqlite3.Row], int]:
    if not log.is_file():
        raise PawprintError(f"There is no traffic log at {log}. Serve the model and ask it something, or name --log.")
    try:
        with closing(sqlite3.connect(f"{log.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(
                "SELECT p.time, p.picture_sha256, p.label, p.probabilities, p.typicality, p.embedding,"
                " f.label AS right_label FROM predictions p LEFT JOIN feedback f ON f.id = p.id"
                " WHERE p.model_digest = ? AND p.time >= ? ORDER BY p.time",
                (digest, since),
            ).fetchall()
            others = connection.execute(
                "SELECT count(*) FROM predictions WHERE model_digest != ? AND time >= ?", (digest, since)
            ).fetchone()[0]
    except sqlite3.Error as error:
        raise PawprintError(f"{log} cannot be read as a traffic log ({error}). Name another with --log.") from None
    return rows, int(others)


def verdict(drift: Drift | None) -> str:
    """The drift test in one sentence."""
    if drift is None:
        return f"Fewer than {FEWEST} different pictures came: too few to say whether they drift."
    compared = f"{drift.traffic:,} pictures against {drift.training:,} training photographs, p = {drift.p:.3f}"
    if drift.p < ALARM:
        return f"Drift: the pictures differ from the training photographs ({compared})."
    return f"No drift was found ({compared})."


def page(report: Report) -> str:
    """One HTML file, nothing fetched."""
    rows = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th><td>{value:,.4g}</td></tr>"
        for name, value in report.figures().items()
    )
    span = "none"
    if report.labels:
        first, last = (datetime.fromtimestamp(each, UTC) for each in (report.times[0], report.times[-1]))
        span = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    alarm = " class=alarm" if report.drift and report.drift.p < ALARM else ""
    others = f" {report.others:,} answers of other models are left out." if report.others else ""
    judged = _accuracy(report)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Traffic</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
        f"<h1>Traffic of {html.escape(report.model)}</h1><p>Answers: {span}.{others}</p>"
        f"<p{alarm}><b>{html.escape(verdict(report.drift))}</b> The test is the maximum mean discrepancy of the "
        "embeddings with a permutation p-value; with no drift at all one report in twenty raises this alarm.</p>"
        f"<p>{judged}</p>{_plots(report)}<table>{rows}</table></html>\n"
    )


def _accuracy(report: Report) -> str:
    if not report.judged:
        return "Nobody has given feedback."
    right = sum(said == label for said, label in report.judged)
    return (
        f"People judged {len(report.judged):,} answers, {right:,} of them right. People who judge mostly met a "
        "mistake, so this says less of all answers than it seems."
    )


def _plots(report: Report) -> str:
    if not report.labels:
        return ""
    from matplotlib.figure import Figure  # no pyplot: no display and no state of its own

    canvas = Figure(figsize=(9, 6), layout="constrained")
    (volume, classes), (sure, typical) = canvas.subplots(2, 2)
    hours = (report.times - report.times[-1]) / 3600
    volume.hist(hours, bins=40)
    volume.set(title="answers, by hours before the last one")
    counts = sorted(Counter(report.labels).items())
    classes.bar([name for name, _ in counts], [count for _, count in counts])
    classes.set(title="answers by label")
    sure.hist(report.confidence, bins=20)
    sure.set(title="probability of the likeliest class")
    typical.hist(report.typicality, bins=30)
    typical.axvline(report.threshold, color="black", linestyle="--")
    typical.set(title="typicality (left of the line: neither)")
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = "Answers over time, by label, by confidence and by typicality"
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'


def as_parameters(report: Report, log: Path) -> dict[str, str]:
    """What the report was made of, for the record."""
    return {"model": report.model, "model_digest": report.digest, "log": str(log)}
