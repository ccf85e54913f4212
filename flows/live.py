"""A challenger that waits for live traffic: promoted when it has answered enough beside the champion, or not.

`pawprint run` and the worker call it after the stages; the worker also counts the answers once a minute.
"""

from flows import ROOT
from flows.tasks import step
from pawprint import dvc
from pawprint.config import load_params
from pawprint.evaluation import gate, live
from pawprint.lineage import Champion
from pawprint.progress import say


def answered(entry: Champion, over: str) -> list[live.Beside]:
    """What the traffic log has of `entry` beside the champion with the digest `over`."""
    from pawprint.serving import segments, traffic

    with segments.log_of(entry.model) as log:
        if not log.is_file():
            return []
        served, _ = traffic.read(log, over, 0)
        found = live.compare(*traffic.beside(log, over), served)
    return [one for one in found if one.digest == entry.model_digest]


def count(entry: Champion, over: str) -> int:
    """How many answers that is; the champion's own, with their embeddings, are not read for it."""
    from pawprint.serving import segments, traffic

    with segments.log_of(entry.model) as log:
        both = traffic.beside(log, over)
    return max(sum(1 for row in rows if row["digest"] == entry.model_digest) for rows in both)


@step()
def follow() -> None:
    """Decide on the challenger that waits, where its answers are there."""
    if (found := gate.waiting(ROOT)) is None:
        return
    from flows import register
    from pawprint.data.dataset import PreparedDataset
    from pawprint.tracking.tracker import Tracker

    entry, verdict = found
    tracker, params = Tracker(ROOT), load_params(ROOT / "params.yaml")
    champion = tracker.registry.current_champion(entry.model)
    if champion is None or champion.model_digest != verdict.over or not params.gate.live_answers:
        register.register.fn()  # another champion, or other rules: it is compared again
        dvc.commit(ROOT, "register")
        return
    decided = gate.after_traffic(verdict, answered(entry, verdict.over), params.gate)
    say(f"  gate: {gate.OUTCOMES[decided.outcome]}: {decided.reason}", gate=decided.outcome, reason=decided.reason)
    if decided.outcome == "waiting":
        return
    if decided.outcome == "promoted" and not tracker.registry.promote(entry, decided.reason, over=champion):
        return  # another registration was faster: its own run goes on from here
    data = PreparedDataset.open(ROOT / "prepared")
    challenger = register.read_evaluations(params, data.split("test"))[entry.model_digest]
    register.log_decision(tracker, entry, champion, challenger, decided, data.drawn)
    register.lay_beside(tracker, entry)
    dvc.commit(ROOT, "register")
