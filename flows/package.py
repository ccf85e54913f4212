"""The champion that champion.json names -> champion/, a Bento and its release dossier.

python -m flows.package
"""

import json
import shutil
from pathlib import Path

from prefect import flow

from flows import ROOT
from flows.tasks import run, step
from pawprint import lineage
from pawprint.errors import PawprintError
from pawprint.evaluation import release
from pawprint.inference.classifier import ModelInfo
from pawprint.serving import bento, sbom
from pawprint.tracking import registry, runs
from pawprint.tracking.registry import Champion


@flow(name="package", flow_run_name="package")
def package() -> None:
    """Fetch the champion by version and digest and make it something that can be served anywhere."""
    # 1. which version
    champion = read_champion()

    # 2. its folder, out of the registry: the winner may come from an earlier run than today's models/
    folder = fetch(champion)

    # 3. as a Bento
    tag, digest = build(folder, champion)

    # 4. what a person who was not there needs to know of it
    write_release(folder, champion, tag, digest)

    # 5. which Bento that was
    told = {"tag": tag, "digest": digest, **champion.model_dump()}
    (ROOT / "bento.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    print(f"packaged {champion.model} version {champion.version} as {tag}")


def read_champion() -> Champion:
    """champion.json, checked."""
    path = ROOT / "champion.json"
    try:
        return Champion.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        raise PawprintError("champion.json is missing or damaged. Run `dvc repro` (or `make run`).") from None


@step(retries=2, delay=2)
def fetch(champion: Champion) -> Path:
    """champion/: the model folder with champion.json in it; replaced whole."""
    out = ROOT / "champion"
    fresh = ROOT / ".champion.new"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(registry.folder(ROOT, champion), fresh)
    (fresh / "champion.json").write_text(champion.model_dump_json(indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return out


@step()
def build(folder: Path, champion: Champion) -> tuple[str, str]:
    """The Bento of the champion, in BentoML's store: (tag, digest of its files)."""
    tag = bento.build(folder, champion.model_dump())
    return tag, lineage.bento_digest(_stored(tag))


@step(retries=2, delay=2)
def write_release(folder: Path, champion: Champion, tag: str, digest: str) -> None:
    """The dossier, in reports/releases/ and with the champion's run; the registry remembers the Bento."""
    info = ModelInfo.read(folder)
    known = info.lineage.model_dump() | {"run_id": champion.run_id}
    record = lineage.Release(
        **known,
        model=champion.model,
        version=champion.version,
        model_digest=champion.model_digest,
        bento=tag,
        bento_digest=digest,
    )
    drawn = (runs.tags(ROOT, champion.run_id) or {}).get("drawn") == "True"
    out = ROOT / "reports" / "releases" / f"{champion.dataset}-v{champion.version}"
    bill = sbom.sbom(tag, _stored(tag))
    release.write(out, release.Dossier(info, evidence_of(champion), drawn, record, bill))
    runs.Run(champion.run_id).artifact(out, "release")
    registry.packaged(ROOT, champion, tag, digest)


def evidence_of(champion: Champion) -> dict[str, Path]:
    """What its run keeps: of its promotion, else of its last stand before the gate, else of its evaluation."""
    found = {}
    for name in (release.EVALUATION, release.GATE, release.TABLE):
        for place in ("release", "gate", "evaluation"):
            if name not in found and (path := runs.artifact(ROOT, champion.run_id, f"{place}/{name}")):
                found[name] = path
    return found


def _stored(tag: str) -> Path:
    place = bento.folder(tag)
    if place is None:
        raise PawprintError(f"The Bento {tag} is gone from BentoML's store. Run `make run` to build it again.")
    return place


if __name__ == "__main__":
    run(package)
