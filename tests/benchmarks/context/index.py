"""How fast a repository is indexed: `python -m tests.benchmarks.context.index --out DIR`.

Lays source distributions from the package index into one folder until it has the wanted number of lines, and
indexes it in a new process: without a cache's help, again unchanged, and again with one file changed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.bench.sdist import Index, unpack
from pipeline.context.tree.cache import PartCache
from pipeline.context.tree.index import index
from pipeline.context.tree.languages import language_of
from pipeline.snapshot import Snapshot

# Python, then C, C++ and Rust beside it: cut at the lines that are asked for.
_SDISTS = (
    *("cryptography==44.0.0", "scikit-learn==1.6.0", "pandas==2.3.0", "Django==5.2", "numpy==2.2.0"),
    "sympy==1.14.0",
)


def lay(folder: Path, sdists: Path, num_lines: int) -> None:
    """Fill a folder with sources of known languages up to a number of lines; one that is there stays."""
    if folder.exists():
        return
    left, fetched = num_lines, Index()
    for name, _, version in (each.partition("==") for each in _SDISTS):
        archive = fetched.fetch(name, fetched.find(name, version), sdists)
        unpacked = folder.with_name("unpacked") / name
        if not unpacked.exists():
            unpacked.mkdir(parents=True)
            unpack(archive, unpacked)
        for source in sorted(unpacked.rglob("*")):
            if left > 0 and source.is_file() and language_of(source.name):
                target = folder / name / source.relative_to(unpacked)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
                left -= source.read_bytes().count(b"\n")


def measured(folder: Path, cache: Path, changed: bool) -> dict[str, object]:
    """Index a folder once and say how it went; meant for a process of its own."""
    before_mib = peak_mib()
    snapshot = Snapshot(root=folder, commit="")
    if changed:
        path = max(snapshot.python_paths, key=lambda each: os.path.getsize(folder / each))
        snapshot = snapshot.with_files({path: snapshot.read_bytes(path) + b"\nCHANGED = 1\n"})
    start, start_cpu = time.perf_counter(), time.process_time()
    tree = index(snapshot, cache=PartCache(cache))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    added_mib = peak_mib() - before_mib
    files = [tree.file(path) for path in tree.files]
    return {
        "num_lines": sum(file.end_line for file in files),
        "num_files": len(files),
        "languages": Counter(getattr(language_of(path), "name", "") for path in tree.files),
        "skipped": Counter(tree.skipped.values()),
        "nodes": Counter(node.kind for node in tree.walk()),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "added_peak_mib": round(added_mib, 1),
        "held_mib": round(sum(len(file.packed) for file in tree.files.values()) / 2**20, 1),
        "cache_mib": round(cache.stat().st_size / 2**20, 1),
    }


def peak_mib() -> float:
    """Return this process's highest resident memory; getrusage has that of the parent, from before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Lay the repository, index it three times, and print a JSON object a line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".loopwright/context"))
    parser.add_argument("--sdists", type=Path, help="source archives that are there already")
    parser.add_argument("--lines", type=int, default=1_000_000)
    options = parser.parse_args(argv)
    folder, cache = options.out / str(options.lines), options.out / "parts.sqlite"
    lay(folder, options.sdists or options.out / "sdists", options.lines)
    cache.unlink(missing_ok=True)
    for name, changed in (("first", False), ("unchanged", False), ("one file changed", True)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(json.dumps({"index": name, **pool.apply(measured, (folder, cache, changed))}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
