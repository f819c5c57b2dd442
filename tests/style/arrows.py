"""The arrows between rooms, read from CMakeLists.txt, and the includes that must follow them."""

import re
from pathlib import Path

from rules import Finding, Source, line_of


KEYWORDS = ("DEPENDS", "PRIVATE_LIBS", "TEST_DEPENDS")


def declared(cmake: str, keyword: str = "DEPENDS") -> dict[str, set[str]]:
    """Room -> rooms it names after `keyword`."""
    arrows = {}
    for match in re.finditer(r"^meshnode_room\((.*?)\)", cmake, re.S | re.M):
        words = match.group(1).split()
        named = words[words.index(keyword) + 1:] if keyword in words else []
        end = next((i for i, word in enumerate(named) if word in KEYWORDS), len(named))
        arrows[words[0]] = set(named[:end])
    return arrows


def for_tests(allowed: dict[str, set[str]], cmake: str) -> dict[str, set[str]]:
    """What the tests of a room may include: what the room may, and TEST_DEPENDS."""
    extra = declared(cmake, "TEST_DEPENDS")
    return {room: may.union(*(allowed[other] for other in extra[room]))
            for room, may in allowed.items()}


def reachable(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Room -> everything it may include: itself and whatever its arrows lead to."""
    seen: dict[str, set[str]] = {}

    def visit(room: str) -> set[str]:
        if room not in seen:
            seen[room] = {room}
            for below in arrows[room]:
                seen[room] |= visit(below)
        return seen[room]

    for room in arrows:
        visit(room)
    return seen


def check(source: Source, allowed: dict[str, set[str]], root: Path) -> list[Finding]:
    """What `source` includes against the arrows. include/meshnode is below every room."""
    is_vocabulary = source.path.startswith("include/")
    if not source.is_cpp or not (is_vocabulary or source.room in allowed):
        return []
    may = set() if is_vocabulary else allowed[source.room]
    findings = []
    for match in re.finditer(r'^\s*#\s*include\s*"(([^/"]+)/[^"]*)"', source.code, re.M):
        name, room = match.group(1), match.group(2)
        helper = source.path.startswith("tests/") and (root / "tests" / name).exists()
        if room in allowed and room not in may and not helper:
            findings.append(Finding(
                source.path, line_of(source.code, match.start(1)), "arrow",
                f'"{name}": no arrow leads from {source.room or "the vocabulary"} to {room}; '
                "pass a value or a seam down instead (CMakeLists.txt has the arrows)"))
    return findings
