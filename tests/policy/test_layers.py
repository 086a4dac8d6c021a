"""The layer rules of docs/architecture.md, checked on the includes and imports themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CPP = sorted(path for suffix in ("cpp", "hpp", "def") for path in ROOT.glob(f"cpp/**/*.{suffix}"))
PYTHON = sorted((ROOT / "python" / "tersor").rglob("*.py"))
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# A topic may include those of a lower rank and itself.
RANKS = {
    "tersor": 0,  # the public headers
    "support": 1,
    "dispatch": 1,
    "simd": 2,
    "hash": 3,
    "csr": 4,
    "huffman": 4,
    "contexts": 4,
    "kmeans": 4,
    "spmm": 5,
    "rows": 5,
    "lossless": 5,
    "conv": 6,
    "recurrent": 6,
    "container": 7,
    "c_api": 8,
    "bindings": 9,
}
INTRINSICS = {"immintrin.h", "x86intrin.h", "emmintrin.h", "arm_neon.h", "arm_sve.h"}
ISAS = ("scalar", "avx2", "avx512", "amx", "neon")

# The Python side: each folder (or module of the top folder) imports those before it and itself.
PYTHON_RANKS = [
    {"_core", "_lazy", "_names", "_progress", "_renamed", "_validation", "cmake"},
    {"config"},
    {"pruning", "quantizers"},
    {"codec"},
    {"kernels"},
    {"ops"},
    {"nn"},
    {"io"},
    {"calibration", "search"},
    {"pipeline"},
    {"reporting", "training"},
    {"hub", "integrations"},
    {"cli"},
]
# Folders and modules whose files import no torch; of the command line, none at the top level.
NUMPY_ONLY = {
    *PYTHON_RANKS[0],
    *PYTHON_RANKS[1],
    "quantizers",
    "codec",
    "kernels",
    "io/aliases",
    "io/container",
    "io/element_types",
    "io/file_size",
    "io/floats",
    "io/layer_records",
    "io/shards",
    "pruning/magnitude",
    "reporting/file_report",
    "search",
    "cli",
    "__init__",
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def topic_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "cpp").parts
    if parts[0] == "include":
        return "tersor"
    return parts[1] if parts[0] == "src" else parts[0]


def includes(path: Path) -> Iterator[tuple[str, str]]:
    yield from INCLUDE.findall(path.read_text())


def test_there_is_something_to_check() -> None:
    assert len(CPP) > 20
    assert len(PYTHON) > 3


@pytest.mark.parametrize("path", CPP, ids=relative)
def test_cpp_includes_only_what_stands_before(path: Path) -> None:
    topic = topic_of(path)
    assert topic in RANKS, f"unknown topic {topic}: give it a rank"
    for bracket, name in includes(path):
        first = name.split("/")[0]
        if bracket == "<" or first not in RANKS or first == topic:
            continue
        assert RANKS[first] < RANKS[topic], f"{relative(path)} includes {name}"


@pytest.mark.parametrize("path", CPP, ids=relative)
def test_cpp_knows_neither_python_nor_torch_where_it_must_not(path: Path) -> None:
    for _, name in includes(path):
        if topic_of(path) != "bindings":
            assert not name.startswith(("pybind11", "Python.h")), f"{relative(path)}: {name}"
        assert not name.startswith(("torch", "ATen", "c10")), f"{relative(path)}: {name}"
        if name in INTRINSICS:
            assert path.stem.endswith(tuple(f"_{isa}" for isa in ISAS)) or re.fullmatch(
                r"target_(avx2|avx512|amx|neon)", path.stem
            ), f"{relative(path)} includes {name}"


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports; those under TYPE_CHECKING left out."""

    def walk(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            if top_level_only and isinstance(node, ast.FunctionDef):
                continue
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from walk(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from walk(handler.body)

    for node in walk(ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    """The folder of a file, or the module where it stands in the top folder."""
    return path.relative_to(ROOT / "python" / "tersor").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_numpy_only_modules_import_no_torch(path: Path) -> None:
    name = str(path.relative_to(ROOT / "python" / "tersor").with_suffix(""))
    package = path.name == "__init__.py"  # imported with any module of its folder
    if not package and not {name, module_of(path)} & NUMPY_ONLY:
        return
    folder_is_torch = not any(n.split("/")[0] == module_of(path) for n in NUMPY_ONLY)
    if package and folder_is_torch:
        return
    for imported in imports(path, top_level_only=module_of(path) == "cli"):
        assert imported.split(".")[0] != "torch", f"{relative(path)} imports {imported}"


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_python_imports_only_what_stands_before(path: Path) -> None:
    module = module_of(path)
    if module == "__init__":
        return
    rank = next((i for i, group in enumerate(PYTHON_RANKS) if module in group), None)
    assert rank is not None, f"give {module} a rank"
    allowed = {"__version__"}.union(*PYTHON_RANKS[:rank], {module}, PYTHON_RANKS[0])
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "tersor" and len(parts) > 1:
            assert parts[1] in allowed, f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_torch_library_is_used_in_ops_alone(path: Path) -> None:
    if module_of(path) != "ops":
        assert not any(name.startswith("torch.library") for name in imports(path))
        assert "torch.library." not in path.read_text()


# Names that torch does not promise to keep: its C functions, modules and functions with an
# underscore, and attributes of its tensors and operators.
PRIVATE = re.compile(
    r"torch(\.\w+)*\._[a-z]\w*|\btorch\._C\b|from torch\S* import .*\b_\w+|\b_C\._\w+"
    r"|forward_ad\._\w+|\b_make_(wrapper_)?subclass\b|\._schema\b|\._version\b|\b_current_level\b"
)


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_private_names_of_torch_stand_in_one_module(path: Path) -> None:
    if path.relative_to(ROOT / "python" / "tersor") != Path("ops/torch_internals.py"):
        assert [match.group() for match in PRIVATE.finditer(path.read_text())] == []


def test_the_private_names_of_torch_are_recognized() -> None:
    text = (ROOT / "python" / "tersor" / "ops" / "torch_internals.py").read_text()
    found = {match.group() for match in PRIVATE.finditer(text)}
    assert {"_C._is_tracing", "._version", "_make_wrapper_subclass", "_current_level"} <= found
    for line in ("torch.utils._pytree.tree_map", "from torch.utils import _pytree", "torch._C"):
        assert PRIVATE.search(line), line


# The first version of torch that has all that is used: torch.library.register_vmap came last.
OLDEST_TORCH = "2.5"


def test_the_oldest_torch_that_is_allowed_has_every_api_that_is_used() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert f'torch = ["torch>={OLDEST_TORCH}"]' in project


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_everything_public_has_a_docstring(path: Path) -> None:
    def missing(nodes: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                if node.name.startswith("_"):
                    continue
                overload = any("overload" in ast.dump(d) for d in node.decorator_list)
                if not overload and ast.get_docstring(node) is None:
                    yield prefix + node.name
                if isinstance(node, ast.ClassDef):
                    yield from missing(node.body, f"{node.name}.")

    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{relative(path)} has no docstring"
    # What a base class of torch documents (forward, extra_repr, …) needs no second description.
    inherited = {"forward", "backward", "extra_repr", "setup_context", "step"}
    assert [name for name in missing(tree.body) if name.split(".")[-1] not in inherited] == []


def test_no_file_is_longer_than_700_lines() -> None:
    sources = [path for path in [*CPP, *PYTHON] if path.suffix != ".pyi"]
    for folder in ("tests", "examples", "benchmarks"):
        for suffix in ("py", "cpp", "hpp"):
            sources += (ROOT / folder).rglob(f"*.{suffix}")
    lines = {relative(path): len(path.read_text().splitlines()) for path in sources}
    assert {name: count for name, count in lines.items() if count > 700} == {}


def modules_after(code: str, *arguments: str) -> set[str]:
    listing = "import sys\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{listing}", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_tersor_loads_no_torch() -> None:
    assert "torch" not in modules_after("import tersor")


def test_inspect_loads_no_torch_and_no_rich_off_a_terminal() -> None:
    checkpoint = ROOT / "examples" / "mnist" / "checkpoints" / "lenet-5.safetensors"
    code = "import sys\nfrom tersor.cli import main as cli\nassert cli.main(sys.argv[1:]) == 0"
    loaded = modules_after(code, "inspect", str(checkpoint))
    assert "tersor.reporting.file_report" in loaded
    assert "torch" not in loaded
    assert "rich.table" not in loaded
