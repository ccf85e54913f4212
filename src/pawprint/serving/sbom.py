"""What a Bento is made of, for those who must know: a CycloneDX list of packages, model and code.

text = sbom("pawprint:sample-v3-1f2e3d4c", Path("~/bentoml/bentos/pawprint/sample-v3-1f2e3d4c"))
"""

import json
import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path

import yaml
from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from pawprint import lineage
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo


def sbom(tag: str, folder: Path) -> str:
    """CycloneDX 1.6 as JSON of the Bento in `folder`; the same Bento gives the same text.

    Raises:
        PawprintError: the Bento is not whole.
    """
    name, _, version = tag.partition(":")
    digest = lineage.bento_digest(folder)
    try:
        built = yaml.safe_load((folder / "bento.yaml").read_text(encoding="utf-8"))["creation_time"]
        lines = (folder / "env" / "python" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        raise PawprintError(f"The Bento {tag} is damaged. Delete it (`bentoml delete {tag}`) and `make run`.") from None
    bento = Component(
        type=ComponentType.APPLICATION,
        name=name,
        version=version,
        bom_ref=tag,
        properties=[Property(name="pawprint:bento_digest", value=digest)],
    )
    info = ModelInfo.read(folder / "src" / "champion")
    parts = [_model(info), *map(_weights, info.lineage.pretrained), *_packages(lines)]
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest), components=parts)
    bom.metadata.timestamp = datetime.fromisoformat(built)
    bom.metadata.component = bento
    bom.register_dependency(bento, parts)
    return json.dumps(json.loads(JsonV1Dot6(bom).output_as_string()), indent=1) + "\n"


def _weights(pretrained: lineage.Pretrained) -> Component:
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=pretrained.name,
        bom_ref=f"weights:{pretrained.sha256}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=pretrained.sha256)],
        licenses=[LicenseFactory().make_from_string(pretrained.licence)],
        properties=[Property(name="pawprint:source", value=pretrained.source)],
    )


def _model(info: ModelInfo) -> Component:
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=info.candidate,
        version=info.model_digest[:12],
        bom_ref=f"model:{info.model_digest}",
        description=f"{info.architecture}, {info.parameters:,} parameters: {', '.join(info.classes)}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=info.onnx_digest)],
        properties=[
            Property(name=f"pawprint:{name}", value=str(value))
            for name, value in info.lineage.model_dump(exclude={"pretrained"}).items()
        ],
    )


def _packages(lines: list[str]) -> Iterator[Component]:
    """A component for each `name==version`; its licence where this environment has that very package."""
    for line in lines:
        if match := re.match(r"([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", line):
            name, version = match[1].lower(), match[2]
            purl = PackageURL("pypi", None, re.sub(r"[-_.]+", "-", name), version)
            yield Component(
                type=ComponentType.LIBRARY,
                name=name,
                version=version,
                bom_ref=purl.to_string(),
                purl=purl,
                licenses=_licences(name, version),
            )


def _licences(name: str, version: str) -> list[License]:
    try:
        about = metadata.metadata(name).json
    except metadata.PackageNotFoundError:
        return []
    if about["version"] != version:
        return []
    classified = [line.rpartition(" :: ")[2] for line in about.get("classifier", ()) if line.startswith("License :: ")]
    said = about.get("license_expression") or next(iter(classified), "") or about.get("license", "")
    # Some packages put their whole licence into that field.
    if not isinstance(said, str) or not said or len(said) > 100 or "\n" in said:
        return []
    return [LicenseFactory().make_from_string(said)]
