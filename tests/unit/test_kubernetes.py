"""deploy/kubernetes: what kubectl renders has the limits and rights that the files promise. No cluster ran it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def rendered(name: str) -> dict[str, Any]:
    """Resource by kind."""
    command = ["kubectl", "kustomize", str(FOLDER / name)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_the_service_s_parts_mean_the_same_pods() -> None:
    parts = rendered("base")
    pods = {"app.kubernetes.io/name": "pawprint"}
    assert parts["Deployment"]["spec"]["template"]["metadata"]["labels"].items() >= pods.items()
    assert parts["Service"]["spec"]["selector"] == pods
    assert parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == pods
    assert parts["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == pods
    assert "egress" not in parts["NetworkPolicy"]["spec"]
    assert parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == parts["Deployment"]["metadata"]["name"]
    assert "replicas" not in parts["Deployment"]["spec"]  # the autoscaler's


def pod_specs() -> list[dict[str, Any]]:
    cluster = rendered("ray")["RayJob"]["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [one["template"]["spec"] for one in (rendered("base")["Deployment"]["spec"], *groups)]


def test_every_pod_is_without_rights_and_has_limits() -> None:
    for pod in pod_specs():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        (container,) = pod["containers"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert mounted == {one["name"] for one in pod["volumes"]}


def test_a_ray_cluster_asks_for_its_token() -> None:
    assert rendered("ray")["RayJob"]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
