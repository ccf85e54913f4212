"""deploy/kubernetes: what kubectl renders fits the schemas, and has the limits, rights and steps that it promises.

No cluster ran it. `bash scripts/kubernetes_tools.sh` fetches what is needed; CI calls it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from pawprint.serving import metrics

ROOT = Path(__file__).resolve().parents[2]
FOLDER, TOOLS = ROOT / "deploy" / "kubernetes", ROOT / "build" / "kubernetes"
KUBECTL = str(TOOLS / "kubectl") if (TOOLS / "kubectl").exists() else shutil.which("kubectl")
OVERLAYS = ("shadow", "example", "ray-kueue")  # which hold base, gateway, traffic and ray
# Kinds whose schemas are in no package here: they were checked by hand (docs/kubernetes.md says against what).
UNCHECKED = {"BackendTrafficPolicy", "RayJob", "ClusterQueue", "LocalQueue", "ResourceFlavor"}
MODELS = """
import { readFileSync } from "node:fs";
import * as argo from "@kubernetes-models/argo-rollouts/argoproj.io/v1alpha1";
import * as gateway from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import * as prometheus from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
const models = { ...argo, ...gateway, ...prometheus };
for (const one of JSON.parse(readFileSync(0))) new models[one.kind](one).validate();
"""
pytestmark = pytest.mark.skipif(
    not KUBECTL or not TOOLS.exists(), reason="no kubectl and schemas here (bash scripts/kubernetes_tools.sh)"
)


@cache
def everything(name: str) -> tuple[dict[str, Any], ...]:
    """The resources of an overlay."""
    text = subprocess.run([str(KUBECTL), "kustomize", FOLDER / name], capture_output=True, text=True, check=True).stdout
    return tuple(yaml.safe_load_all(text))


def rendered(name: str) -> dict[str, Any]:
    """Resource by kind and, but for those called pawprint, name."""
    named = {(one["kind"], one["metadata"]["name"]): one for one in everything(name)}
    return {kind if name == "pawprint" else f"{kind}/{name}": one for (kind, name), one in named.items()}


def is_builtin(one: dict[str, Any]) -> bool:
    group = one["apiVersion"].rpartition("/")[0]
    return "." not in group or (group.endswith((".k8s.io",)) and not group.startswith(("gateway.", "kueue")))


def of_models(resources: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Validate by the models of npm."""
    command = ["node", "--input-type=module", "-e", MODELS]
    return subprocess.run(command, cwd=TOOLS, input=json.dumps(resources), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_resource_fits_its_schema(name: str, tmp_path: Path) -> None:
    builtin = [one for one in everything(name) if is_builtin(one)]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(builtin))
    done = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", "1.36.0", tmp_path / "all.yaml"],
        env={**os.environ, "PYTHONPATH": str(TOOLS / "python")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("passed for resource") == len(builtin)
    custom = [one for one in everything(name) if not is_builtin(one) and one["kind"] not in UNCHECKED]
    done = of_models(custom)
    assert done.returncode == 0, done.stderr


def test_the_schemas_find_a_mistake() -> None:
    rollout = json.loads(json.dumps(rendered("gateway")["Rollout"]))
    rollout["spec"]["strategy"]["canary"]["steps"][0]["setWeight"] = "five"
    assert "setWeight must be integer" in of_models([rollout]).stderr


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
    cluster = rendered("ray")["RayJob/pawprint-batch"]["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    services = [rendered(name)["Deployment"]["spec"] for name in ("base", "example")]
    return [
        one["template"]["spec"]
        for one in (*services, rendered("shadow")["Deployment/pawprint-shadow"]["spec"], *groups)
    ]


def test_every_pod_is_without_rights_and_has_limits() -> None:
    for pod in pod_specs():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        mounted = set()
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
            mounted |= {one["name"] for one in container["volumeMounts"]}
        assert mounted == {one["name"] for one in pod["volumes"]}


def test_a_new_version_gets_5_25_and_50_percent_by_the_gateway_alone() -> None:
    parts = rendered("gateway")
    canary = parts["Rollout"]["spec"]["strategy"]["canary"]
    assert [step["setWeight"] for step in canary["steps"] if "setWeight" in step] == [5, 25, 50]
    route = parts["HTTPRoute"]["spec"]["rules"][0]["backendRefs"]
    assert {one["name"] for one in route} == {canary["stableService"], canary["canaryService"]}
    assert canary["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"]["httpRoute"] == "pawprint"
    for name in ("stableService", "canaryService"):
        service = parts[f"Service/{canary[name]}"]["spec"]
        assert service["selector"] == parts["Service"]["spec"]["selector"]
        assert service["ports"][0]["port"] == route[0]["port"]
    assert parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["kind"] == "Rollout"
    environment = parts["Deployment"]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "PAWPRINT_CHALLENGER", "value": "off"} in environment


def test_the_analysis_asks_for_metrics_that_the_service_has() -> None:
    (template,) = (one for one in everything("gateway") if one["kind"] == "AnalysisTemplate")
    spec = template["spec"]
    assert {one["name"] for one in spec["metrics"]} == {"errors", "latency", "refusals"}
    known = {sample for one in vars(metrics).values() if isinstance(one, MetricWrapperBase) for sample in names(one)}
    args = {one["name"] for one in spec["args"]}
    for metric in spec["metrics"]:
        query = metric["provider"]["prometheus"]["query"]
        assert set(re.findall(r"pawprint_\w+", query)) <= known
        assert set(re.findall(r"{{args\.(\w+)}}", query)) <= args
    analysis = rendered("gateway")["Rollout"]["spec"]["strategy"]["canary"]["analysis"]
    assert analysis["templates"] == [{"templateName": template["metadata"]["name"]}]
    assert {one["name"] for one in analysis["args"]} <= args


def names(metric: MetricWrapperBase) -> set[str]:
    (found,) = metric.describe()
    return {f"{found.name}{suffix}" for suffix in ("", "_total", "_bucket", "_count", "_sum")}


def test_a_shadow_gets_copies_and_answers_nobody() -> None:
    (rule,) = rendered("shadow")["HTTPRoute"]["spec"]["rules"]
    (mirror,) = rule["filters"]
    assert mirror["requestMirror"]["backendRef"]["name"] == "pawprint-shadow"
    assert "pawprint-shadow" not in {one["name"] for one in rule["backendRefs"]}
    shadow = rendered("shadow")["Service/pawprint-shadow"]["spec"]["selector"]
    assert shadow != rendered("shadow")["Service"]["spec"]["selector"]


def test_only_the_container_that_ships_the_traffic_log_has_the_bucket_s_key() -> None:
    pod = rendered("example")["Deployment"]["spec"]["template"]["spec"]
    (service,), (ship,) = pod["containers"], pod["initContainers"]
    assert ship["restartPolicy"] == "Always"  # a sidecar
    assert any("secretRef" in one for one in ship["envFrom"])
    assert not any("secretRef" in one for one in service["envFrom"])
    volume = {one["name"]: one["mountPath"] for one in ship["volumeMounts"]}["traffic"]
    assert {"name": "PAWPRINT_TRAFFIC", "value": volume} in ship["env"]
    assert "traffic" in {one["name"] for one in service["volumeMounts"]}
    assert "@sha256:" in service["image"]


def test_a_ray_cluster_asks_for_its_token_and_may_wait_in_a_queue() -> None:
    assert rendered("ray")["RayJob/pawprint-batch"]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    version = rendered("ray")["RayJob/pawprint-batch"]["spec"]["rayClusterSpec"]["rayVersion"]
    assert f'"ray[default]=={version}"' in (ROOT / "docs" / "kubernetes.md").read_text()  # plain ray has no dashboard
    assert f'"ray=={version}"' in (ROOT / "pyproject.toml").read_text()
    policy = rendered("ray")["NetworkPolicy/pawprint-ray"]["spec"]
    assert policy["podSelector"] == {}
    assert policy["ingress"][0] == {"from": [{"podSelector": {}}]}
    queued = rendered("ray-kueue")["RayJob/pawprint-batch"]
    assert queued["spec"]["suspend"] and queued["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "pawprint"}
