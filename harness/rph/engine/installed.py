"""Where modules lie, which distribution each was installed by, and which files are a package's.

Nothing is imported here. What was found is kept: what was installed when a process began is what runs in it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import metadata
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

RPH = "rph"
OURS = frozenset({RPH, "rph_plugins"})
ABSENT = "absent"  # the version of what is imported and not installed: installing it is a change
# Packages that compute: they count also where only another package that counts requires them.
COMPUTE = frozenset(
    {
        "numpy", "scipy", "scikit-learn", "pandas", "numba", "torch", "transformers", "tokenizers", "jax", "jaxlib",
        "xgboost", "xgboost-cpu", "lightgbm", "catboost",
    }
)  # fmt: skip
# Packages that no number comes from: they find, check, lock, fetch and print. Their versions change nothing.
PLUMBING = frozenset(
    {"filelock", "huggingface-hub", "packaging", "pluggy", "pydantic", "pyyaml", "rich", "typer"}
)
# Names of files and folders that a machine, an editor or a run leaves behind; hidden ones are never part of a package.
STRAYS = (".*", "__pycache__", "*.pyc", "*.pyo", "*~", "*.bak", "*.orig", "*.rej", "*.tmp", "*.log")
NOT_DATA = (".py", ".pyc", ".pyi")
STDLIB = {Path(os.__file__).parent, *(Path(sysconfig.get_path(path)) for path in ("stdlib", "platstdlib"))}
SITES = frozenset({"site-packages", "dist-packages"})


# --- where modules lie ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    file: Path | None  # None: built into Python, or a namespace package
    folders: tuple[str, ...] | None  # where the modules of a package lie; None: no package


def top_of(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def where(name: str) -> Place | None:
    """Where a module lies, found as an import would find it, without running its parents; None: nowhere."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is None:
        parent = name.rpartition(".")[0]
        above = where(parent) if parent else None
        if parent and (above is None or above.folders is None):
            return None
        finders = [finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec")]
        specs = (find(name, above.folders if above else None) for find in finders)
        spec = next((found for found in specs if found is not None), None)
        if spec is None:
            return None
    file = getattr(module, "__file__", None) or (spec.origin if spec and spec.has_location else None)
    folders = getattr(module, "__path__", None) or (spec.submodule_search_locations if spec else None)
    return Place(Path(file) if file else None, None if folders is None else tuple(folders))


def in_stdlib(top: str, file: Path | None) -> bool:
    """Whether it is the standard library's; a file of the same name that stands before it on the path is not."""
    return top in sys.stdlib_module_names and (
        file is None or (any(file.is_relative_to(lib) for lib in STDLIB) and not SITES & set(file.parts))
    )


# --- distributions ----------------------------------------------------------------------------------


@functools.cache
def _distribution(name: str) -> Distribution | None:
    try:
        return metadata.distribution(name)
    except (PackageNotFoundError, ValueError):
        return None


def recorded(distribution: Distribution) -> list[tuple[tuple[str, ...], Path]] | None:
    """The files that RECORD declares: parts of the name there, and path; None where there is no RECORD."""
    if distribution.read_text("RECORD") is None:
        return None
    return [(file.parts, Path(str(file.locate()))) for file in distribution.files or ()]


@functools.cache
def is_editable(distribution: Distribution) -> bool:
    """Whether its code is where its authors edit it: by PEP 610, or an egg-info that lies in a folder of sources."""
    if distribution.read_text("METADATA") is None:
        return not SITES & set(Path(str(distribution.locate_file(""))).parts)
    stated = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(stated.get("dir_info", {}).get("editable"))


@functools.cache
def version(distribution: Distribution) -> str:
    """Its version. What came from a folder, a repository or a file, and not from an index (PEP 610), may be installed
    again with other code under the same version: the hash of what RECORD says of its files stands behind it.
    """
    record = distribution.read_text("RECORD")
    if record is None or distribution.read_text("direct_url.json") is None:
        return distribution.version
    hashed = [line for line in record.splitlines() if "sha256=" in line and ".dist-info/" not in line]
    files = sorted(line for line in hashed if not line.startswith(".."))  # scripts name their environment
    return f"{distribution.version} {digest(*files)[:12]}"


def tops(distribution: Distribution) -> set[str]:
    """The top-level packages of a distribution, as far as its metadata name them, and others that only hold data."""
    found = set((distribution.read_text("top_level.txt") or "").split())
    if not is_editable(distribution):
        found |= {parts[0] for parts, _ in recorded(distribution) or () if parts[1:]}
    return {top for top in found if top.isidentifier()}


@functools.cache
def owners(top: str, file: Path) -> tuple[Distribution, ...]:
    """The distributions that a file of the top-level module `top` was installed by; () for none."""
    named = _distribution(top)
    if named and file.is_relative_to(str(named.locate_file(""))):
        return (named,)
    # What a distribution installs lies beside its metadata. Not packages_distributions: it reads those of every site.
    site = next((folder for folder in file.parents if folder.name == top), file).parent
    found = [one for one in metadata.distributions(path=[str(site)]) if _brings(one, top)]
    if len(found) > 1:  # parts of a namespace package
        found = [one for one in found if any(path == file for _, path in recorded(one) or ())] or found
    return tuple(found)


def _brings(distribution: Distribution, top: str) -> bool:
    """Whether its metadata name a top-level module."""
    record = "\n" + (distribution.read_text("RECORD") or "")
    tops = (distribution.read_text("top_level.txt") or "").split()
    return top in tops or f"\n{top}/" in record or f"\n{top}." in record


@functools.cache
def _requires(name: str) -> frozenset[str]:
    distribution, names = _distribution(name), set()
    for text in (distribution and distribution.requires) or ():
        try:
            required = Requirement(text)
        except InvalidRequirement:
            continue
        if required.marker is None or required.marker.evaluate({"extra": ""}):
            names.add(str(canonicalize_name(required.name)))
    return frozenset(names)


def with_required(packages: dict[str, str]) -> dict[str, str]:
    """The packages that count, and the packages that compute which these require, in alphabetical order."""
    counted, seen = {name: v for name, v in packages.items() if name not in PLUMBING}, set(PLUMBING)
    todo = list(counted)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        todo += _requires(name)
        if name in COMPUTE and (installed := _distribution(name)) is not None:
            counted.setdefault(name, version(installed))
    return dict(sorted(counted.items()))


# --- files ------------------------------------------------------------------------------------------


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def bytes_of(files: dict[str, Path]) -> str:
    """Hash of files under the names they are found by."""
    return digest(
        *(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in sorted(files.items()))
    )


def _walked(folder: Path) -> Iterator[Path]:
    """Every file below a folder but strays."""
    for path in sorted(folder.iterdir()):
        if not any(fnmatch(path.name, stray) for stray in STRAYS):
            if path.is_dir():
                yield from _walked(path)
            elif path.is_file():
                yield path


def package_files(top: str, distribution: Distribution | None) -> dict[str, Path]:
    """The files of a top-level package by their names in it: those that the distribution's RECORD declares, else all
    but strays. A module that is no package is one file.
    """
    place = where(top)
    assert place is not None
    if place.folders is None and place.file is not None:
        # A module of an archive lies in no file of its own.
        own = {"": next(path for path in (place.file, *place.file.parents) if path.is_file())}
        if distribution is not None or SITES & set(own[""].parts) or top in OURS:
            return own
        return own | {p.name: p for p in own[""].parent.glob("[!.]*.py") if p != own[""] and p.is_file()}
    declared = (recorded(distribution) if distribution and not is_editable(distribution) else None) or []
    inside = {"/".join(parts[1:]): path for parts, path in declared if parts[0] == top and parts[1:]}
    if inside:
        return {name: path for name, path in inside.items() if path.suffix != ".pyc" and path.is_file()}
    return {
        path.relative_to(folder).as_posix(): path
        for folder in map(Path, place.folders or ())
        for path in _walked(folder)
        if top not in OURS or path.suffix == ".py"
    }


def data_files(top: str, distribution: Distribution) -> dict[str, Path]:
    """The files of a package that are not Python, by their names in it; none where nothing declares any."""
    if recorded(distribution) is None and not is_editable(distribution):
        return {}
    place = where(top)
    if place is None or place.folders is None:
        return {}
    return _data(package_files(top, distribution))


def loose_files(distribution: Distribution) -> dict[str, Path]:
    """The files that RECORD declares beside the packages and that are not Python: data of a plugin of one module."""
    declared = [] if is_editable(distribution) else recorded(distribution) or []
    loose = {parts[0]: path for parts, path in declared if not parts[1:]}
    return _data({name: path for name, path in loose.items() if path.suffix != ".pth" and path.is_file()})


def named_files(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The files below a folder among the names that some code holds, where they are relative ones."""
    fit = {name for name in names if name.isprintable() and ".." not in name and not Path(name).is_absolute()}
    return {name: folder / name for name in sorted(fit) if (folder / name).is_file()}


def _data(files: dict[str, Path]) -> dict[str, Path]:
    return {
        name: path for name, path in files.items() if path.suffix not in NOT_DATA and path.name != "py.typed"
    }
