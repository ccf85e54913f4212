"""A stage is stale when any code that it runs has changed: its deps cover its import closure."""

from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from imports import PROJECT, closure

STAGES: dict[str, Any] = {
    name: stage.get("do", stage)
    for name, stage in yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items()
}


@pytest.mark.parametrize("name", STAGES)
def test_the_deps_of_a_stage_cover_its_import_closure(name: str) -> None:
    deps = {PurePosixPath(dep) for dep in STAGES[name]["deps"]}
    missing = {
        path
        for path in closure(f"flows.{name}")
        if not deps & {PurePosixPath(path), *PurePosixPath(path).parents} and not path.endswith("__init__.py")
    }
    assert not missing, f"dvc.yaml: stage {name} does not depend on {', '.join(sorted(missing))}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_run(name: str) -> None:
    code = {dep for dep in STAGES[name]["deps"] if dep.startswith(("src/", "flows/"))}
    used = closure(f"flows.{name}")
    assert not [dep for dep in code if not any(path == dep or path.startswith(f"{dep}/") for path in used)]


def test_a_change_of_a_default_is_a_change_of_every_stage() -> None:
    assert all("src/pawprint/config.py" in stage["deps"] for stage in STAGES.values())
