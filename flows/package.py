"""The champion that champion.json names -> champion/, a Bento and the files of its release.

python -m flows.package
"""

import itertools
import shutil
from pathlib import Path

from flows import ROOT
from flows.tasks import flow, run_stage, step
from pawprint import image, lineage
from pawprint.config import load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.evaluation import model_card, release
from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.gate import Verdict
from pawprint.files import data_url, replace_folder, write_json, write_text
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion
from pawprint.progress import say
from pawprint.serving import bento, sbom
from pawprint.serving.schema import ABOUT, About, Example, Interval
from pawprint.tracking.tracker import Tracker


@flow(name="package", flow_run_name="package")
def package() -> None:
    """Fetch the champion by version and digest, and make it servable anywhere."""
    # 1. which version
    champion = Champion.read(ROOT)
    tracker = Tracker(ROOT)

    # 2. its folder, out of the registry: the champion may come from an earlier run than today's models/
    folder = fetch(tracker, champion, load_params(ROOT / "params.yaml").serving.examples)

    # 3. the Bento, in BentoML's store
    tag = step()(bento.build)(folder, champion.model_dump(), ROOT)
    digest = lineage.bento_digest(_stored(tag))

    # 4. the files of the release
    write_release(tracker, folder, champion, tag, digest)

    # 5. which Bento that was
    write_json(ROOT / "bento.json", {"tag": tag, "digest": digest, **champion.model_dump()})
    text = f"  {champion.model} version {champion.version} is packaged as {tag}"
    say(text, bento=tag, model=champion.model, version=champion.version)


@step(retries=2, delay=2)
def fetch(tracker: Tracker, champion: Champion, examples: int) -> Path:
    """champion/: the model folder, with champion.json and about.json in it."""
    out = ROOT / "champion"
    with replace_folder(out) as fresh:
        shutil.copytree(tracker.registry.folder(champion), fresh, dirs_exist_ok=True)
        write_text(fresh / "champion.json", champion.model_dump_json(indent=1) + "\n")
        write_text(fresh / ABOUT, describe(tracker, champion, fresh, examples).model_dump_json(indent=1) + "\n")
    return out


def describe(tracker: Tracker, champion: Champion, folder: Path, examples: int) -> About:
    """What the page of the service shows of the model in `folder`; empty where its run keeps no evaluation."""
    info, evidence = ModelInfo.read(folder), evidence_of(tracker, champion)
    try:
        report = EvaluationReport.model_validate_json(evidence[release.EVALUATION].read_bytes())
        gate = evidence.get(release.GATE)  # none for a champion by a person's choice
        verdict = Verdict.model_validate_json(gate.read_bytes()) if gate else None
    except (OSError, KeyError, ValueError):
        return About()  # write_release says what to do
    drawn = (tracker.run_tags(champion.run_id) or {}).get("drawn") == "True"
    version = f"{champion.model} version {champion.version}"
    return About(
        drawn=drawn,
        photographs=report.test.photographs,
        accuracy=Interval(**report.test.accuracy.model_dump()),
        confusion=report.test.confusion,
        card=model_card.model_card(info, report, drawn, version, verdict.reason if verdict else ""),
        examples=pick_examples(info, lineage.claimed(folder), examples),
    )


def pick_examples(info: ModelInfo, learned: frozenset[str], count: int) -> list[Example]:
    """`count` of today's test photographs that the model has not learned from, one of each class in turn."""
    test = PreparedDataset.open(ROOT / "prepared").split("test")
    if test.classes != info.classes:
        return []
    of_class: dict[int, list[int]] = {label: [] for label in range(len(test.classes))}
    for index, (digest, label) in enumerate(zip(test.hashes, test.labels, strict=True)):
        if digest not in learned:
            of_class[int(label)].append(index)
    turns = itertools.zip_longest(*of_class.values())
    chosen = [index for turn in turns for index in turn if index is not None][:count]
    return [
        Example(
            label=test.classes[test.labels[index]],
            sha256=test.hashes[index],
            picture=data_url("jpeg", image.encode(test.images([index])[0], 90)),
        )
        for index in chosen
    ]


@step(retries=2, delay=2)
def write_release(tracker: Tracker, folder: Path, champion: Champion, tag: str, digest: str) -> None:
    """The files of the release, in reports/releases/ and with the champion's run; the registry records the Bento."""
    info = ModelInfo.read(folder)
    record = lineage.Release(
        **info.lineage.model_dump() | {"run_id": champion.run_id},
        model=champion.model,
        version=champion.version,
        model_digest=champion.model_digest,
        bento=tag,
        bento_digest=digest,
    )
    drawn = (tracker.run_tags(champion.run_id) or {}).get("drawn") == "True"
    out = ROOT / "reports" / "releases" / f"{champion.dataset}-v{champion.version}"
    bill = sbom.sbom(tag, _stored(tag))
    release.write(out, info, evidence_of(tracker, champion), drawn, record, bill)
    tracker.run(champion.run_id).artifact(out, "release")
    tracker.registry.packaged(champion, tag, digest)


def evidence_of(tracker: Tracker, champion: Champion) -> dict[str, Path]:
    """Files that its run keeps: of its promotion, else of its last verdict, else of its evaluation."""
    found = {}
    for name in (release.EVALUATION, release.GATE, release.TABLE):
        for place in ("release", "gate", "evaluation"):
            if name not in found and (path := tracker.artifact(champion.run_id, f"{place}/{name}")):
                found[name] = path
    return found


def _stored(tag: str) -> Path:
    place = bento.folder(tag)
    if place is None:
        raise PawprintError(f"The Bento {tag} is gone from BentoML's store. Run `make run` to build it again.")
    return place


if __name__ == "__main__":
    run_stage(package, "package")
