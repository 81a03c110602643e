"""Do the tests of a router notice when the method is broken? Run by hand: `make mutations`, or with names of routers.

    python tests/mutations.py [knn elo ...]

Each file tests/plugins/test_<router>.py ends with MUTATIONS: (old source, new source, what breaks). Every one is
put into a copy of the plugin, one at a time; the file's tests, run against the copy, must fail. Exit code 1 where
a broken copy passes.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUTERS = ROOT / "plugins" / "routers"


def mutations_of(name: str) -> list[tuple[str, str, str]]:
    """The MUTATIONS at the end of the tests of a router."""
    for node in ast.parse((ROOT / "tests" / "plugins" / f"test_{name}.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MUTATIONS":
            found: list[tuple[str, str, str]] = ast.literal_eval(node.value)
            return found
    return []


def survives(name: str, old: str, new: str) -> bool:
    """Whether the tests pass against the plugin with `old` replaced by `new`."""
    source = (ROUTERS / f"{name}.py").read_text()
    if source.count(old) != 1:
        raise SystemExit(f"{name}: {old!r} occurs {source.count(old)} times in the plugin, not once")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "tests.mutant", f"tests/plugins/test_{name}.py"],
        cwd=ROOT,
        env={**os.environ, "RPH_MUTANT": name, "RPH_MUTANT_SOURCE": source.replace(old, new)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode not in (0, 1):
        raise SystemExit(f"{name}: pytest ended with {run.returncode}\n{run.stdout}{run.stderr}")
    return run.returncode == 0


def main(names: list[str]) -> int:
    every = sorted(path.stem for path in ROUTERS.glob("*.py") if path.stem != "__init__")
    alive = 0
    for name in names or every:
        found = mutations_of(name)
        if len(found) < 3:
            print(f"{name}: {len(found)} mutations, 3 are wanted")
            alive += 1
        for old, new, what in found:
            survived = survives(name, old, new)
            alive += survived
            print(f"{name}: {'SURVIVED' if survived else 'killed'}: {what}", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
