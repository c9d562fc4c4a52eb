"""The laws of the code base, as tests: what a reviewer would otherwise have to say again and again.

Only what can be read from the source or seen by importing it. What the documentation promises is in `test_docs`.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gateway
from gateway.core import errors

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gateway"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CORE = [path for path in SOURCES if path.is_relative_to(PACKAGE / "core")]

#: Everything by which a function could see more than its arguments, or do more than return.
OUTSIDE = """
asyncio http io logging multiprocessing os pathlib platform queue random requests secrets select selectors shutil signal
socket socketserver sqlite3 ssl subprocess sys tempfile threading time urllib uuid warnings
fastapi fastokens httptools httpx prometheus_client redis ruamel starlette uvicorn uvloop yaml
"""
#: From modules core may import for their types: the names that would ask the world.
CLOCKS = frozenset({"now", "today", "utcnow", "fromtimestamp", "perf_counter", "monotonic", "time_ns"})

#: Layers from the bottom up. A module imports from its own layer and those below it.
LAYERS = {"core": 0, "telemetry": 1, "stores": 1, "ledger": 1, "proxy": 2}
FILES = 1  # modules directly in gateway/ make values of what people write, unless they are one of these:
LAYERS |= dict.fromkeys(["app", "control", "routes", "front", "explain", "reload", "cli", "demo", "__main__"], 3)

#: Files past the size at which to look for a second reason to exist, where none was found; none may pass twice that.
LINES = 450
LONG_ON_PURPOSE = {
    "gateway/proxy/downstream.py": "one protocol: a client's connection, whose callbacks share its state",
    "gateway/sidecar/server.py": "one program: it runs by its path, where nothing else of the gateway can be imported",
}


def of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in a file, also inside functions, with its line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{of(path)}:{node.lineno}: relative import"
            module = node.module or ""
            yield module, node.lineno
            if module.split(".")[0] == "gateway":  # `from gateway import app` imports gateway.app
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def layer(module: str) -> int:
    """Which layer a module of ours is in; the package itself is in the lowest."""
    parts = module.split(".")
    return LAYERS.get(parts[1], FILES) if len(parts) > 1 else 0


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git work tree")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_core_is_found() -> None:
    assert {"types.py", "errors.py"} <= {path.name for path in CORE}


@pytest.mark.parametrize("path", CORE, ids=of)
def test_core_imports_nothing_that_could_see_or_change_the_world(path: Path) -> None:
    for module, line in imports(path):
        assert module.split(".")[0] not in OUTSIDE.split(), f"{of(path)}:{line} imports {module}"
        assert not module.startswith("gateway") or layer(module) == 0, f"{of(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", CORE, ids=of)
def test_core_asks_no_clock_opens_no_file_and_is_never_async(path: Path) -> None:
    for node in ast.walk(tree(path)):
        where = f"{of(path)}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith), (
            f"{where} is async"
        )
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert name not in {"open", "print", "input", "eval", "exec", "__import__"}, f"{where} calls {name}()"
            assert not (name in CLOCKS and isinstance(node.func, ast.Attribute)), f"{where} asks the clock: {name}()"


def mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        name = value.func.id if isinstance(value.func, ast.Name) else getattr(value.func, "attr", "")
        return name in {"list", "dict", "set", "defaultdict", "deque", "OrderedDict", "Counter", "bytearray"}
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def constant(name: str) -> bool:
    return name.strip("_").isupper() or name.startswith("__")


@pytest.mark.parametrize("path", SOURCES, ids=of)
def test_no_module_keeps_mutable_state(path: Path) -> None:
    """A table may be a dict where its name says CONSTANT; then nothing may change it."""
    source = tree(path)
    tables = set()
    for node in source.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and mutable(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            assert all(map(constant, names)), f"{of(path)}:{node.lineno}: {names} is mutable state"
            tables.update(names)
    for node in ast.walk(source):
        where = f"{of(path)}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Global), f"{where}: global"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                changed = None
                if isinstance(inner, ast.Subscript) and isinstance(inner.ctx, ast.Store | ast.Del):
                    changed = inner.value
                elif (
                    isinstance(inner, ast.Call)
                    and isinstance(inner.func, ast.Attribute)
                    and inner.func.attr
                    in {"append", "add", "update", "pop", "clear", "extend", "setdefault", "insert", "remove"}
                ):
                    changed = inner.func.value
                if isinstance(changed, ast.Name):
                    assert changed.id not in tables, f"{of(path)}:{inner.lineno} changes the table {changed.id}"


@pytest.mark.parametrize("path", SOURCES, ids=of)
def test_imports_run_downwards_only(path: Path) -> None:
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module, line in imports(path):
        if module.split(".")[0] == "gateway":
            assert layer(module) <= own, f"{of(path)}:{line} imports {module}, which is above it"


def test_no_two_folders_of_core_need_each_other() -> None:
    """What stands directly in core counts one by one: `types` is below all folders, `decide` above most of them."""
    needs: dict[str, set[str]] = {path.relative_to(PACKAGE / "core").with_suffix("").parts[0]: set() for path in CORE}
    for path in CORE:
        own = path.relative_to(PACKAGE / "core").with_suffix("").parts[0]
        blocks = [node for node in tree(path).body if isinstance(node, ast.If)]
        for_types = {line for one in blocks if ast.unparse(one.test) == "TYPE_CHECKING" for line in spanned(one)}
        for module, line in imports(path):
            if module.startswith("gateway.core.") and line not in for_types:
                needs[own] |= {module.split(".")[2]} & needs.keys() - {own}
    assert {*TopologicalSorter(needs).static_order()} == needs.keys()  # a circle raises an error that names it


def spanned(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def test_tests_of_core_stand_where_their_modules_do() -> None:
    modules = {path.relative_to(PACKAGE) for path in CORE}
    for path in (ROOT / "tests" / "core").rglob("test_*.py"):
        name = path.name.removeprefix("test_")
        if name in {module.name for module in modules}:
            assert path.parent.relative_to(ROOT / "tests") / name in modules, of(path)


@pytest.mark.parametrize("path", SOURCES, ids=of)
def test_a_module_opens_with_what_belongs_in_it(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{of(path)} has no docstring"


def test_only_the_sidecar_imports_litellm_and_nothing_another_provider_sdk() -> None:
    sdks = {"litellm", "openai", "anthropic", "boto3", "google", "torch", "transformers", "tiktoken"}
    found = {
        (of(path), sdk)
        for path in SOURCES
        for name, _ in imports(path)
        if (sdk := name.split(".")[0]) in sdks and not name.startswith("google.protobuf")
    }
    assert found == {("gateway/sidecar/server.py", "litellm")}


def test_the_sidecar_runs_where_nothing_of_the_gateway_is_installed() -> None:
    needs = {name.split(".")[0] for name, _ in imports(PACKAGE / "sidecar" / "server.py")}
    assert needs - set(sys.stdlib_module_names) == {"aiohttp", "litellm"}


def test_every_package_is_in_the_wheel() -> None:
    """An editable installation finds them anyway, and hides that a real one would not."""
    made = {".".join(path.relative_to(ROOT).parts[:-1]) for path in SOURCES}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    assert made == set(listed) - {"gateway.policies"}


def test_importing_the_gateway_is_quick_and_loads_no_heavy_library() -> None:
    script = (
        "import json, sys, time; began = time.process_time(); import gateway; took = time.process_time() - began; "
        "print(json.dumps({'took': took, 'loaded': sorted({name.split('.')[0] for name in sys.modules})}))"
    )
    seen = json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    heavy = {
        "litellm",
        "openai",
        "torch",
        "transformers",
        "fastapi",
        "pydantic",
        "httpx",
        "ruamel",
        "fastokens",
        "numpy",
    }
    assert not heavy & set(seen["loaded"])
    assert seen["took"] < 0.3


def test_serving_loads_no_provider_sdk_and_no_machine_learning_library() -> None:
    script = "import gateway.app, json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    assert not {"litellm", "openai", "torch", "transformers", "tiktoken", "xllamacpp"} & set(json.loads(run.stdout))


@pytest.mark.parametrize("path", SOURCES, ids=of)
def test_a_file_is_short_or_says_why_not(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines < 2 * LINES
    if lines > LINES:
        assert of(path) in LONG_ON_PURPOSE, f"{of(path)} has {lines} lines: look for the second reason to exist inside"
    elif of(path) in LONG_ON_PURPOSE:
        warnings.warn(f"{of(path)} is short again: take it from the list", stacklevel=1)


def test_the_error_tree_in_the_docstring_is_the_one_in_the_code() -> None:
    drawn = {
        name: (status, frozenset(re.findall(r"[a-z_]+", codes)))
        for name, status, codes in re.findall(
            r"[├└]── (\w+) +(\d{3}|in a stream:) +([a-z_, \n│]+)", inspect.getdoc(errors) or ""
        )
    }
    leaves = {cls.__name__: cls for cls in errors.GatewayError.__subclasses__()}
    assert drawn.keys() == leaves.keys()
    for name, (status, codes) in drawn.items():
        assert codes == set(leaves[name].codes), name
        if status.isdigit():
            assert {errors.CODES[code][0] for code in codes} == {int(status)}, name
    assert set().union(*(codes for _, codes in drawn.values())) == set(errors.CODES)


def test_tracked_files_name_no_machine_and_no_package_index() -> None:
    forbidden = re.compile(rb"/(?:work|tmp/venv)/|\bpypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian\.org")
    found = []
    for path in tracked():
        data = path.read_bytes()
        if path != Path(__file__) and b"\0" not in data[:1024]:
            found += [f"{of(path)}: {match.group().decode()}" for match in forbidden.finditer(data)]
    assert found == []


def test_pinned_requirements_hold_hashes_and_no_addresses() -> None:
    files = sorted((ROOT / "requirements").glob("*.txt"))
    assert [path.name for path in files] == ["demo.txt", "litellm.txt", "run.txt", "test.txt"]
    for path in files:
        text = path.read_text(encoding="utf-8")
        pins = re.findall(
            r"^[a-z0-9._-]+==[^ ]+(?: ;[^\\\n]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.M
        )
        body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
        assert "".join(pins) == body, f"{path.name} has a line that is neither a pin nor its hashes"


def test_the_requirements_pin_all_that_the_package_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shared = project["dependencies"] + project["optional-dependencies"]["language"]
    extras = project["optional-dependencies"]
    more = {
        "run": [*extras["google"], *extras["otlp"]],
        "demo": extras["demo"],
        "test": [*extras["google"], *extras["otlp"], *extras["demo"], *extras["test"]],
        "litellm": extras["litellm"],
    }
    for name, extra in more.items():
        pinned = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / f"{name}.txt").read_text(), re.M))
        for line in extra if name == "litellm" else shared + extra:  # which is an environment of its own
            package = re.split(r"[<>=;!~ \[]", line)[0].lower().replace(".", "-").replace("_", "-")
            assert package in pinned, f"requirements/{name}.txt lacks {package}: run requirements/compile.sh"


def test_the_version_is_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", gateway.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{gateway.__version__}]" in changelog
