"""Runs the scripts of this folder one after the other, and gathers their tables in perf/results.

    python perf/run.py [floor peers ...]

All of them take most of an hour. `perf/results/perf.md` is for reading, `perf/results/perf.json` holds the numbers; both
are of the scripts of this one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import Column, Table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SCRIPTS = sorted({path.stem for path in HERE.glob("*.py")} - {"machine", "tables", "run"})


def gathered(records: Sequence[dict[str, Any]]) -> str:
    """Markdown of what the scripts kept."""
    first = records[0]["machine"]
    about = Table(
        f"{first['cpu']}, {first['cores']} cores, {first['memory_bytes'] / 1e9:.0f} GB; {first['system']}; "
        + ", ".join(f"{name} {version}" for name, version in first["versions"].items()),
        [
            Column("script"),
            Column("command"),
            Column("date"),
            Column("threads"),
            Column("load at its end", digits=1),
        ],
    )
    about.rows = [
        (r["script"], f"`{r['command']}`", r["date"], r["machine"]["threads"], r["machine"]["load"])
        for r in records
    ]
    limits = Table(
        "What one thread could do just after each script: the machine is not always the same",
        [Column("what"), Column("unit"), *(Column(r["script"], digits=1) for r in records)],
    )
    limits.rows = [
        (same[0]["what"], same[0]["unit"], *(limit["one_thread"] for limit in same))
        for same in zip(*(r["limits"] for r in records), strict=True)
    ]
    parts = [
        f"# Speed, as measured by {len(records)} of {len(SCRIPTS)} scripts",
        about.markdown,
        limits.markdown,
    ]
    for record in records:
        parts += [f"## {record['script']}", *(Table.read(table).markdown for table in record["tables"])]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "scripts", nargs="*", default=SCRIPTS, metavar="script", help=f"some of {', '.join(SCRIPTS)}"
    )
    chosen = parser.parse_args().scripts
    if unknown := set(chosen) - set(SCRIPTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SCRIPTS)}")
    records = []
    for script in chosen:
        print(f"== {script}", flush=True)
        command = [sys.executable, f"perf/{script}.py"]
        subprocess.run(command, check=True, cwd=HERE.parent, env=os.environ | {"RPH_PERF": str(RESULTS)})
        records.append(json.loads((RESULTS / f"{script}.json").read_text()))
    (RESULTS / "perf.json").write_text(json.dumps(records, indent=1) + "\n")
    (RESULTS / "perf.md").write_text(gathered(records))
    print(f"\n{RESULTS / 'perf.md'}")


if __name__ == "__main__":
    main()
