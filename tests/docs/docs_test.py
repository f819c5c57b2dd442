"""What the pages say, checked: every YAML example is valid, every command exists, and the tables of
problems and metrics name what the sources name.
Run: /usr/bin/python3 -m pytest tests/docs (needs build/release/meshnode, or MESHNODE_BIN)"""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MESHNODE = os.environ.get("MESHNODE_BIN", str(ROOT / "build" / "release" / "meshnode"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

needs_program = pytest.mark.skipif(not os.access(MESHNODE, os.X_OK), reason=f"no {MESHNODE}")


def blocks(language: str) -> list:
    """(page:line, text) of every fenced block of `language`."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match.group(1), id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def sources(*patterns: str) -> str:
    return "\n".join(path.read_text() for pattern in patterns
                     for path in sorted(ROOT.glob(pattern)))


@needs_program
@pytest.mark.parametrize("example", blocks("yaml"))
def test_every_yaml_example_is_valid(example, tmp_path):
    file = tmp_path / "example.yaml"
    file.write_text(example)
    done = subprocess.run([MESHNODE, "validate", str(file)], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_program
def test_every_command_that_a_page_names_exists():
    text = "\n".join(page.read_text() for page in PAGES)
    spoken = set(re.findall(r"(?:^|`)meshnode ((?:ca |capture )?[a-z]+)", text, re.M))
    assert {"status", "validate", "ca init", "capture remove"} <= spoken
    for command in sorted(spoken):
        done = subprocess.run([MESHNODE, *command.split(), "--help"], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, f"meshnode {command}: {done.stderr}"


def test_every_problem_code_is_explained_and_exists():
    page = (ROOT / "docs" / "problems.md").read_text()
    explained = re.findall(r"^\| `([a-z-]+)` \|", page, re.M)
    assert explained == sorted(explained), "keep the table sorted"
    code = sources("src/agent/*.cc", "src/identity/*.cc", "src/model/catalog*.cc")
    reported = set(re.findall(
        r'(?:problem|set|event|report)\(\s*\{?\s*"([a-z]+(?:-[a-z]+)+)"', code))
    reported |= set(re.findall(r'Problem\{\s*"([a-z]+(?:-[a-z]+)+)"', code))
    reported |= {c for c in re.findall(r'"(certificate-[a-z]+)"', code)}
    assert reported == set(explained)


def test_every_metric_is_listed_and_exists():
    page = (ROOT / "docs" / "operations.md").read_text()
    pattern = r"((?:istio|meshnode)_[a-z_]+)"
    listed = set(re.findall("`" + pattern, page))
    made = set(re.findall('"' + pattern + '"', sources("src/telemetry/*.cc")))
    assert made <= listed, f"not in docs/operations.md: {made - listed}"
    assert listed <= made, f"not in src/telemetry: {listed - made}"


UNITS = {"s": 1, "min": 60, "KiB": 1 << 10, "MiB": 1 << 20, "octets": 1}
LIMITS = ("limit", "value", "source", "configurable", "test", "metric", "seen")


def limits() -> list:
    """The rows of docs/limits.md, each a dictionary by column."""
    rows = []
    for line in (ROOT / "docs" / "limits.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == len(LIMITS) and cells[0] not in ("limit", "---"):
            rows.append(dict(zip(LIMITS, cells)))
    return rows


def constant(file: str, name: str) -> tuple:
    """The values that a source gives to a name, times in seconds; plain arithmetic only."""
    found = re.search(rf"\b{name}(?: = |{{)([^;]+?)}}?;", (ROOT / "src" / file).read_text())
    assert found, f"{file} has no {name}"
    text = re.sub(r"std::chrono::seconds\((\d+)\)", r"\1", found.group(1))
    text = re.sub(r"std::chrono::minutes\((\d+)\)", r"(\1*60)", text)
    text = re.sub(r"std::size_t{(\d+)}", r"\1", text).replace("'", "")
    text = re.sub(r"(\d)U\b", r"\1", text)
    assert re.fullmatch(r"[\d\s*+<(),-]+", text), f"{file} {name}: {text}"
    value = eval(text)  # digits and operators only, as just checked
    return value if isinstance(value, tuple) else (value,)


def test_every_limit_is_what_the_sources_say():
    rows = limits()
    assert len(rows) > 40
    for row in rows:
        if row["source"] == "":
            continue
        assert re.fullmatch(r"`[^`]+`(?: `\w+`)*", row["source"]), row
        file, *names = re.findall(r"`([^`]+)`", row["source"])
        assert (ROOT / "src" / file).exists(), row
        values = [value for name in names for value in constant(file, name)]
        told = [int(number.replace(",", "")) * UNITS.get(unit, 1)
                for number, unit in re.findall(r"(\d[\d,]*)(?: ([A-Za-z]+))?", row["value"])]
        assert told[:len(values)] == values, row


def test_every_limit_has_its_test_and_its_metric():
    tests = sources("tests/*/*.cc", "tests/netns/*.py")
    page = (ROOT / "docs" / "operations.md").read_text()
    counted = set(re.findall(r'"([a-z-]+)"', re.search(
        r"kLimitNames = {(.*?)}", sources("src/telemetry/agent_metrics.cc"), re.S).group(1)))
    named = set()
    for row in limits():
        test = row["test"].strip("`")
        assert f'TEST_CASE("{test}"' in tests or f"def {test}(" in tests, row
        metric = row["metric"].strip("`")
        assert metric in counted or f"`{metric}" in page or metric.startswith("none: "), row
        named.add(metric)
        if option := re.search(r"`(proxy\.\w+)`", row["configurable"]):
            assert f"| {option.group()} |" in page, row
    assert counted <= named, f"not in docs/limits.md: {counted - named}"


def test_every_test_that_the_page_of_attacks_names_exists():
    page = (ROOT / "docs" / "adversarial.md").read_text()
    named = re.findall(r"`([a-z]+/\w+\.(?:py|cc))::([^`]+)`", page)
    assert len(named) > 30
    for file, name in named:
        text = (ROOT / "tests" / file).read_text()
        made = f'TEST_CASE("{name}")' if file.endswith(".cc") else f"def {name}("
        assert made in text, f"{file} has no test '{name}'"
    rows = re.findall(r"^\| (\d+) \|.*::", page, re.M)
    assert rows == [str(number) for number in range(1, 23)]


def test_every_case_of_h2spec_that_does_not_apply_is_explained():
    page = (ROOT / "docs" / "adversarial.md").read_text()
    source = (ROOT / "tests" / "adversarial" / "test_h2spec.py").read_text()
    sections = re.findall(r'^    \("(?:http2/)?([\w/.]+)", "', source, re.M)
    assert f"{len(sections)} of its 145 cases do not apply" in page
    table = page[page.index("## h2spec"):]
    assert [section for section in sections if section not in table] == []


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_room_is_on_the_map():
    rooms = re.findall(r"^meshnode_room\((\w+)", (ROOT / "CMakeLists.txt").read_text(), re.M)
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert [room for room in rooms if f"| `{room}` |" not in page] == []
