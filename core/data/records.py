"""Read a .csv or .jsonl file record by record, and number what is broken, before any library reads it.

The readers of the field either give up at the first broken line or repair it silently; here every broken row is found, and the sound ones
are handed on.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import DataError

DELIMITERS = (",", "\t", ";")
_LONGEST_FIELD = 1 << 26


@dataclass(frozen=True)
class Records:
    """What a text file holds.

    `header`: column names (csv only). `good`: (row number, values). `bad`: (row number, reason with its line). Rows are counted from 0 and
    leave out the header and blank lines; lines are counted from 1, as editors do.
    """

    header: tuple[str, ...]
    good: list[tuple[int, Any]]
    bad: tuple[tuple[int, str], ...]
    delimiter: str = ","


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, with their ends. DataError: binary content, another encoding, nothing in it."""
    content = path.read_bytes()
    if not content.strip():
        raise DataError(f"{path.name} is empty.", "Choose a file with at least one row.")
    if b"\0" in content[: 1 << 20]:
        raise DataError(
            f"{path.name} is not a text file.", "Give a .csv or .jsonl file in UTF-8, or a .parquet file with that ending."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path.name} is not in UTF-8 (line {line} is not).", "Save it again with the encoding UTF-8.") from None
    # split at line ends only: str.splitlines would also cut at form feeds and at Unicode's separators inside a text
    return [line + "\n" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def read_csv(path: Path) -> Records:
    """The records of a comma, tab or semicolon separated file with a header line."""
    lines = read_lines(path)
    first = next(at for at, line in enumerate(lines) if line.strip())
    delimiter = max(DELIMITERS, key=lines[first].count)
    csv.field_size_limit(_LONGEST_FIELD)
    header: tuple[str, ...] = ()
    good: list[tuple[int, Any]] = []
    bad: list[tuple[int, str]] = []
    row = 0
    for line, fields, problem in _csv_records(lines, delimiter):
        if not header:
            header = _header(path, fields, problem)
            continue
        if problem is None and len(fields) != len(header):
            problem = f"has {len(fields)} field{'s' if len(fields) != 1 else ''}, the header has {len(header)}"
        if problem is None:
            good.append((row, fields))
        else:
            bad.append((row, f"line {line} {problem}"))
        row += 1
    return Records(header, good, tuple(bad), delimiter)


def read_jsonl(path: Path) -> Records:
    """The records of a file with one JSON object a line."""
    good: list[tuple[int, Any]] = []
    bad: list[tuple[int, str]] = []
    row = 0
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_no_constant)
            problem = None if isinstance(value, dict) else "is not a JSON object"
        except (ValueError, RecursionError) as error:
            problem = str(error) if "JSON" in str(error) else "is not valid JSON"
        if problem is None:
            good.append((row, value))
        else:
            bad.append((row, f"line {number} {problem}"))
        row += 1
    return Records((), good, (*bad, *_mixed(good)))


def _no_constant(name: str) -> float:
    raise ValueError(f"holds {name}, which JSON does not have")


def _csv_records(lines: list[str], delimiter: str) -> list[tuple[int, list[str], str | None]]:
    """(line number, fields, what is wrong) of each record that is not blank. A quote that never closes spoils its own line only."""
    found: list[tuple[int, list[str], str | None]] = []
    start = 0
    while start < len(lines):
        reader = csv.reader((lines[at] for at in range(start, len(lines))), delimiter=delimiter, strict=True)
        before = 0
        try:
            for fields in reader:
                if fields and (len(fields) > 1 or fields[0].strip()):
                    found.append((start + before + 1, fields, None))
                before = reader.line_num
            break
        except csv.Error as error:
            said = "opens a quote that never closes" if "unexpected end" in str(error) else "has a quote in the wrong place"
            found.append((start + before + 1, [], said))
            start += before + 1
    return found


def _header(path: Path, fields: list[str], problem: str | None) -> tuple[str, ...]:
    if problem or not all(name.strip() for name in fields):
        what = problem or "has a column without a name"
        raise DataError(f"The header of {path.name} {what}.", "Its first line must name every column.")
    double = next((name for name in fields if fields.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{path.name} has two columns called {double!r}.", "Give every column a name of its own.")
    return tuple(fields)


def _mixed(good: list[tuple[int, Any]]) -> list[tuple[int, str]]:
    """Rows whose value is of another kind than the column's first one: no table can hold both. They are taken out of `good`."""
    kinds: dict[str, str] = {}
    bad: list[tuple[int, str]] = []
    for row, value in good:
        for name, item in value.items():
            kind = _kind(item)
            if kind and kinds.setdefault(name, kind) != kind:
                bad.append((row, f"holds {kind} in the column {name!r}, where earlier rows hold {kinds[name]}"))
                break
    spoiled = {row for row, _ in bad}
    good[:] = [entry for entry in good if entry[0] not in spoiled]
    return bad


def _kind(item: Any) -> str | None:
    if item is None:
        return None
    if isinstance(item, bool):
        return "true or false"
    names = ((str, "text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"))
    return next(name for kind, name in names if isinstance(item, kind))
