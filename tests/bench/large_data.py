"""A million rows opened, and 400,000 points drawn and asked about, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from core import builtins
from tests.bench import Figure

ABOUT = (
    "1,000,000 rows of about 100 letters, a label and a number as csv and parquet, opened the first time (converted into the cache) and the second time "
    "(memory-mapped); memory is the process's own pages (RssAnon) and its peak with mapped pages (VmHWM), less what it held after its imports. Then "
    "builtin:glove50, 400,000 rows of 50 numbers: embedding, map (PCA, clusters, trust, random order), and the slowest of five answers."
)
_OPEN = """
import sys, time
from core.data.loading import load
from core.recipe import Data
import datasets, pyarrow.parquet
def mb(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
own, whole, start = mb("RssAnon"), mb("VmRSS"), time.perf_counter()
data = load(Data(source=sys.argv[1]))
assert len(data) == 1_000_000 and data.texts[999_999].startswith("row 999999") and len(data.label_names) == 3
print(time.perf_counter() - start, mb("RssAnon") - own, mb("VmHWM") - whole)
"""
_MAP = """
import json, sys, time
from pathlib import Path
from core import serve
session = serve.Session(Path(sys.argv[1]))
def ask(name, **args):
    start = time.perf_counter()
    said = serve.answer(session, json.dumps({"id": 1, "ask": name, "args": args}))
    assert "answer" in said, said
    return time.perf_counter() - start, said["answer"]
recipe = {"recipe": 1, "name": "m", "data": {"source": "builtin:glove50"}, "embedding": {"source": "column:vector"},
          "select": {"method": "random", "keep": 0.5}}
opened, _ = ask("open_data", source="builtin:glove50")
from core.data.embedding import embed
from core.events import Silent
from core.recipe import Embedding
start = time.perf_counter()
embed(session.parts["data"].dataset, Embedding(source="column:vector"), None, Silent())
embedded = time.perf_counter() - start
drawn, answer = ask("map_data", recipe=recipe)
places = session.parts["data"].places
import numpy as np
angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
size = places.std(0)
polygon = (np.stack([np.cos(angle), np.sin(angle)], 1) * size * (1 + 0.2 * np.sin(7 * angle))[:, None]).tolist()
def slowest(name, **args):
    ask(name, **args)
    return max(ask(name, **args)[0] for _ in range(5))
print(opened, embedded, drawn, slowest("lasso", polygon=polygon), slowest("search", query="prun"), slowest("neighbours", row=1234, count=10),
      slowest("rows", rows=list(range(0, 400_000, 8_000))))
"""


def measure() -> list[Figure]:
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        for path in _million(Path(scratch)):
            size_mb = path.stat().st_size / 1e6
            for time in ("first", "second"):
                seconds, own_mb, peak_mb = map(float, _ran(_OPEN, str(path)))
                what = f"1,000,000 rows of {path.suffix} ({size_mb:.0f} MB), {time} time"
                goal, held = ("", None) if time == "first" else ("<= 3 s", seconds <= 3)
                figures.append(Figure(what, f"{seconds:.1f} s, {own_mb:.0f} MB of its own, peak {peak_mb:.0f} MB", goal, held))
        builtins.fetch("glove50")
        found = list(map(float, _ran(_MAP, scratch)))
    names = ("open, memory-mapped", "embedding (ready vectors)", "map")
    goals = ("", "", "<= 10 s")
    for name, goal, seconds in zip(names, goals, found, strict=False):
        figures.append(Figure(f"400,000 points: {name}", f"{seconds:.2f} s", goal, seconds <= 10 if goal else None))
    for name, seconds in zip(("lasso of 300 corners", "search", "neighbours of a row", "50 rows shown"), found[3:], strict=True):
        figures.append(Figure(f"400,000 points: {name}", f"{seconds * 1000:.0f} ms", "<= 200 ms", seconds <= 0.2))
    return figures


def _ran(code: str, argument: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True).stdout.split()


def _million(folder: Path) -> list[Path]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    rows = 1_000_000
    texts = pa.array((f"row {at} " + "abcdefghi " * 9 for at in range(rows)), pa.string())
    table = pa.table(
        {"text": texts, "label": pa.array(["a", "b", "c"]).take(pa.array(np.arange(rows) % 3)), "n": np.arange(rows) / 7}
    )
    paths = [folder / "million.csv", folder / "million.parquet"]
    pc.write_csv(table, paths[0])
    pq.write_table(table, paths[1], row_group_size=100_000)
    return paths
