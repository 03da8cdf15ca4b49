"""Writes an SBOM in CycloneDX's format; run by the Python of the tools, which has the library.

Arguments: a JSON list of components, the output, the name, version and SHA-256 of the file.
"""

import json
import sys
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot5
from packageurl import PackageURL


def main(listed: str, output: str, name: str, version: str, digest: str) -> None:
    """Write one document."""
    make_license = LicenseFactory().make_from_string
    bom = Bom()
    bom.metadata.component = root = Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION,
        licenses=[make_license("MIT")],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    components = [
        Component(
            name=one["name"],
            version=one["version"],
            type=ComponentType.LIBRARY,
            licenses=[make_license(one["licence"])],
            purl=PackageURL.from_string(one["purl"]),
            bom_ref=one["purl"],
        )
        for one in json.loads(Path(listed).read_text())
    ]
    bom.components.update(components)
    bom.register_dependency(root, components)
    Path(output).write_text(JsonV1Dot5(bom).output_as_string(indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
