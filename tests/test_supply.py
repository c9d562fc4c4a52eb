"""Where the code we run comes from (S1, S16): what starts with the interpreter, what may be installed, on which terms.

Known vulnerabilities are asked of a service, by hand: `pip-audit --no-deps --disable-pip -r requirements/run.txt`.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from gateway.sidecar.server import FORBIDDEN as STOLEN
from tests.harness import ROOT

FILES = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
#: What may run whenever Python starts: our own editable installation, and setuptools' stand-in for distutils.
STARTS = {
    r"__editable__\.pointsman-[0-9.]+\.pth": (
        r"import (__editable___pointsman_[0-9_]+_finder); \1\.install\(\)|/[ -~]+"
    ),
    r"distutils-precedence\.pth": (
        r"import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os\.environ\.get\(var, 'local'\) == 'local'; "
        r"enabled and __import__\('_distutils_hack'\)(\.add_shim\(\))?;?"
    ),
}
#: Versions below which a hole was known: request smuggling (CVE-2025-43859), a Host that changes the path.
FLOORS = {
    "h11": "0.16.0",
    "starlette": "1.0.2",
    "fastapi": "0.165",
    "cryptography": "50",
    "pyyaml": "6",
    "aiohttp": "3.13.3",
}
#: Never again, whatever else may be asked for.
WITHDRAWN = {"litellm": ["1.82.7", "1.82.8", "1.107.0", "1.107.9"]}
#: Looked at by hand: a file of certificates, whose terms are about changes of that file; and one that has its licence,
#: Apache-2.0, as a file of its wheel and does not name it.
EXCEPTIONS = {"certifi": "Mozilla Public License 2.0 (MPL 2.0)", "fastokens": ""}
FREE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Unlicense|CC0|Zlib|HPND|0BSD|The Unlicense|MIT-0|Public Domain"
)
COPYLEFT = re.compile(r"\b[AL]?GPL|GNU|Affero|MPL|Mozilla|EUPL|CDDL|SSPL|Business Source|Commons Clause|Elastic", re.I)


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", path.read_text("utf-8"), re.M))


def started(directory: Path) -> list[str]:
    """The files of a site directory that Python runs lines of at its start, and that nobody said may be there."""
    found = []
    for path in sorted(directory.glob("*.pth")):
        expected = next((text for name, text in STARTS.items() if re.fullmatch(name, path.name)), None)
        if expected is None or not re.fullmatch(expected, path.read_text("utf-8").strip()):
            found.append(path.name)
    return found


def directories() -> set[Path]:
    """Of this environment, and of the sidecar's where there is one."""
    paths = sysconfig.get_paths()
    beside = ROOT / ".venv-litellm" / "lib"
    return {Path(paths["purelib"]), Path(paths["platlib"]), *beside.glob("python3*/site-packages")}


def test_nothing_starts_with_the_interpreter_that_is_not_known() -> None:
    for directory in directories():
        assert started(directory) == [], f"{directory}: look at who brought it, before anything is run"
        assert not [path.name for path in directory.glob("*customize.py")], directory
    assert "usercustomize" not in sys.modules
    assert not sys.flags.no_site


def test_a_new_file_or_another_line_in_a_known_one_would_be_noticed(tmp_path: Path) -> None:
    known = "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    known += "enabled and __import__('_distutils_hack').add_shim(); "
    (tmp_path / "distutils-precedence.pth").write_text(known)
    (tmp_path / "__editable__.pointsman-0.1.0.pth").write_text("/home/me/pointsman\n")
    assert started(tmp_path) == []
    (tmp_path / "litellm_init.pth").write_text("import os\n")
    (tmp_path / "distutils-precedence.pth").write_text(known + "\nimport os; os.system('id')")
    assert started(tmp_path) == ["distutils-precedence.pth", "litellm_init.pth"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_pin_is_above_its_floor_and_no_withdrawn_release_is_pinned(path: Path) -> None:
    pinned = pins(path)
    assert pinned
    for name, floor in FLOORS.items():
        if name in pinned:
            assert Version(pinned[name]) >= Version(floor), name
    for name, versions in WITHDRAWN.items():
        assert pinned.get(name) not in versions
    assert ("litellm" in pinned) == (path.name == "litellm.txt")


def test_no_withdrawn_release_can_be_resolved() -> None:
    extras = PROJECT["optional-dependencies"].values()
    asked = [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]
    for name, versions in WITHDRAWN.items():
        of = [one for one in asked if canonicalize_name(one.name) == name]
        assert of, name
        for one in of:
            assert not [version for version in versions if one.specifier.contains(version, prereleases=True)]
        compiled = re.findall(rf"'({name}[^']*)'", (ROOT / "requirements" / "compile.sh").read_text("utf-8"))
        assert [Requirement(line).specifier for line in compiled] == [one.specifier for one in of]
    assert all(STOLEN.fullmatch(version) for version in WITHDRAWN["litellm"]), "nor started, were one installed"
    assert not any(one.url for one in asked)


def test_who_installs_without_our_pins_gets_no_known_hole_either() -> None:
    floors = {canonicalize_name(one.name): one.specifier for one in map(Requirement, PROJECT["dependencies"])}
    assert not floors["h11"].contains("0.14.0")
    assert not floors["starlette"].contains("1.0.0")
    assert not floors["starlette"].contains("1.0.1")


def terms(name: str) -> str:
    """What an installed distribution says of its licence."""
    told = metadata.metadata(name)
    expression = told.get("License-Expression")
    if expression:
        return str(expression)
    classified = [one.rpartition(":: ")[2] for one in told.get_all("Classifier", []) if one.startswith("License ::")]
    return "; ".join(classified) or str(told.get("License") or "").partition("\n")[0]


def test_no_dependency_at_run_time_is_under_a_copyleft_licence() -> None:
    installed = {canonicalize_name(one.metadata["Name"]) for one in metadata.distributions()}
    unknown = []
    seen = 0
    for name in pins(ROOT / "requirements" / "run.txt"):
        if canonicalize_name(name) not in installed:
            continue  # for another platform or another Python
        seen += 1
        said = terms(name)
        if EXCEPTIONS.get(name) == said:
            continue
        if COPYLEFT.search(said) or not FREE.search(said):
            unknown.append(f"{name}: {said!r}")
    assert seen >= 25
    assert unknown == []


def test_the_gateway_depends_on_no_provider_s_library() -> None:
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert not names & {"openai", "litellm", "anthropic", "google-genai", "boto3", "torch", "transformers", "pyyaml"}
    assert not pins(ROOT / "requirements" / "run.txt").keys() & {"openai", "litellm", "boto3", "torch", "pyyaml"}
