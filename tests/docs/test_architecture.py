"""The map of the code is true: every name, file, link and picture in the documents is there and is what it says."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from xml.dom import minidom

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *(
        f"docs/{name}.md"
        for name in ("api", "architecture", "evaluation", "operating", "performance", "protocol", "scaling")
    ),
)
CODE = ("chain", "consensus", "p2p", "serving", "node.py")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
ROLE = re.compile(r":(?:mod|class|func|meth|attr|data|exc):`~?([\w.]+)`")
QUOTED_FILE = re.compile(r"``((?:chain|consensus|p2p|serving|tests|benchmarks|docs)/[\w./-]+\.\w+)``")
DEFINITION = re.compile(r"^(?:(?:class|def|async def) (\w+)\b|(\w+)(?:: [^=\n]+)? =)", re.MULTILINE)
PATH = re.compile(r"`((?:chain|consensus|p2p|serving|tests|benchmarks|docs)/[\w./-]*|node\.py)`")


def read(name: str) -> str:
    return (ROOT / name).read_text()


def load_drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "pictures" / "draw.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def find_sources() -> dict[str, str]:
    paths = [ROOT / "node.py", *(path for part in CODE[:-1] for path in sorted((ROOT / part).rglob("*.py")))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


@cache
def find_packages() -> dict[str, set[str]]:
    """Where each name of a module is defined: sub-packages, or modules that are in none."""
    found: dict[str, set[str]] = {}
    for file, text in find_sources().items():
        for defined, assigned in DEFINITION.findall(text):
            found.setdefault(defined or assigned, set()).add(str(Path(file).parent) if file.count("/") > 1 else file)
    return found


def is_defined(name: str, file: str, text: str) -> bool:
    """Whether a docstring of a source file may refer to a name: a full one, one of its module or of a class in it."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    classes = find_classes(text)
    if any(name in attributes for _, attributes in classes):
        return True
    for full in (name, f"{module}.{name}", *(f"{module}.{each}.{name}" for each, _ in classes)):
        try:
            resolve_name(full)
        except (ImportError, AttributeError):
            continue
        return True
    return False


@cache
def find_classes(text: str) -> list[tuple[str, set[str]]]:
    """The classes of a source file, each with the attributes of its instances."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    return [(node.name, find_instance_attributes(node)) for node in nodes]


def find_instance_attributes(definition: ast.ClassDef) -> set[str]:
    """The attributes that the methods of a class assign to ``self``, and the annotated ones of its body."""
    stored = {node.attr for node in ast.walk(definition) if isinstance(node, ast.Attribute) and is_store(node)}
    return stored | {
        node.target.id
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def is_store(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"


def get_glossary() -> list[list[str]]:
    section = read("docs/architecture.md").partition("## Glossary")[2]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if line.startswith("| ")
    ]
    return rows[1:]


def test_the_glossary_is_complete_and_in_order() -> None:
    terms = [row[0] for row in get_glossary()]
    assert len(terms) > 60 and terms == sorted(set(terms), key=str.lower)
    assert all(len(row) == 4 and row[1].endswith(".") for row in get_glossary())


@pytest.mark.parametrize("row", [row for row in get_glossary() if row[2]], ids=lambda row: row[0])
def test_a_name_of_the_glossary_is_defined_in_exactly_the_package_it_says(row: list[str]) -> None:
    _, _, name, package = row
    assert find_packages()[name.strip("`")] == {package.strip("`").rstrip("/")}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target, anchor in LINK.findall(read(name)):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor[1:] in anchors, target + anchor


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_files_that_documents_name_exist(name: str) -> None:
    missing = [path for path in PATH.findall(read(name)) if "NAME" not in path and not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("package", CODE)
def test_the_names_and_files_that_docstrings_refer_to_exist(package: str) -> None:
    missing = []
    for file, text in find_sources().items():
        if file.split("/")[0] == package:
            missing += [f"{file}: {name}" for name in ROLE.findall(text) if not is_defined(name, file, text)]
            missing += [f"{file}: {path}" for path in QUOTED_FILE.findall(text) if not (ROOT / path).exists()]
    assert not missing


def test_a_stale_reference_is_found() -> None:
    assert is_defined("p2p.peers.table.PeerTable.find", "node.py", "") and is_defined("Node", "node.py", "")
    assert not is_defined("p2p.peers.table.PeerTable.gone", "node.py", "")
    assert not is_defined("Gone", "node.py", "class Node:\n    pass\n")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_targets_that_documents_name_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", read(name), re.MULTILINE))
    assert named <= targets


def test_the_pictures_show_the_imports_as_they_are() -> None:
    stale = [
        name for name, picture in load_drawing().draw_all(ROOT).items() if read(f"docs/pictures/{name}") != picture
    ]
    assert not stale, "run 'make figures'"


def test_an_import_that_must_not_be_cannot_be_drawn(tmp_path: Path) -> None:
    drawing = load_drawing()
    for package in drawing.PACKAGES:
        (tmp_path / package / "part").mkdir(parents=True)
        (tmp_path / package / "part" / "__init__.py").touch()
        (tmp_path / package / "part" / "code.py").touch()
    (tmp_path / "node.py").write_text("from serving.part.code import x\n")
    (tmp_path / "consensus" / "part" / "code.py").write_text("from chain.part.code import y\nimport p2p.part.code\n")
    picture = drawing.draw_packages(tmp_path)
    assert picture.count("part/") == 4
    (tmp_path / "chain" / "part" / "code.py").write_text("from serving.part import code\n")
    with pytest.raises(ValueError, match="chain must not import serving"):
        drawing.draw_packages(tmp_path)


def test_pictures_are_well_formed_and_light_behind() -> None:
    for path in (ROOT / "docs" / "pictures").glob("*.svg"):
        text = path.read_text()
        minidom.parseString(text)
        assert "#ffffff" in text
