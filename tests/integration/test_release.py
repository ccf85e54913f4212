"""Two releases, a rollback and a changed seed in a clone of the project: what the registry, the workspace and the Bento
store hold afterwards. The tests share one workspace and run in the order they stand in.
"""

import json
import shutil
from typing import Any

import pytest

from workspace import Workspace, consistent_champion

pytestmark = pytest.mark.slow

CARD, GATE = "MODEL_CARD.md", "gate.json"


def only(*names: str) -> Any:
    """A change of params.yaml: these candidates, trained briefly."""

    def change(params: dict[str, Any]) -> None:
        params["candidates"] = {name: params["candidates"][name] for name in names}
        params["candidates"]["article_cnn"]["epochs"] = 1

    return change


@pytest.fixture(scope="module")
def released(workspace: Workspace) -> Workspace:
    """Version 1 by one epoch of the baseline, version 2 by transfer learning, which beats it."""
    everything = (workspace.root / "params.yaml").read_text()
    workspace.params(only("article_cnn"))
    workspace.run()
    assert consistent_champion(workspace) == "1"
    (workspace.root / "params.yaml").write_text(everything)
    workspace.params(only("article_cnn", "efficientnet_lite0"))
    workspace.run()
    assert workspace.json("champion.json")["candidate"] == "efficientnet_lite0"
    return workspace


def test_each_release_has_its_files_here_and_in_mlflow(released: Workspace) -> None:
    now = consistent_champion(released)
    first, second = (released.root / "reports" / "releases" / f"sample-v{version}" for version in ("1", now))
    names = {CARD, GATE, "gate.md", "evaluation.json", "lineage.json", "sbom.cdx.json"}
    for folder in (first, second):
        assert {path.name for path in folder.iterdir()} == names
    assert json.loads((first / GATE).read_text())["reason"].startswith("the first model of this data set")
    assert "better, and no less accurate" in (second / CARD).read_text()
    assert "drawings" in (second / CARD).read_text()
    lineage, packaged = json.loads((second / "lineage.json").read_text()), released.json("bento.json")
    assert (lineage["bento"], lineage["bento_digest"]) == (packaged["tag"], packaged["digest"])
    assert lineage["code_digest"]
    assert json.loads((second / "sbom.cdx.json").read_text())["metadata"]["component"]["bom-ref"] == packaged["tag"]
    kept = next((released.root / "mlartifacts").glob(f"*/{packaged['run_id']}/artifacts/release"))
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }
    assert "up to date" in released("dvc", "status")


def test_the_chain_holds_from_the_bento_to_the_photographs(released: Workspace) -> None:
    packaged = released.json("bento.json")
    tree = json.loads(released("pawprint", "trace", packaged["tag"], "--json"))
    assert tree["intact"]
    assert tree["state"] == "proved"
    photo = next((released.root / "data" / "cat").iterdir())
    assert json.loads(released("pawprint", "trace", str(photo), "--json"))["intact"]


def test_a_rollback_brings_back_version_alias_files_bento_and_release(released: Workspace) -> None:
    gone = consistent_champion(released)
    shutil.rmtree(released.root / "reports" / "releases" / "sample-v1")
    output = released("pawprint", "rollback", "--because", "it calls foxes dogs")
    assert f"version {gone} rolled back, version 1 (article_cnn) is the current champion" in output
    assert consistent_champion(released) == "1"
    assert released.json("champion/model.json")["candidate"] == "article_cnn"
    kept = released.root / "reports" / "releases" / "sample-v1"
    assert json.loads((kept / GATE).read_text())["reason"].startswith("the first model of this data set")
    assert "up to date" in released("dvc", "status")
    output = released.run()
    assert consistent_champion(released) == "1"
    assert "version 1" in output
    released.params(lambda p: p["gate"].update(max_latency_ms=501))  # the gate is asked again, and keeps it out
    assert "was rolled back" in released.run()
    assert consistent_champion(released) == "1"


def test_another_seed_is_compared_on_what_the_champion_has_not_seen(released: Workspace) -> None:
    champion = consistent_champion(released)
    released.params(lambda p: p.update(seed=7))
    printed = released.run(fails=True)
    assert "are too few to compare on (`gate.min_photographs` is 100)" in printed
    assert "Traceback" not in printed
    assert consistent_champion(released) == champion
    released.params(lambda p: p["gate"].update(min_photographs=2))
    released.run()
    assert "test photographs that neither has learned from" in released.json("reports/gate.json")["reason"]
    consistent_champion(released)


def test_a_lost_mlflow_db_is_filled_again_from_what_the_workspace_holds(released: Workspace) -> None:
    released.params(lambda p: p.update(seed=2017))
    released.run()
    before = released("pawprint", "compare")
    for name in ("mlflow.db", "cache"):
        path = released.root / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    again = released("pawprint", "compare")

    def rows(output: str) -> list[list[str]]:
        return [line.split("│")[1:] for line in output.splitlines() if "│" in line and "·" not in line]

    # all but the ids in the first line
    assert rows(again)[1:] == rows(before)[1:]
    released.run()
    consistent_champion(released)
    assert json.loads(released("pawprint", "trace", released.json("bento.json")["tag"], "--json"))["intact"]
