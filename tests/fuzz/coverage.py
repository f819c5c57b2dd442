"""Line coverage of the decoders by the committed corpora: coverage.py TREE [FILE...]

TREE holds the fuzz programs, built with -fprofile-instr-generate -fcoverage-mapping. A line counts
when any program runs it. With FILEs, their uncovered lines are printed too. Fails below LEAST."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

LEAST = 90.0
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def decoders() -> list[str]:
    lines = (HERE / "decoders.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def lines_run(program: Path, scratch: Path) -> dict[str, dict[int, int]]:
    """By file and line, how often `program` ran it over its corpus."""
    name = program.name.removesuffix("_fuzz")
    raw, profile = scratch / f"{name}.raw", scratch / f"{name}.profile"
    subprocess.run([program, "-runs=0", "-timeout=60", "-rss_limit_mb=4096", "-verbosity=0",
                    HERE / "corpus" / name], check=True, cwd=scratch, timeout=600,
                   env={**os.environ, "LLVM_PROFILE_FILE": str(raw)})
    subprocess.run(["llvm-profdata-14", "merge", "-o", profile, raw], check=True)
    report = subprocess.run(["llvm-cov-14", "export", "-format=lcov", "-instr-profile", profile,
                             program], check=True, capture_output=True, text=True).stdout
    found: dict[str, dict[int, int]] = {}
    for line in report.splitlines():
        if line.startswith("SF:"):
            path = line[3:]
            at = path.rfind("/src/") + 1  # builds name sources below their own root
            current = found.setdefault(path[at:], {})
        elif line.startswith("DA:"):
            number, count = line[3:].split(",")[:2]
            current[int(number)] = current.get(int(number), 0) + int(count)
    return found


def main() -> int:
    tree, shown = Path(sys.argv[1]).resolve(), sys.argv[2:]
    total: dict[str, dict[int, int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for program in sorted(tree.glob("*_fuzz")):
            for path, lines in lines_run(program, Path(scratch)).items():
                into = total.setdefault(path, {})
                for number, count in lines.items():
                    into[number] = into.get(number, 0) + count
    low = 0
    for path in decoders():
        lines = total.get(path, {})
        covered = sum(1 for count in lines.values() if count)
        share = 100.0 * covered / len(lines) if lines else 0.0
        low += share < LEAST
        print(f"{path:36} {covered:5} of {len(lines):5} lines {share:6.1f} %"
              f"{'' if share >= LEAST else f'  below {LEAST:.0f}: add seeds'}")
        if path in shown:
            text = (ROOT / path).read_text().splitlines()
            for number, count in sorted(lines.items()):
                if count == 0:
                    print(f"    {number:5}  {text[number - 1]}")
    print(f"{len(decoders()) - low} of {len(decoders())} decoders at {LEAST:.0f} % or more")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
