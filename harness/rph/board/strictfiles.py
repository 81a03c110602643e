"""Two result files from a stranger, measured before they are opened: nothing in them is followed, unpacked or run.

`read` gives the entry, or every reason why there is none. What the numbers say is judged elsewhere (submissions.py).
"""

from __future__ import annotations

import json
import math
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from rph.errors import UsageError
from rph.results import blocks, files
from rph.results.cell import CellResult

JSON_BYTES = 2 << 20
NPZ_BYTES = 20 << 20
UNPACKED_BYTES = 256 << 20  # five seeds of over six million queries
CELLS = 50_000_000  # of queries x models, for which room is made
NAME_LENGTH = 100
TEXT_LENGTH = 2000
DEPTH = 20  # of lists and objects in one another
BLOCKS, ARRAYS = 40, 200  # in one result, and in one npz
LARGEST = 2.0**53  # of any number: sums of such numbers are still numbers
SHOWN = 10  # problems of one kind that are listed; the rest are counted

Refuse = Callable[[str, Path, str], None]  # rule, file, what is wrong


def read(path: Path, refuse: Refuse) -> files.Entry | None:
    """The result whose JSON is `path`, or None after `refuse` was told each reason."""
    told: list[str] = []

    def refused(rule: str, file: Path, what: str) -> None:
        told.append(rule)
        refuse(rule, file, what)

    queries = files.queries_path(path)
    _plain(path, JSON_BYTES, refused)
    _plain(queries, NPZ_BYTES, refused)
    if told:
        return None
    result = _result(path, refused)
    if result is None:
        return None
    _names(path, result, refused)
    if result.n_test * len(result.models) > CELLS:
        refused("size", path, f"{result.n_test:,} queries x {len(result.models):,} models are too many")
    if len(result.blocks) > BLOCKS:
        refused("size", path, f"it holds {len(result.blocks):,} blocks; at most {BLOCKS} are read")
    _arrays(queries, result, refused)
    if told:
        return None
    try:
        return files.read(path)
    except UsageError as error:
        refuse("arrays", queries, error.why)
        return None


def _plain(path: Path, limit: int, refuse: Refuse) -> None:
    """A file of its own, in folders of their own, and no larger than the limit."""
    for part in (path, *list(path.parents)[:2]):  # <bench>/<router>/<file>: what a submission may bring
        if part.is_symlink():
            refuse("plain", part, "it is a symbolic link")
            return
    try:
        found = path.lstat()
    except OSError as error:
        refuse("plain", path, f"it cannot be read: {error.strerror}")
        return
    if not stat.S_ISREG(found.st_mode):
        refuse("plain", path, "it is not a plain file")
    elif found.st_size > limit:
        refuse("size", path, f"it has {found.st_size:,} bytes; at most {limit:,} are read")


# --- the JSON ---------------------------------------------------------------------------------------


def _result(path: Path, refuse: Refuse) -> CellResult | None:
    data = path.read_bytes()
    try:
        parsed = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=lambda text: _bounded(float(text), text),
            parse_int=lambda text: _bounded(int(text), text),
        )
    except (ValueError, RecursionError) as error:  # what cannot be decoded is a ValueError too
        refuse("json", path, str(error) or "it is nested too deeply")
        return None
    problems = list(_unfit(parsed))
    try:
        result = CellResult.model_validate_json(data, strict=True)
        problems += blocks.problems(result)
    except ValidationError as error:
        for found in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in found["loc"]) or "the file"
            problems.append(f"{where}: {found['msg']}")
    for what in problems[:SHOWN]:
        refuse("schema", path, what)
    if len(problems) > SHOWN:
        refuse("schema", path, f"and {len(problems) - SHOWN} more")
    return None if problems else result


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} stands twice")
        found[key] = value
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number; what is not known is null")


def _bounded(value: float, text: str) -> float:
    if not abs(value) <= LARGEST:
        raise ValueError(f"the number {text[:30]} is too large")
    return value


def _unfit(value: Any, depth: int = 0) -> Iterator[str]:
    """Texts that could deceive a reader or a terminal, or fill a page. Marks of markup are left to whoever prints."""
    if depth > DEPTH:
        yield f"something is nested more than {DEPTH} levels deep"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _unfit(key, depth)
            yield from _unfit(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _unfit(inner, depth + 1)
    elif isinstance(value, str):
        if not value.isprintable():
            yield f"the text {value[:60]!r} holds control characters"
        if len(value) > TEXT_LENGTH:
            yield f"the text {value[:60]!r}... has {len(value):,} characters; at most {TEXT_LENGTH:,} are read"


def _names(path: Path, result: CellResult, refuse: Refuse) -> None:
    """Names that can be files and links, and the place that follows from them."""
    names = {"bench": result.bench, "router": result.router, "encoder": result.encoder}
    bad = False
    for field, name in names.items():
        if not files.NAME.fullmatch(name) or len(name) > NAME_LENGTH:
            bad = True
            refuse("name", path, f"{field} is {name!r}")
    for model in result.models:
        if not model or len(model) > NAME_LENGTH or set(model) & set("<>&\"'`|\\"):
            refuse("name", path, f"a model is named {model!r}")
    place = Path(result.bench, result.router, f"{result.encoder}.json")
    if not bad and path.absolute().parts[-3:] != place.parts:
        refuse("place", path, f"its content belongs at {place}")


# --- the arrays -------------------------------------------------------------------------------------


def _arrays(path: Path, result: CellResult, refuse: Refuse) -> None:
    """The headers of the zip, then those of each array: what they announce is what is unpacked afterwards."""
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            names = [member.filename for member in members]
            unpacked = sum(member.file_size for member in members)
            odd = [name for name in names if not name.endswith(".npy")]
            stems = {name.removesuffix(".npy") for name in names} - set(odd)
            odd += [f"{stem}.npy" for stem in files.misnamed(result, stems)]
            if len(members) > ARRAYS:
                refuse("size", path, f"it holds {len(members):,} arrays; at most {ARRAYS} are read")
            elif odd or len(set(names)) < len(names):
                what = odd[:SHOWN] or "one stands twice"
                refuse("arrays", path, f"it must hold the arrays of the core and of its blocks, once: {what}")
            elif unpacked > UNPACKED_BYTES:
                refuse("size", path, f"it unpacks to {unpacked:,} bytes; at most {UNPACKED_BYTES:,} are read")
            else:
                for member in members:
                    _array(path, packed, member, result, refuse)
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        refuse("arrays", path, f"it is no readable npz file: {error}")


def _array(
    path: Path, packed: zipfile.ZipFile, member: zipfile.ZipInfo, result: CellResult, refuse: Refuse
) -> None:
    """One array's announced type, shape and size; numpy would make room for whatever is announced."""
    name = member.filename.removesuffix(".npy")
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refuse("arrays", path, f"{name} is encrypted, or packed in another way than deflate")
        return
    with packed.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name} has the array format {version}, not (1, 0)")
        try:
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except Exception as error:  # numpy's parser can fail on a hostile header in more ways than it names
            raise ValueError(f"the header of {name} cannot be read ({type(error).__name__})") from error
        header = file.tell()
    if dtype.hasobject:
        refuse("arrays", path, f"{name} holds pickled objects")
    elif why := files.misfit(result, name, (dtype, shape)):
        refuse("arrays", path, why)
    elif fortran or not all(type(one) is int and 0 <= one <= UNPACKED_BYTES for one in shape):  # True == 1
        refuse("arrays", path, f"{name} is {dtype} {shape}, in an order or of a shape that is not read")
    elif member.file_size != header + math.prod(shape) * dtype.itemsize:
        refuse("size", path, f"{name} is packed as {member.file_size:,} bytes, which {dtype} {shape} is not")
