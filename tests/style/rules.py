"""The house rules that a machine can hold, as values: each one knows where it applies, what breaks
it and what to do instead. A rule carries a bad sample, so that style_test.py can show it bites."""

import ast
import codecs
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Callable, Iterator

LINE_LIMIT = 100
FUNCTION_LIMIT = 70
STORY_LIMIT = 100  # a test case or a benchmark that is read from top to bottom
FILE_LIMIT = 800

CPP = (".cc", ".h")
TEXT = CPP + (".py", ".sh", ".cmake", ".md", ".txt", ".yaml", ".yml", ".json", ".service")


@dataclass(frozen=True)
class Source:
    """One file: `path` is relative to the repository; `code` is `text` with comments and literals
    blanked out, line by line."""

    path: str
    text: str
    code: str = field(default="", compare=False)

    @staticmethod
    def of(path: str, text: str) -> "Source":
        return Source(path, text, blank(text) if path.endswith(CPP) else text)

    @property
    def is_cpp(self) -> bool:
        return self.path.endswith(CPP)

    @property
    def is_header(self) -> bool:
        return self.path.endswith(".h")

    @property
    def top(self) -> str:
        return PurePosixPath(self.path).parts[0]

    @property
    def room(self) -> str:
        """src/<room>/... and tests/<room>/...; a fuzzer's room is the first word of its name."""
        parts = PurePosixPath(self.path).parts
        if parts[0] not in ("src", "tests") or len(parts) < 3:
            return ""
        return parts[2].split("_")[0] if parts[:2] == ("tests", "fuzz") else parts[1]


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True)
class Rule:
    name: str
    applies: Callable[[Source], bool]
    check: Callable[[Source], Iterator[tuple[int, str]]]
    bad: tuple[str, str]  # path and text of a file that breaks the rule
    good: tuple[str, str]  # and of one that comes near without breaking it

    def run(self, source: Source) -> list[Finding]:
        if not self.applies(source):
            return []
        return [Finding(source.path, line, self.name, why) for line, why in self.check(source)]


_LITERALS = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<d>[^()\\\s]{0,16})\(.*?\)(?P=d)"'
    r'|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\'', re.S)


def blank(text: str) -> str:
    """C++ text without comments and the insides of literals; #include lines keep their names."""

    def erase(match: re.Match) -> str:
        found = match.group(0)
        line_start = text.rfind("\n", 0, match.start()) + 1
        if re.match(r"\s*#\s*include", text[line_start:match.start()] + found):
            return found
        quote = found[0] if found[0] in "\"'" else ""
        inner = re.sub(r"[^\n]", " ", found)
        return quote + inner[1:-1] + quote if quote and len(found) > 1 else inner

    return _LITERALS.sub(erase, text)


def line_of(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def everywhere(_: Source) -> bool:
    return True


def cpp(source: Source) -> bool:
    return source.is_cpp


def product(source: Source) -> bool:
    return source.is_cpp and source.top in ("src", "include")


def ban(name: str, pattern: str, instead: str, bad: tuple[str, str], good: tuple[str, str],
        applies: Callable[[Source], bool] = product, rooms: tuple[str, ...] = (),
        files: tuple[str, ...] = ()) -> Rule:
    """`pattern` must not occur in code outside `rooms` and `files` (paths without their ending);
    the message says what to use."""
    regex = re.compile(pattern, re.M)

    def check(source: Source) -> Iterator[tuple[int, str]]:
        if source.room in rooms or source.path.rsplit(".", 1)[0] in files:
            return
        for match in regex.finditer(source.code):
            yield line_of(source.code, match.start()), f"'{match.group(0).strip()}': {instead}"

    return Rule(name, applies, check, bad, good)


def only_in(header: str, rooms: tuple[str, ...], instead: str) -> Rule:
    """A library has one room that may see it, so that it can be replaced there."""
    outsider = "policy" if "policy" not in rooms else "snapshot"
    include = f"#include <{header}"
    return ban(f"include-{re.sub('[^a-z0-9]+', '-', header.lower()).strip('-')}",
               rf"^\s*#\s*include\s*[<\"]{re.escape(header)}", instead,
               (f"src/{outsider}/x.cc", include + ">\n"),
               (f"src/{rooms[0]}/x.cc", include + ">\n"), cpp, rooms)


def template_lines(source: Source) -> set[int]:
    """Lines within a Python string of several lines: text of another language."""
    lines: set[int] = set()
    if source.path.endswith(".py"):
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type == tokenize.STRING and token.start[0] != token.end[0]:
                lines |= set(range(token.start[0] + 1, token.end[0] + 1))
    return lines


def line_length(source: Source) -> Iterator[tuple[int, str]]:
    code = source.code.split("\n")
    templates = template_lines(source)
    for number, line in enumerate(source.text.split("\n"), 1):
        is_comment = line.lstrip().startswith(("//", "/*", "*"))
        is_literal = source.is_cpp and not code[number - 1].strip() and not is_comment
        if len(line) > LINE_LIMIT and "http" not in line and not is_literal and (
                number not in templates):
            yield number, f"{len(line)} columns; the limit is {LINE_LIMIT}"


def file_length(source: Source) -> Iterator[tuple[int, str]]:
    lines = source.text.count("\n")
    if lines > FILE_LIMIT:
        yield 1, f"{lines} lines; the limit is {FILE_LIMIT}: split it by what its parts are for"


_NOT_A_FUNCTION = re.compile(
    r"^\s*(?:template\s*<[^{}]*>\s*)?(?:inline\s+)?"
    r"(?:namespace|class|struct|union|enum|extern\s+\")")


def cpp_functions(code: str) -> Iterator[tuple[int, int, str]]:
    """(first line, last line, head) of each outermost function body in blanked code."""
    head_start = 0
    depth_inside = 0
    first = 0
    head = ""
    for match in re.finditer(r"[{};]", code):
        mark, at = match.group(0), match.start()
        if depth_inside:
            depth_inside += {"{": 1, "}": -1}.get(mark, 0)
            if depth_inside == 0:
                yield first, line_of(code, at), head
                head_start = at + 1
            continue
        text = re.sub(r"^\s*(?:#.*|(?:public|private|protected):\s*)$",
                      lambda line: " " * len(line.group(0)), code[head_start:at], flags=re.M)
        is_body = (mark == "{" and "(" in text and not _NOT_A_FUNCTION.match(text.strip()) and
                   not re.search(r"[=,(]\s*$", text))
        if is_body:
            first = line_of(code, head_start + len(text) - len(text.lstrip()))
            head = " ".join(text.split())
            depth_inside = 1
        head_start = at + 1


def function_length(source: Source) -> Iterator[tuple[int, str]]:
    limit = FUNCTION_LIMIT if product(source) else STORY_LIMIT
    if source.is_cpp:
        spans = list(cpp_functions(source.code))
    else:
        tree = ast.parse(source.text)
        spans = [(node.lineno, node.end_lineno or node.lineno, node.name)
                 for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef,))]
    for first, last, head in spans:
        if last - first + 1 > limit:
            yield first, (f"{last - first + 1} lines in '{head[:60]}'; the limit is {limit}: "
                          "give its parts names")


def whitespace(source: Source) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.text.split("\n"), 1):
        if "\t" in line:
            yield number, "a tab; indent with spaces"
        if line != line.rstrip():
            yield number, "trailing white space"
    if source.text and not source.text.endswith("\n"):
        yield source.text.count("\n") + 1, "no line feed at the end of the file"


def header_form(source: Source) -> Iterator[tuple[int, str]]:
    lines = source.text.split("\n")
    if lines[0] != "#pragma once":
        yield 1, "a header begins with '#pragma once'"
    if not any(line.startswith("/// ") for line in lines[1:4]):
        yield 2, "a header says its purpose, owner and thread in a '///' comment under the pragma"


def include_form(source: Source) -> Iterator[tuple[int, str]]:
    for match in re.finditer(r'^\s*#\s*include\s*"([^"]*)"', source.code, re.M):
        name = match.group(1)
        line = line_of(source.code, match.start(1))
        if name.startswith(("./", "../")) or "/../" in name:
            yield line, f'"{name}": name the room instead: #include "room/file.h"'
        elif "/" not in name:
            yield line, f'"{name}": say whose it is: #include "room/file.h"'
        elif name.startswith("meshnode/"):
            yield line, f'"{name}": the vocabulary is included as <{name}>'


_UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) +
                         r")\b")


def unfinished(source: Source) -> Iterator[tuple[int, str]]:
    for match in _UNFINISHED.finditer(source.text):
        yield line_of(source.text, match.start()), (
            f"'{match.group(0)}': do it now, or open an issue and say nothing here")


# The project speaks of itself alone. The words are in rot13 so that this file keeps its own rule.
_OFF_TOPIC = re.compile("|".join(
    [r"\b" + codecs.decode(word, "rot13") + r"\b" for word in
     ("pynhqr", "naguebcvp", "bcranv", "pungtcg", "tcg-[0-9]", "pbcvybg", "yyz", "nv-trarengrq",
      "ynathntr zbqry")] + [r"(?<![\w.$}])/(?:" + codecs.decode("jbex", "rot13") +
                            r"|home|Users)/"]), re.I)


def off_topic(source: Source) -> Iterator[tuple[int, str]]:
    for match in _OFF_TOPIC.finditer(source.text):
        yield line_of(source.text, match.start()), (
            f"'{match.group(0)}': nothing about the place where meshnode is written")


_LONG_FUNCTION = "int f() {\n" + "  g();\n" * FUNCTION_LIMIT + "}\n"
_FULL_FUNCTION = "int f() {\n" + "  g();\n" * (FUNCTION_LIMIT - 2) + "}\n"
_HEADER = "#pragma once\n/// What it is for.\n"

RULES = [
    Rule("line-length", lambda s: not s.path.endswith((".md", ".json", ".txt", ".yaml")),
         line_length, ("src/base/x.cc", "//" + "x" * 99 + "\n"),
         ("src/base/x.cc", "//" + "x" * 98 + "\n")),
    Rule("file-length", lambda s: s.is_cpp or s.path.endswith((".py", ".sh")), file_length,
         ("src/base/x.cc", "\n" * 801), ("src/base/x.cc", "\n" * 800)),
    Rule("function-length", lambda s: s.is_cpp or s.path.endswith(".py"), function_length,
         ("src/base/x.cc", _LONG_FUNCTION), ("src/base/x.cc", _FULL_FUNCTION)),
    Rule("white-space", everywhere, whitespace, ("src/base/x.cc", "int a; \n"),
         ("src/base/x.cc", "int a;\n")),
    Rule("header-form", lambda s: s.is_header, header_form,
         ("src/base/x.h", "#pragma once\nint a;\n"), ("src/base/x.h", _HEADER + "int a;\n")),
    Rule("include-form", lambda s: s.is_cpp and s.top != "bench", include_form,
         ("src/base/x.cc", '#include "../io/loop.h"\n'),
         ("src/base/x.cc", '#include "base/log.h"\n')),
    Rule("unfinished", lambda s: not s.path.startswith("tests/style/"), unfinished,
         ("src/base/x.cc", "// TO" + "DO later\n"), ("src/base/x.cc", "// all done\n")),
    Rule("off-topic", everywhere, off_topic,
         ("README.md", "see /" + "home/me/notes\n"), ("README.md", "see https://x.y/home/z\n")),
    ban("clock", r"(?:steady_clock|system_clock|high_resolution_clock)::now|"
        r"\b(?:time\s*\(\s*(?:nullptr|NULL|0)\s*\)|gettimeofday\s*\(|clock_gettime\s*\()",
        "take a Clock (<meshnode/clock.h>) or the time as an argument",
        ("src/proxy/x.cc", "auto t = std::chrono::steady_clock::now();\n"),
        # agent gives its threads their clocks; the command line's client has no loop for one.
        ("src/proxy/x.cc", "auto t = clock.now();\n"), rooms=("io", "base", "agent"),
        files=("src/admin/client",)),
    ban("thread", r"\bstd::j?thread\b(?!::)|\bpthread_create\b|\bstd::async\b",
        "threads start in agent only; give work to an Executor (<meshnode/executor.h>)",
        ("src/proxy/x.cc", "std::thread t(run);\n"),
        ("src/proxy/x.cc", "std::this_thread::yield();\n"), rooms=("io", "agent"),
        # The one of the supervisor that runs no program, so that programs delay no dial.
        files=("src/base/line_writer", "src/supervisor/socket_service",
               "src/supervisor/space_thread", "src/supervisor/spaces")),
    ban("sleep", r"\bsleep_for\b|\bsleep_until\b|\b(?:u|nano)?sleep\s*\(",
        "start a Timer from the Clock; nothing in the product waits by sleeping",
        ("src/proxy/x.cc", "std::this_thread::sleep_for(1s);\n"),
        ("src/proxy/x.cc", "timer->start(1s);\n"), rooms=("io",)),
    ban("random", r"\bstd::(?:random_device|mt19937(?:_64)?)\b|\bs?rand\s*\(|\bgetrandom\s*\(",
        "take a Random (base/random.h)", ("src/proxy/x.cc", "std::random_device d;\n"),
        ("src/proxy/x.cc", "operand(1);\n"), rooms=("base",)),
    ban("name-service", r"\b(?:getaddrinfo|gethostbyname|getpwnam|getpwuid|getgrnam|getgrgid)"
        r"(?:_r)?\s*\(",
        "name service modules may load OpenSSL beside BoringSSL: parse addresses with "
        "IpAddress::parse, users with Kernel::user_id",
        ("src/agent/x.cc", "getpwnam(name);\n"), ("src/agent/x.cc", "kernel.user_id(name);\n")),
    ban("shell", r"(?<![\w.>:])(?:::|std::)?(?:popen|system)\s*\(",
        "no shell: run a program with its arguments through Kernel::run (<meshnode/kernel.h>)",
        ("src/capture/x.cc", 'system("iptables -L");\n'),
        ("src/capture/x.cc", "kernel.run(argv, input);\n")),
    ban("print", r"\b(?:f|v|vf|d)?printf\s*\(|\bf?puts\s*\(|\bstd::(?:cout|cerr|clog)\b|"
        r"\bfmt::print\b|#\s*include\s*<iostream>",
        "log through base/log.h; only cli speaks to people",
        ("src/proxy/x.cc", 'printf("hello");\n'),
        ("src/proxy/x.cc", 'std::snprintf(b, n, "%d", i);\n'), rooms=("cli",)),
    ban("throw", r"\bthrow\b", "return fail(...) of a Result<T> (<meshnode/result.h>)",
        ("src/model/x.cc", "throw 1;\n"), ("src/model/x.cc", "// never throws; throw\n")),
    ban("coroutine", r"\bco_(?:await|yield|return)\b",
        "g++ 12 miscompiles coroutines; use callbacks and effects as values",
        ("src/io/x.cc", "co_await f();\n"), ("src/io/x.cc", "cost_await();\n"), cpp),
    ban("using-namespace", r"^\s*using\s+namespace\b",
        "a header imposes no names on its readers; write them out",
        ("src/io/x.h", _HEADER + "using namespace std;\n"),
        ("src/io/x.h", _HEADER + "using std::string;\n"),
        lambda s: s.is_header and product(s)),
    only_in("uv.h", ("io",), "use io/loop.h, io/network.h or the seams"),
    only_in("openssl/", ("tls",), "use tls/session.h, tls/credential.h or tls/authority.h"),
    only_in("nghttp2/", ("proxy",), "HTTP/2 lives in proxy"),
    only_in("yaml.h", ("model",), "use model's reader, the only one that is strict"),
    only_in("boost/", ("admin", "http"), "Boost is there for the HTTP/1 parser only"),
    only_in("prometheus/", ("telemetry",), "count through telemetry/connection.h"),
    only_in("spdlog/", ("base",), "log through base/log.h"),
    only_in("libmnl/", ("io",), "netlink lives in io"),
    only_in("CLI/", ("cli",), "options are read in cli; CLI11 costs seconds a file"),
]


def check(source: Source) -> list[Finding]:
    return [finding for rule in RULES for finding in rule.run(source)]
