"""Draws the two pictures of docs/architecture.md: ``packages.svg`` from the imports of the code, and ``request.svg``.

``python docs/pictures/draw.py`` writes them; with ``--check`` it fails if one is not what it should be. The background
is white, so that they are legible on a dark page too.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"

PACKAGES = ("serving", "consensus", "p2p", "chain")
COMPOSITION_ROOT = "node"
ALLOWED = {(upper, lower) for number, upper in enumerate(PACKAGES) for lower in PACKAGES[number + 1 :]}
"""The arrows that the picture has a place for: no other may be there."""
SUBTITLES = {
    "serving": "the market: API, queues, offloading, payments, backends",
    "consensus": "agreement on the next block",
    "p2p": "the overlay on libp2p",
    "chain": "the ledger as pure data: no network, no clock",
}
DESCRIPTIONS = {
    "serving/admin": "the owner's listener, metrics",
    "serving/api": "the HTTP API for users",
    "serving/dashboard": "the owner's page, and the public's",
    "serving/cli": "wwwserve's commands, the demo",
    "serving/daemon": "the node as a process",
    "serving/dispatcher": "here, or offload?",
    "serving/providers": "who may answer a request",
    "serving/advertiser": "announces models and load",
    "serving/config": "config.yaml",
    "serving/logs": "what a node writes about itself",
    "serving/offload": "originator, executor, their wire",
    "serving/scheduling": "queues and policy",
    "serving/prediction": "when it will be answered",
    "serving/quality": "judges; was it the declared model?",
    "serving/simulation": "a modelled GPU",
    "serving/backends": "any OpenAI-compatible server, an embedded model",
    "serving/http": "client and server of the hot path",
    "serving/accounting": "payments, receipts, wallet",
    "serving/openai": "requests, answers, errors, keys",
    "chain/cli": "chain verify, show, export, prove",
    "chain/explorer": "blocks, accounts, validators as JSON",
    "chain/audit": "re-checks a whole chain; exports",
    "chain/store": "blocks and state in LevelDB",
    "chain/light": "proofs for those who keep no chain",
    "chain/transition": "what a block does to the state; every rule",
    "chain/genesis": "the first state",
    "chain/parameters": "prices, times, bonds; whether they can work",
    "chain/state": "accounts, beacon, lottery",
    "chain/types": "operations, blocks, votes, validators",
    "chain/keyfile": "the identity on disk",
    "chain/sealing": "files under a passphrase",
    "chain/merkle": "the trees behind every root",
    "chain/json_form": "records as JSON",
    "chain/codec": "the one encoding",
    "chain/amounts": "micro-credits",
    "chain/crypto": "keys, signatures, hashes",
    "chain/exceptions": "errors",
    "chain/files": "durable writes",
    "chain/printable": "text that is safe to show",
}
"""What stands beside the names in the wide boxes."""
FILLS = {"node": "#eef0f3", "serving": "#dcebfb", "consensus": "#fde8d3", "p2p": "#dcf3e6", "chain": "#ebe2f8"}
INK, MUTED, EDGE = "#1f2328", "#57606a", "#8c959f"

Arrow = tuple[tuple[str, str], tuple[str, str]]
"""Who imports whom: package and the module or sub-package in it."""


def find_imports(root: Path) -> set[Arrow]:
    """The imports between the packages, and between the modules and sub-packages of each."""
    arrows: set[Arrow] = set()
    for path in [root / f"{COMPOSITION_ROOT}.py", *(path for name in PACKAGES for path in (root / name).rglob("*.py"))]:
        if path.name == "__init__.py":
            continue
        source = _get_unit(".".join(path.relative_to(root).with_suffix("").parts))
        for module in _find_modules(ast.parse(path.read_text())):
            target = _get_unit(module)
            if target[0] in PACKAGES and target != source:
                arrows.add((source, target))
    return arrows


def _find_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module in PACKAGES:
                yield from (f"{node.module}.{name.name}" for name in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def _get_unit(module: str) -> tuple[str, str]:
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


def find_units(root: Path, package: str) -> dict[str, bool]:
    """The modules and sub-packages of a package, each with whether it is a sub-package."""
    units = {path.stem: path.is_dir() for path in (root / package).iterdir() if _is_unit(path)}
    return dict(sorted(units.items()))


def _is_unit(path: Path) -> bool:
    return (path / "__init__.py").exists() if path.is_dir() else path.suffix == ".py" and path.stem != "__init__"


def find_levels(units: Iterable[str], arrows: Iterable[Arrow], package: str) -> list[list[str]]:
    """The units of a package in rows, the lowest first: each imports only from rows below its own.

    Raises:
        graphlib.CycleError: there is a circle.
    """
    below: dict[str, set[str]] = {unit: set() for unit in units}
    for source, target in arrows:
        if source[0] == target[0] == package:
            below[source[1]].add(target[1])
    heights: dict[str, int] = {}
    for unit in TopologicalSorter(below).static_order():
        heights[unit] = max((heights[each] + 1 for each in below[unit]), default=0)
    rows: defaultdict[int, list[str]] = defaultdict(list)
    for unit, height in sorted(heights.items()):
        rows[height].append(unit)
    return [rows[height] for height in sorted(rows)]


class Drawing:
    """SVG, element by element; positions in pixels from the upper left."""

    def __init__(self, width: int, title: str) -> None:
        self._width = width
        self._title = title
        self._elements: list[str] = []

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: str, edge: str = EDGE, round_: int = 6
    ) -> None:
        self._elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_}" fill="{fill}" '
            f'stroke="{edge}"/>'
        )

    def text(self, x: float, y: float, text: str, size: float = 13, *, anchor: str = "start", bold: bool = False,
             colour: str = INK, is_over_lines: bool = False) -> None:  # fmt: skip
        weight = ' font-weight="600"' if bold else ""
        halo = (
            ' stroke="#ffffff" stroke-width="5" stroke-linejoin="round" paint-order="stroke"' if is_over_lines else ""
        )
        self._elements.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"{weight}{halo}>'
            f"{escape(text)}</text>"
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False, colour: str = INK) -> None:
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._elements.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash} marker-end="url(#head)"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self._elements.append(f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="{EDGE}" stroke-dasharray="2 4"/>')

    def finish(self, height: float) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {height:g}" width="{self._width}" '
            f'height="{height:g}" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img">\n'
            f"<title>{escape(self._title)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0.8 L10 5 L0 9.2 Z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{self._width}" height="{height:g}" rx="8" fill="#ffffff"/>\n'
        )
        return head + "\n".join(self._elements) + "\n</svg>\n"


CHIP_HEIGHT, CHIP_GAP, CHARACTER, TEXT_CHARACTER = 24, 8, 7.1, 6.6
HEADER = 48
NARROW, WIDE = 360, 780
"""Widths of the boxes."""
LEFT, RIGHT = 40, 40 + WIDE - NARROW
"""Where the two narrow boxes begin."""
COLUMN = 284
"""Where the descriptions begin in a wide box."""


def draw_packages(root: Path) -> str:
    """The packages, what is in them, and the arrows between them.

    Raises:
        ValueError: an arrow is there that must not be, or the descriptions of a line do not fit.
        graphlib.CycleError: there is a circle.
    """
    arrows = find_imports(root)
    between = {(source[0], target[0]) for source, target in arrows if source[0] != target[0]}
    if wrong := sorted(between - ALLOWED - {(COMPOSITION_ROOT, name) for name in PACKAGES}):
        raise ValueError(f"{wrong[0][0]} must not import {wrong[0][1]}")
    drawing = Drawing(LEFT + WIDE + 24, "The packages and their imports")
    levels = {name: find_levels(find_units(root, name), arrows, name) for name in PACKAGES}
    places: dict[str, tuple[float, float, float, float]] = {}

    def box(name: str, x: float, y: float, width: float, height: float | None = None) -> float:
        units = find_units(root, name)
        rows = [_wrap(row, COLUMN - 16 if width == WIDE else width - 32) for row in reversed(levels[name])]
        lines = sum(map(len, rows))
        full = height or HEADER + lines * (CHIP_HEIGHT + CHIP_GAP) + 8
        drawing.rectangle(x, y, width, full, FILLS[name])
        drawing.text(x + 16, y + 22, f"{name}/", 16, bold=True)
        drawing.text(x + 16, y + 39, SUBTITLES[name], 12, colour=MUTED)
        top = y + HEADER
        for row in rows:
            for line in row:
                left = x + 16
                for unit in line:
                    wide = _get_width(unit)
                    drawing.rectangle(left, top, wide, CHIP_HEIGHT, "#ffffff" if units[unit] else FILLS[name], round_=5)
                    drawing.text(left + wide / 2, top + 16.5, unit + "/" * units[unit], 12, anchor="middle")
                    left += wide + CHIP_GAP
                if width == WIDE:
                    texts = [DESCRIPTIONS[f"{name}/{unit}"] for unit in line if f"{name}/{unit}" in DESCRIPTIONS]
                    text = " · ".join(texts)
                    if COLUMN + len(text) * TEXT_CHARACTER > width:
                        raise ValueError(f"the descriptions of {', '.join(line)} do not fit: shorten them")
                    drawing.text(x + COLUMN, top + 16.5, text, 12, colour=MUTED)
                top += CHIP_HEIGHT + CHIP_GAP
        places[name] = (x, y, width, full)
        return full

    drawing.rectangle(LEFT, 16, WIDE, 40, FILLS["node"])
    imported = ", ".join(name for name in PACKAGES if (COMPOSITION_ROOT, name) in between)
    drawing.text(LEFT + 16, 41, "node.py", 16, bold=True)
    drawing.text(LEFT + 100, 41, f"builds one node and has the command lines; imports {imported}", 12, colour=MUTED)
    y = 16 + 40 + 36.0
    tall = box("serving", LEFT, y, WIDE)
    drawing.arrow((LEFT + WIDE / 2, 56), (LEFT + WIDE / 2, y))
    second = y + tall + 40
    needed = max(
        HEADER + sum(len(_wrap(row, NARROW - 32)) for row in levels[name]) * (CHIP_HEIGHT + CHIP_GAP) + 8
        for name in ("consensus", "p2p")
    )
    box("consensus", LEFT, second, NARROW, needed)
    box("p2p", RIGHT, second, NARROW, needed)
    third = second + needed + 40
    last = box("chain", LEFT, third, WIDE)
    for source, target in sorted(between & ALLOWED):
        if (source, target) == ("serving", "chain"):
            drawing.arrow(
                (LEFT, y + tall / 2), (LEFT / 2, y + tall / 2), (LEFT / 2, third + last / 2), (LEFT, third + last / 2)
            )
        elif (source, target) == ("consensus", "p2p"):
            drawing.arrow((LEFT + NARROW, second + needed / 2), (RIGHT, second + needed / 2))
        else:
            x = places[source][0] + NARROW / 2 if source != "serving" else places[target][0] + NARROW / 2
            start, end = places[source][1] + places[source][3], places[target][1]
            drawing.arrow((x, start), (x, end))
            if (source, target) == ("p2p", "chain"):
                names = sorted({to[1] for of, to in arrows if (of[0], to[0]) == ("p2p", "chain")})
                drawing.text(x - 12, start + 24, f"only {', '.join(names)}", 12, anchor="end", colour=MUTED)
    bottom = third + last + 28
    legend = "An arrow means: imports. Inside a box, each name imports only from rows below its own."
    drawing.text(LEFT, bottom, legend, 12, colour=MUTED)
    drawing.text(LEFT, bottom + 18, "White: a sub-package. Coloured: a single module.", 12, colour=MUTED)
    return drawing.finish(bottom + 34)


def _get_width(unit: str) -> float:
    return len(unit) * CHARACTER + 24


def _wrap(units: Iterable[str], width: float) -> list[list[str]]:
    """The chips of one row, in as many lines as they need."""
    lines: list[list[str]] = [[]]
    used = 0.0
    for unit in units:
        wide = _get_width(unit) + CHIP_GAP
        if used + wide > width + CHIP_GAP and lines[-1]:
            lines.append([])
            used = 0.0
        lines[-1].append(unit)
        used += wide
    return lines


LANES: Mapping[str, tuple[int, str, str]] = {
    "user": (80, "User", "any OpenAI client"),
    "originator": (290, "Originator", "the node asked; it pays"),
    "ledger": (510, "Ledger", "validators; on every node"),
    "executor": (730, "Executor", "another node; it is paid"),
    "backend": (910, "Backend", "vLLM, llama.cpp, …"),
}
STEP = 42
STEPS: tuple[tuple[str, str, str, str], ...] = (
    ("user", "originator", "1  request", "POST /v1/chat/completions"),
    ("originator", "originator", "2  draw", "an executor, at random in proportion to stake"),
    ("originator", "executor", "3  offer", "request and terms of the hold"),
    ("executor", "backend", "4  work", "starts at once"),
    ("originator", "ledger", "5  hold", "the price is set aside"),
    ("ledger", "executor", "6  hold is final", "nothing is sent before"),
    ("backend", "user", "7  stream", "tokens as they come, through both nodes"),
    ("executor", "originator", "8  delivery, signed", "usage and salted digest of the answer"),
    ("originator", "executor", "9  receipt, signed", "the originator agrees"),
    ("executor", "ledger", "10  capture", "delivery and receipt"),
    ("ledger", "executor", "11  final", "by more than 2/3 of stake"),
)
"""From, to, what, and what about it."""


def draw_request() -> str:
    """The life of one offloaded request, as a sequence."""
    drawing = Drawing(980, "The life of one offloaded request")
    fills = {"user": "node", "originator": "serving", "ledger": "chain", "executor": "serving", "backend": "node"}
    bottom = 84 + STEP * len(STEPS) + 14
    for name, (x, title, subtitle) in LANES.items():
        drawing.line(x, 66, x, bottom)
        wide = 130 if name in ("user", "backend") else 176
        drawing.rectangle(x - wide / 2, 16, wide, 50, FILLS[fills[name]])
        drawing.text(x, 37, title, 15, anchor="middle", bold=True)
        drawing.text(x, 55, subtitle, 12, anchor="middle", colour=MUTED)
    for number, (source, target, what, more) in enumerate(STEPS, start=1):
        y = 84 + STEP * number - 8
        start, end = LANES[source][0], LANES[target][0]
        if source == target:
            drawing.arrow((start, y - 14), (start + 26, y - 14), (start + 26, y), (start + 2, y))
            drawing.text(start + 36, y - 3, what, 13, bold=True)
            drawing.text(start + 36 + CHARACTER * len(what) + 10, y - 3, more, 12, colour=MUTED, is_over_lines=True)
            continue
        drawing.arrow((start, y), (end, y), dashed=source == "ledger")
        middle = (start + end) / 2
        drawing.text(middle, y - 19, what, 13, anchor="middle", bold=True, is_over_lines=True)
        drawing.text(middle, y - 5, more, 12, anchor="middle", colour=MUTED, is_over_lines=True)
    drawing.text(
        20, bottom + 20, "Steps 5 and 6 overlap with 4. If the executor declines, fails or stays silent before the "
        "first token, the next one drawn is asked, with a hold of its own.", 12, colour=MUTED,
    )  # fmt: skip
    return drawing.finish(bottom + 34)


def draw_all(root: Path) -> dict[str, str]:
    """The pictures by file name."""
    return {"packages.svg": draw_packages(root), "request.svg": draw_request()}


def main() -> int:
    """Command line."""
    stale = [
        (name, picture)
        for name, picture in draw_all(ROOT).items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text() != picture
    ]
    for name, picture in stale:
        if "--check" in sys.argv[1:]:
            print(f"docs/pictures/{name} is stale: run 'make figures'", file=sys.stderr)
        else:
            (FOLDER / name).write_text(picture)
            print(f"wrote docs/pictures/{name}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
