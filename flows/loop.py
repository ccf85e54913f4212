"""What the worker does each night with what the service was sent: harvest, and by the rule a review or a training.

    reason = look(settings)          # "63 decisions of people", or "" where nothing but the night started this run

The rule is `loop` in params.yaml. A training has its reason on its runs in MLflow (tag `reason`), a review in the
traffic report's run and in a notification.
"""

import time
from dataclasses import dataclass

from prefect import get_run_logger

from flows import ROOT, git_sync, notifications
from flows.tasks import step
from pawprint import dvc
from pawprint.config import Params, load_params
from pawprint.data import corrections, inbox
from pawprint.data.inbox import Inbox
from pawprint.data.labels import FILE, Labels
from pawprint.errors import PawprintError
from pawprint.files import read_json, write_json, write_text
from pawprint.inference.classifier import ModelInfo
from pawprint.review import queues
from pawprint.review.harvest import Mix, harvest_logs
from pawprint.serving import report, segments, traffic
from pawprint.serving.champion import registered_model
from pawprint.serving.report import Report
from pawprint.tracking.tracker import Tracker

ASKED = ROOT / "cache" / "asked_for_review.json"  # when drift last started a review, and of which champion
TRAINED = ROOT / "cache" / "trained.txt"  # the commit of the data version that the last whole run trained on


@dataclass(frozen=True)
class Drifted:
    """Drift by the rule."""

    found: Report
    words: str


def look(settings: git_sync.Settings) -> str:
    """Harvest, then start what the rule says; why this run trains, "" where the rule does not ask for it.

    A run that goes on for one that was cut off has its reason: that of the data version, until one run was whole.
    """
    params, drift = load_params(ROOT / "params.yaml"), None
    try:
        take()
        drift = drifted(params)
    except PawprintError as error:  # a damaged log stops no training
        get_run_logger().warning("the traffic was not looked at: %s", error)
    count, who = decided(params)
    if params.loop.decisions and count >= (1 if drift else params.loop.decisions):
        reason = f"{count:,} decision{'s' * (count != 1)} of {who}" + (f"; {drift.words}" if drift else "")
        return reason if apply(settings, params, reason) else ""
    if drift:
        ask_for_review(params, drift)
    known = TRAINED.read_text("utf-8") if TRAINED.exists() else ""
    return git_sync.data_reason(settings) if git_sync.data_commit(settings) != known else ""


def trained(settings: git_sync.Settings) -> None:
    """The newest data version was trained on; what trains on it later has another reason."""
    write_text(TRAINED, git_sync.data_commit(settings))


@step(retries=1, delay=5)
def take() -> None:
    """Photographs of the service's traffic into the review queue, where there is a log."""
    if traffic.segments() or any(traffic.folder().glob("*.db")):
        counts = harvest_logs(ROOT, Mix(), days=0)
        get_run_logger().info("harvested %s photographs: %s", counts.total(), dict(counts))


def drifted(params: Params) -> Drifted | None:
    """Does the traffic of the last days differ from the held-out photographs by what the rule says? The log says it."""
    folder, rule, say = ROOT / "champion", params.loop, get_run_logger().info
    if not folder.is_dir():
        return None
    since = time.time() - 86_400 * rule.days
    with segments.log_of(registered_model(folder), since=since) as log:
        if not log.is_file():
            say("no drift was looked for: there is no traffic log %s", log)
            return None
        found = report.summarize(log, folder, since, params.seed)
    seen = f"{found.pictures:,} photographs of {rule.days:g} days"
    if found.pictures < rule.photographs:
        say("no drift was looked for: the champion saw %s, and loop.photographs is %s", seen, rule.photographs)
        return None
    parts = []
    if found.drift and found.drift.p < report.ALARM and found.drift.separation >= rule.drift:
        parts.append(f"told apart in {found.drift.separation:.0%} of pairs (p = {found.drift.p:.3f})")
    if (shift := found.label_shift) and shift.p < report.ALARM and shift.distance >= rule.label_shift:
        parts.append(f"{shift.distance:.0%} of predictions of other classes (p = {shift.p:.3f})")
    if not parts:
        say("no drift by the rule (loop in params.yaml) on %s: %s", seen, report.verdict(found))
        return None
    words = f"drift: {' and '.join(parts)} on {seen}"
    say("%s", words)
    return Drifted(found, words)


def decided(params: Params) -> tuple[int, str]:
    """(decisions that are not in data/ yet, but for those on the test side; who made them)."""
    labels = Labels(ROOT / FILE)
    is_test = corrections.on_test_side(ROOT / "data", params)
    count = corrections.waiting(labels, ROOT / "data", Inbox(ROOT / inbox.FOLDER), is_test)
    return count, ", ".join(sorted({one.who for one in labels.standing().values()}))


@step()
def apply(settings: git_sync.Settings, params: Params, reason: str) -> bool:
    """The decisions as the next data version, committed and pushed; False, and people know, where that cannot be."""
    is_test = corrections.on_test_side(ROOT / "data", params)
    write_text(ROOT / git_sync.PUBLISHING, reason)
    applied = corrections.apply(Labels(ROOT / FILE), ROOT / "data", Inbox(ROOT / inbox.FOLDER), is_test)
    dvc.add(ROOT)
    get_run_logger().info("%s: %s", reason, applied.summary())
    try:
        if dvc.default_remote(ROOT):
            dvc.push(ROOT)
        git_sync.publish(settings, [FILE, "data.dvc"], f"{reason}\n\n{applied.summary()}")
    except PawprintError as error:
        dvc.pull(ROOT, "data.dvc")
        (ROOT / git_sync.PUBLISHING).unlink()
        text = f"{reason} wait: `pawprint photos apply`, commit and push. The worker cannot: {error}"
        notifications.send("pawprint: decisions wait to be applied", text)
        return False
    (ROOT / git_sync.PUBLISHING).unlink()
    return True


def ask_for_review(params: Params, drift: Drifted) -> None:
    """Tell people to review what was harvested, and keep why in MLflow; once in `loop.days` for a champion."""
    asked = read_json(ASKED) or {}
    if asked.get("digest") == drift.found.digest and time.time() - asked["time"] < 86_400 * params.loop.days:
        return
    page = ROOT / "cache" / "traffic.html"
    write_text(page, report.page(drift.found))
    dataset = ModelInfo.read(ROOT / "champion").lineage.dataset
    given = {"model": drift.found.model, "model_digest": drift.found.digest, "reason": drift.words}
    tracker = Tracker(ROOT)
    name = f"traffic of {drift.found.model}"
    run_id = tracker.log_page(f"{dataset} traffic", name, given, drift.found.figures(), page, drift.words)
    waits = len(queues.waiting(ROOT).items)
    notifications.send(
        f"pawprint: review what {drift.found.model} was sent",
        f"{drift.words}. {waits:,} photographs wait in {ROOT / inbox.FOLDER}: `pawprint review harvest` there. "
        f"The report: {tracker.run_page(run_id)}",
    )
    write_json(ASKED, {"digest": drift.found.digest, "time": time.time()})
