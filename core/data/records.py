"""Read a .csv or .jsonl file record by record, a chunk at a time, and number what is broken, before any library reads it.

The readers of the field either give up at the first broken line or repair it silently; here every broken row is found, and the sound ones
are handed on.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import DataError

DELIMITERS = (",", "\t", ";")
_LONGEST_FIELD = 1 << 26
_CHUNK_RECORDS, _CHUNK_CHARACTERS = 32_768, 1 << 22
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # how a byte that is not UTF-8 is handed on


@dataclass
class Records:
    """Some of the records of a text file.

    `header`: column names (csv only). `good`: (row number, values). `bad`: (row number, reason with its line). Rows are counted from 0 and
    leave out the header and blank lines; lines are counted from 1, as editors do.
    """

    header: tuple[str, ...] = ()
    good: list[tuple[int, Any]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)


class Lines:
    """The lines of a UTF-8 text file, plain or in gzip, with their ends; the last ones can be given back. `number`: of lines taken for good."""

    def __init__(self, path: Path) -> None:
        self.path, self.number, self.characters = path, 0, 0
        self._taken: list[str] = []
        self._again: deque[str] = deque()
        self._lines = _text_lines(path)

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._taken.append(line)
        return line

    def done(self) -> bool:
        """The lines since the last call make a record. Are they in UTF-8?"""
        sound = all(line.isascii() or not _NOT_UTF8.search(line) for line in self._taken)
        self.characters += sum(map(len, self._taken))
        self.number += len(self._taken)
        self._taken.clear()
        return sound

    def give_back(self) -> None:
        """Only the first of the lines since the last call is done with: the others come again."""
        self._again.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]
        self.done()


def read_csv(path: Path) -> Iterator[Records]:
    """The records of a comma, tab or semicolon separated file with a header line, in chunks; the header is in each."""
    csv.field_size_limit(_LONGEST_FIELD)
    lines = Lines(path)
    delimiter = max(DELIMITERS, key=_first_line(path).count)
    chunk, header, row = Records(), (), 0
    for line, fields, problem in _csv_records(lines, delimiter):
        if not header:
            header = _header(path, fields, problem)
            chunk = Records(header)
            continue
        if problem is None and len(fields) != len(header):
            problem = f"has {len(fields)} field{'s' if len(fields) != 1 else ''}, the header has {len(header)}"
        if problem is None:
            chunk.good.append((row, fields))
        else:
            chunk.bad.append((row, f"line {line} {problem}"))
        row += 1
        if _full(chunk, lines):
            yield chunk
            chunk = Records(header)
    yield chunk


def read_jsonl(path: Path) -> Iterator[Records]:
    """The records of a file with one JSON object a line, in chunks. A column holds one kind of value, that of its first one."""
    lines, chunk, row = Lines(path), Records(), 0
    kinds: dict[str, str] = {}
    for line in lines:
        sound = lines.done()
        if not line.strip():
            continue
        value, problem = _json_object(line) if sound else (None, "is not in UTF-8")
        reason = f"line {lines.number} {problem}" if problem else _other_kind(value, kinds)
        if reason is None:
            chunk.good.append((row, value))
        else:
            chunk.bad.append((row, reason))
        row += 1
        if _full(chunk, lines):
            yield chunk
            chunk = Records()
    yield chunk


def _text_lines(path: Path) -> Iterator[str]:
    """Lines as they end in \\n, \\r\\n or \\r, and nowhere else: Unicode's separators and form feeds stay inside a text."""
    zipped = path.suffix.lower() == ".gz"
    with path.open("rb") as plain, gzip.open(plain) if zipped else plain as content:
        number = 0
        try:
            start = content.read1(1 << 20)  # what a cut off gzip still gives
            _check_start(path, start)
            content.seek(0)
            for line in io.TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline=None):
                number += 1
                yield line if line.endswith("\n") else line + "\n"
        except EOFError:
            raise DataError(
                f"{path.name} ends in the middle, after line {number}: its gzip is cut off.", "Copy or fetch it again."
            ) from None
        except (gzip.BadGzipFile, zlib.error):
            raise DataError(f"{path.name} is not a sound gzip file (after line {number}).", "Copy or fetch it again.") from None


def _check_start(path: Path, start: bytes) -> None:
    if not start.strip():
        raise DataError(f"{path.name} is empty.", "Choose a file with at least one row.")
    if b"\0" in start:
        raise DataError(
            f"{path.name} is not a text file.", "Give a .csv or .jsonl file in UTF-8, or a .parquet file with that ending."
        )


def _first_line(path: Path) -> str:
    return next((line for line in Lines(path) if line.strip()), "")


def _full(chunk: Records, lines: Lines) -> bool:
    if len(chunk.good) + len(chunk.bad) < _CHUNK_RECORDS and lines.characters < _CHUNK_CHARACTERS:
        return False
    lines.characters = 0
    return True


def _json_object(line: str) -> tuple[Any, str | None]:
    try:
        value = json.loads(line, parse_constant=_no_constant)
        if "\\ud" in line.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return None, "holds half of a character (a lone surrogate)"
    except (ValueError, RecursionError) as error:
        return None, str(error) if "JSON" in str(error) else "is not valid JSON"
    return value, None if isinstance(value, dict) else "is not a JSON object"


def _no_constant(name: str) -> float:
    raise ValueError(f"holds {name}, which JSON does not have")


def _csv_records(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """(line number, fields, what is wrong) of each record that is not blank. A quote that never closes spoils its own line only."""
    while True:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for fields in reader:
                first = lines.number + 1
                sound = lines.done()
                if not sound:
                    yield first, [], "is not in UTF-8"
                elif fields and (len(fields) > 1 or fields[0].strip()):
                    yield first, fields, None
            return
        except csv.Error as error:
            said = "opens a quote that never closes" if "unexpected end" in str(error) else "has a quote in the wrong place"
            first = lines.number + 1
            lines.give_back()
            yield first, [], said


def _header(path: Path, fields: list[str], problem: str | None) -> tuple[str, ...]:
    if problem or not all(name.strip() for name in fields):
        what = problem or "has a column without a name"
        raise DataError(f"The header of {path.name} {what}.", "Its first line must name every column.")
    double = next((name for name in fields if fields.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{path.name} has two columns called {double!r}.", "Give every column a name of its own.")
    return tuple(fields)


def _other_kind(value: dict[str, Any], kinds: dict[str, str]) -> str | None:
    """What is wrong where a value is of another kind than its column's first one: no table can hold both. New columns enter `kinds`."""
    for name, item in value.items():
        kind = _kind(item)
        if kind and kinds.setdefault(name, kind) != kind:
            return f"holds {kind} in the column {name!r}, where earlier rows hold {kinds[name]}"
    return None


def _kind(item: Any) -> str | None:
    if item is None:
        return None
    if isinstance(item, bool):
        return "true or false"
    names = ((str, "text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"))
    return next(name for kind, name in names if isinstance(item, kind))
