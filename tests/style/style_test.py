"""The house rules, held by a machine: every source file against rules.py and the arrows of
CMakeLists.txt, and every rule against a sample that breaks it.
Run: /usr/bin/python3 -m pytest tests/style"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import arrows  # noqa: E402
import rules  # noqa: E402
from rules import RULES, Source  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("src", "include", "tests", "scripts", "cmake", "bench", "docs", "packaging", "config",
          ".ci")


def sources() -> list[Source]:
    found = [path for place in PLACES for path in (ROOT / place).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file()]
    chosen = []
    for path in sorted(found):
        relative = path.relative_to(ROOT).as_posix()
        data = ("corpus/", "__pycache__", ".pytest_cache", "bench/results")
        named = path.suffix in rules.TEXT or path.parent.name in ("scripts", ".ci")
        if named and not any(part in relative for part in data):
            chosen.append(Source.of(relative, path.read_text(encoding="utf-8")))
    return chosen


def report(findings: list) -> str:
    return "\n" + "\n".join(str(finding) for finding in findings)


def test_every_source_file_keeps_the_house_rules():
    files = sources()
    assert len([f for f in files if f.is_cpp]) > 10, "the sources were not found"
    findings = [finding for source in files for finding in rules.check(source)]
    assert not findings, report(findings)


def test_every_include_follows_an_arrow():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    allowed = arrows.reachable(arrows.declared(cmake))
    in_tests = arrows.for_tests(allowed, cmake)
    assert {"base", "proxy", "cli"} <= set(allowed)
    findings = [
        finding for source in sources() for finding in arrows.check(
            source, in_tests if source.path.startswith("tests/") else allowed, ROOT)]
    assert not findings, report(findings)


def test_only_one_file_includes_cli11():
    users = [s.path for s in sources() if re.search(r"#\s*include\s*<CLI/", s.code)]
    assert len(users) <= 1, f"CLI11 costs seconds in each of {users}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_finds_its_bad_sample_and_passes_its_good_one(rule):
    found = rule.run(Source.of(*rule.bad))
    assert [f.rule for f in found][:1] == [rule.name]
    assert rule.run(Source.of(*rule.good)) == []


def test_what_a_comment_or_a_text_says_is_no_code():
    text = 'int f(); // throw\nauto s = "throw";\nauto c = \'"\'; /* throw\n throw */ int g;\n'
    code = rules.blank(text)
    assert "throw" not in code
    assert code.count("\n") == text.count("\n")
    assert "int g;" in code


def test_the_length_of_a_function_in_a_class_is_seen():
    body = "  void f() const {\n" + "    g();\n" * 70 + "  }\n"
    source = Source.of("src/base/x.cc", "class A {\n public:\n" + body + "};\n")
    assert [f.line for f in rules.check(source)] == [3]


def test_an_include_upwards_is_found():
    allowed = arrows.reachable({"base": set(), "io": {"base"}, "agent": {"io"}})
    up = Source.of("src/base/x.cc", '#include "agent/agent.h"\n')
    down = Source.of("src/agent/x.cc", '#include "base/log.h"\n')
    assert "no arrow leads from base to agent" in arrows.check(up, allowed, ROOT)[0].message
    assert arrows.check(down, allowed, ROOT) == []


def test_the_arrows_go_downwards_only():
    declared = arrows.declared((ROOT / "CMakeLists.txt").read_text())
    allowed = arrows.reachable(declared)
    for room, below in declared.items():
        for other in below:
            assert room not in allowed[other], f"{room} and {other} depend on each other"


def compile_command(build: Path, room: str) -> list[str]:
    """The compiler and include roots that CMake gives to the files of `room`."""
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if f"/src/{room}/" in entry["file"]:
            words = shlex.split(entry["command"])
            compiler = next(w for w in words if re.search(r"(?:\+\+|cc)(?:-\d+)?$", w))
            roots = [w for w in words if w.startswith("-I")]
            systems = [w for i, w in enumerate(words) if words[max(i - 1, 0)] == "-isystem"]
            return [compiler, "-std=c++20", "-fsyntax-only", "-x", "c++", *roots,
                    *[f"-isystem{w}" for w in systems], "-"]
    raise AssertionError(f"no file of {room} in {build}/compile_commands.json")


def test_the_compiler_refuses_an_include_upwards():
    build = ROOT / "build" / "release"
    if not (build / "compile_commands.json").exists():
        pytest.skip("needs the release build: scripts/test.sh makes it")
    command = compile_command(build, "model")

    def compiles(include: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, input=f'#include "{include}"\n', text=True,
                              capture_output=True, check=False)

    assert compiles("base/log.h").returncode == 0
    upwards = compiles("snapshot/snapshot.h")
    assert upwards.returncode != 0
    assert "No such file" in upwards.stderr or "file not found" in upwards.stderr
