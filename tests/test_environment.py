"""pyproject.toml, constraints.txt and environment.yml say the same thing."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mer_lab
from mer_lab.figures import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WANTED = [
    *PROJECT["dependencies"],
    *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
]


def constraints() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("line", WANTED)
def test_constraints_satisfy_the_project(line):
    wanted = Requirement(line)
    pins = constraints()[canonicalize_name(wanted.name)]
    for pin in pins:
        [specifier] = pin.specifier
        assert specifier.operator == "==" and wanted.specifier.contains(specifier.version), (
            f"{pin} is not {wanted}"
        )


def test_torch_and_torchaudio_are_one_release():
    versions = [next(iter(constraints()[name][0].specifier)).version for name in ("torch", "torchaudio")]
    assert all(version.startswith("2.11.") for version in versions), versions
    assert {"torch==2.11.*", "torchaudio==2.11.*"} <= set(PROJECT["dependencies"])


def test_constraints_pin_each_package_once_and_name_no_address():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in re.sub("(?m)^#.*$", "", text) and "--" not in re.sub("(?m)^#.*$", "", text)
    for name, pins in constraints().items():
        assert len(pins) == 1 or all(pin.marker for pin in pins), f"{name} is pinned twice"
        assert not re.match("nvidia-|cuda-|triton", name), (
            f"{name} exists on some systems only; torch pins it"
        )


def test_conda_environment_equals_the_project():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()]
    entries = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    major = [entry for entry in entries if entry.startswith("python>")]
    assert major == [f"python{PROJECT['requires-python']}"]
    assert "-c constraints.txt" in entries and "-e ." in entries
    pip = entries[entries.index("-e .") + 1 :]
    assert pip == WANTED


def test_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {mer_lab.__version__}\n" in text and f"license: {PROJECT['license']}\n" in text
