"""The champion that champion.json names -> champion/ and a Bento.

python -m flows.package
"""

import json
import shutil
from pathlib import Path

from prefect import flow

from flows import ROOT
from flows.steps import run, step
from pawprint.errors import PawprintError
from pawprint.serving import bento
from pawprint.tracking import registry
from pawprint.tracking.registry import Champion


@flow(name="package", flow_run_name="package")
def package() -> None:
    """Fetch the champion by version and digest and make it something that can be served anywhere."""
    # 1. which version
    champion = read_champion()

    # 2. its folder, out of the registry: the winner may come from an earlier run than today's models/
    folder = fetch(champion)

    # 3. as a Bento
    tag = build(folder, champion)

    # 4. which Bento that was
    (ROOT / "bento.json").write_text(json.dumps({"tag": tag, **champion.model_dump()}, indent=1) + "\n", "utf-8")
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
def build(folder: Path, champion: Champion) -> str:
    """The Bento of the champion, in BentoML's store."""
    return bento.build(folder, champion.model_dump())


if __name__ == "__main__":
    run(package)
