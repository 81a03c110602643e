"""What a module reaches: the code, the data and the packages that decide what it computes.

The hash of a module is made of its canonical form (`rph.engine.canonical`), in which every import is filled with the
hash of the module that defines what is imported: so it holds all that the module reaches, and no name and no place.

- Followed as source: rph and its plugins, the distribution of the plugin asked for, editable distributions, and
  modules of no distribution. The standard library counts by name, any other package by its installed version.
- Importing a.b.c runs a and a.b: parents count. `rph` itself does not: its `__init__` holds only re-exports, which are
  followed one by one (`rph.load` is none, it is imported when called; `rph.hookimpl` computes nothing). A module without code counts for nothing.
- What cannot be followed (code found or run by computed names, compiled modules, a package handed on as a whole)
  counts by the bytes of all its top-level package, and by all that the modules of that package reach; a file of no
  distribution, that is no package, by those of the Python files beside it.
- Docstrings are in no form; they count, all of them, where one of the modules (rph's apart) reads docstrings.
- Data of a plugin are the files that are not Python in its distribution, also in packages without code: those that RECORD declares; of an
  editable distribution all but strays, since SOURCES.txt, which setuptools leaves, is as old as the installation (a
  file that was added later would be missed), and others leave nothing; none of a distribution without RECORD. A local
  file declares nothing: there a file that a constant of the code names counts. Data of rph never count.

Nothing is imported here. What was found is kept: the code that was imported is what runs, whatever is edited meanwhile.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from packaging.utils import canonicalize_name

from rph.engine import canonical, installed
from rph.engine.canonical import Form, Import
from rph.engine.installed import ABSENT, OURS, RPH
from rph.errors import RphError

HOOKIMPL = (RPH, "hookimpl")  # it marks a function for the registry: a new hook changes no number
LAZY = "rph.lazy"  # it provides by a computed import exactly what it imports under `if TYPE_CHECKING:`


@dataclass(frozen=True, kw_only=True)
class Reached:
    """All that decides what a module computes."""

    code: str  # hash of its code, of the code that it reaches and of the plugin's data; no name, place or version in it
    modules: dict[str, str]  # every module followed -> its file, "" where it has none; for people and tests
    packages: dict[str, str]  # distribution -> installed version, or ABSENT


def reached(module: ModuleType, *, distribution: Distribution | None) -> Reached:
    """What `module` reaches; `distribution` is the plugin's own, None for a local file or a module of rph.

    Raises RphError for a module that was made otherwise than by loading a file.
    """
    name = module.__name__
    if sys.modules.get(name) is not module or (module.__spec__ is None and not hasattr(module, "__file__")):
        raise RphError(
            f"what module {name!r} computes with cannot be told",
            why="it was not imported from a file",
            fix="write its code into a file, and load that",
        )
    top = installed.top_of(name)
    graph = _graph(None, "") if distribution is None or top in OURS else _graph(distribution, top)
    return graph.reached(name)


@functools.cache
def _form(name: str) -> Form | None:
    """The canonical form of a module; an empty one for a namespace package, None where there is no source to read."""
    place = installed.where(name)
    assert place is not None
    if place.file is None:
        return canonical.read("")
    if place.file.suffix != ".py":
        return None
    package = name.rpartition(".")[0] if place.folders is None else name
    try:
        return canonical.read(place.file.read_bytes(), package)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


# --- the graph --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slot:
    """What fills an import: a text, and the hashes of modules."""

    text: str
    modules: tuple[str, ...] = ()
    packages: tuple[tuple[str, str], ...] = ()  # distribution, version

    def and_of(self, *modules: str) -> _Slot:
        return replace(self, modules=(*self.modules, *modules))


_Part: TypeAlias = "str | _Slot | tuple[tuple[str, _Slot], ...]"  # as those of a Form


@dataclass(frozen=True)
class _Node:
    """A module with its imports resolved."""

    parts: tuple[_Part, ...]
    beside: tuple[_Slot, ...]  # what counts unnamed: its parent, the whole of what cannot be followed

    @property
    def slots(self) -> Iterator[_Slot]:
        for part in self.parts:
            if isinstance(part, _Slot):
                yield part
            elif isinstance(part, tuple):
                yield from (slot for _, slot in part)
        yield from self.beside

    @functools.cached_property
    def edges(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(module for slot in self.slots for module in slot.modules))

    def filled(self, hash_of: Callable[[str], str]) -> str:
        """Its text; "" where it does nothing."""

        def fill(slot: _Slot) -> str:
            return f"<{slot.text}{','.join(map(hash_of, slot.modules))}>"

        def written(part: _Part) -> str:
            if isinstance(part, str):
                return part
            if isinstance(part, _Slot):
                return fill(part)
            # Their order is that of the local names; without one, of what is meant: the order in the text is no matter.
            bound = [(local, fill(slot)) for local, slot in part]
            bound.sort(key=lambda one: (one[0], "" if one[0] else one[1]))
            return "".join(f"{local}={filled};" for local, filled in bound)

        return "".join([*map(written, self.parts), *map(fill, self.beside)])


@functools.cache
def _graph(own: Distribution | None, top: str) -> _Graph:
    return _Graph(own, top)


class _Graph:
    """The modules that are followed for the plugins of one distribution, whose top-level module is `top`."""

    def __init__(self, own: Distribution | None, top: str) -> None:
        self.own, self.top = own, top
        declared = installed.recorded(own) if own and not installed.is_editable(own) else None
        self.own_files = None if declared is None else {path for _, path in declared}
        self.nodes: dict[str, _Node] = {}
        self.hashes: dict[str, str] = {}
        self.found: dict[str, Reached] = {}  # kept with the data as they were: every task asks again

    def reached(self, name: str) -> Reached:
        if name not in self.found:
            self.found[name] = self._reached(name)
        return self.found[name]

    def _reached(self, name: str) -> Reached:
        code = self.hash(name)
        names, todo = {name}, [name]
        while todo:
            new = set(self.node(todo.pop()).edges) - names
            names |= new
            todo += new
        places = {module: installed.where(module) for module in sorted(names)}
        slots = [slot for module in names for slot in self.node(module).slots]
        packages = dict(pair for slot in slots for pair in slot.packages)
        return Reached(
            code=installed.digest(code, self.data(names), self.docs(names)),
            modules={m: str(place.file) if place and place.file else "" for m, place in places.items()},
            packages=installed.with_required(packages),
        )

    def data(self, names: set[str]) -> str:
        """Hash of the data of the plugin's distribution, in packages of these modules and others; "" for none.

        Of a local file: of the files that it and the modules followed with it name, seen from where each lies.
        """
        if self.own is None:
            named: dict[str, Path] = {}
            for module in sorted(names):
                place, form = installed.where(module), _form(module)
                if place and place.file and form and installed.top_of(module) not in OURS:
                    named |= installed.named_files(form.strings, place.file.parent)
            return installed.bytes_of(named) if named else ""
        own = {installed.top_of(name) for name in names if self.is_own(name)}
        tops = sorted(own | installed.tops(self.own))
        files = [*(installed.data_files(top, self.own) for top in tops), installed.loose_files(self.own)]
        return "".join(installed.bytes_of(found) for found in files if found)

    def docs(self, names: set[str]) -> str:
        """Hash of the docstrings of these modules, rph's apart, where one of them reads docstrings; "" where none does."""
        forms = [form for name in names if installed.top_of(name) not in OURS and (form := _form(name))]
        if not any(form.reads_docs for form in forms):
            return ""
        return installed.digest(*sorted(installed.digest(*form.docs) for form in forms if form.docs))

    # --- what is followed ---------------------------------------------------------------------------

    def is_own(self, module: str) -> bool:
        """Whether the plugin's own distribution brings the module. A namespace package it may share with others."""
        if self.own is None:
            return False
        place, top = installed.where(module), installed.where(self.top)
        if place is None or top is None:
            return False
        if installed.top_of(module) == self.top and (top.file is not None or self.own_files is None):
            return True
        return self.own_files is not None and place.file in self.own_files

    def owners(self, module: str) -> tuple[tuple[str, str], ...] | None:
        """The distributions, with versions, that a module counts by; () for the standard library, None: followed."""
        top, parts = installed.top_of(module), module.split(".")
        if top in OURS:
            return None
        places = (installed.where(".".join(parts[:n])) for n in range(1, len(parts) + 1))
        file = next((place.file for place in places if place and place.file), None)
        if installed.in_stdlib(top, file):
            return ()
        if installed.where(top) is None:
            return ((top, ABSENT),)
        if file is None or self.is_own(module):  # a namespace package alone belongs to nobody
            return None
        owners = installed.owners(top, file)
        own = self.own and canonicalize_name(self.own.name)
        if not owners or any(installed.is_editable(o) or canonicalize_name(o.name) == own for o in owners):
            return None
        return tuple((str(canonicalize_name(one.name)), installed.version(one)) for one in owners)

    # --- what an import means -----------------------------------------------------------------------

    def slot(self, module: str, name: str | None, seen: frozenset[tuple[str, str]] = frozenset()) -> _Slot:
        """What `name` of `module` is: the module that defines it, found through re-exports, and its name there."""
        dotted = f"{module}.{name}" if name else module
        if (owners := self.owners(module)) is not None:
            return _Slot(dotted, packages=owners)
        if installed.where(module) is None:
            return _Slot(f"{dotted} {ABSENT}")
        if module == LAZY:
            return self._lazy(name or "")
        if (module, name) == HOOKIMPL:
            return _Slot(dotted)
        form = _form(module)
        exports = form.exports if form else {}
        if module == RPH and name in (None, "*"):
            every = [self.slot(i.module, i.name) for i in exports.values()] if name else []
            return _Slot(RPH, tuple(dict.fromkeys(m for slot in every for m in slot.modules)))
        if name in (None, "*"):
            return _Slot("", (module,))
        assert name
        head, _, rest = name.partition(".")
        if head in exports and (module, head) not in seen:
            target = exports[head]
            within = ".".join(filter(None, (target.name, rest))) or None
            slot = self.slot(target.module, within, seen | {(module, head)})
            # A module that hands on a name of another runs too; of ours it is known that this does nothing.
            return slot if installed.top_of(module) in OURS else slot.and_of(module)
        if installed.where(f"{module}.{head}") is not None:
            slot = self.slot(f"{module}.{head}", rest or None, seen)
            hidden = form is None or head in form.bound  # the package may have something else of this name
            return slot.and_of(module) if hidden else slot
        return _Slot(dotted) if module == RPH else _Slot(f":{name}", (module,))

    def _lazy(self, name: str) -> _Slot:
        """What `rph.lazy` provides: by `np` the package that it imports for type checkers as np, by itself all of them."""
        form, (head, _, rest) = _form(LAZY), name.partition(".")
        provided = form.typing if form else {}
        if head in provided:
            return self.slot(provided[head].module, rest or None).and_of(LAZY)
        packages = [pair for target in provided.values() for pair in self.slot(target.module, None).packages]
        return _Slot(f":{name}" if name else "", (LAZY,), tuple(packages))

    # --- one module ---------------------------------------------------------------------------------

    def node(self, name: str) -> _Node:
        if name not in self.nodes:
            self.nodes[name] = self._node(name)
        return self.nodes[name]

    def _node(self, name: str) -> _Node:
        form = _form(name)
        followed = form is not None and (not form.computed or name == LAZY)
        whole = set() if followed else {installed.top_of(name)}  # packages that count by all of them

        def filled(target: Import, used: tuple[str, ...] = (), passed: bool = True) -> _Slot:
            slot = self.slot(target.module, target.name)
            if package := self._package_of(target, slot):
                if passed or (target.name == "*" and self._names_modules(package)):
                    whole.add(installed.top_of(package))
                slot = slot.and_of(*(m for attribute in used for m in self.slot(package, attribute).modules))
            return slot

        parts: list[_Part] = []
        for part in form.parts if form else ():
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(
                part, Import
            ):  # where it is a package, as of import_module: who knows what is read of it
                parts.append(filled(part))
            else:
                parts.append(tuple((b.local, filled(b.target, b.used, b.passed)) for b in part))
        parent = self._parent(name)
        beside = [_Slot("in ", (parent,))] if parent else []
        return _Node(tuple(parts), (*beside, *map(self._whole, sorted(whole))))

    def _package_of(self, target: Import, slot: _Slot) -> str | None:
        """The package that is imported as a whole, if it is one and followed: its modules are its attributes."""
        if slot.text == RPH:
            return RPH if target.name is None else None
        place = installed.where(slot.modules[0]) if slot.modules and not slot.text else None
        return slot.modules[0] if place and place.folders is not None else None

    def _names_modules(self, package: str) -> bool:
        """Whether `from package import *` may import modules of it: those that its `__all__` names."""
        form = _form(package)
        return package != RPH and (form is None or "__all__" in form.bound)

    def _parent(self, name: str) -> str | None:
        """The nearest package above that has code: importing the module runs it, and it names the next."""
        while name := name.rpartition(".")[0]:
            form = _form(name) if installed.where(name) else None
            if name != RPH and installed.where(name) and (form is None or form.parts):
                return name
        return None

    def _whole(self, top: str) -> _Slot:
        """The bytes of a top-level package, and all that its modules reach."""
        files = installed.package_files(top, self.own)
        paths = [Path(name).with_suffix("") for name in files if name.endswith(".py")]
        names = [".".join((top, *path.parts)).removesuffix(".__init__") for path in paths]
        modules = tuple(name for name in names if name != RPH and installed.where(name))
        return _Slot(f"all of {installed.bytes_of(files)} ", modules)

    # --- hashes -------------------------------------------------------------------------------------

    def hash(self, name: str) -> str:
        """The hash of a module and of all that it reaches (Tarjan 1972: circles of imports are found on the way)."""
        number: dict[str, int] = {}
        open_: list[str] = []  # visited, their circle not yet known

        def visit(name: str) -> int:
            number[name] = lowest = len(number)
            open_.append(name)
            for edge in self.node(name).edges:
                if edge not in number and edge not in self.hashes:
                    lowest = min(lowest, visit(edge))
                elif edge not in self.hashes:
                    lowest = min(lowest, number[edge])
            if lowest == number[name]:
                start = open_.index(name)
                self.hashes.update(self._hashes(open_[start:]))
                del open_[start:]
            return lowest

        if name not in self.hashes:
            visit(name)
        return self.hashes[name]

    def _hashes(self, circle: list[str]) -> dict[str, str]:
        """The hashes of modules that all reach each other; most often it is one.

        In each round a module is told from another by its text with the hashes of the round before, until no more
        can be told apart: the order in which they were found and their names have no part in it.
        """
        now = dict.fromkeys(circle, "")
        if len(circle) == 1 and circle[0] not in self.node(circle[0]).edges:
            text = self.node(circle[0]).filled(self.hashes.__getitem__)
            return {circle[0]: installed.digest(text) if text else ""}
        kinds = 0
        while kinds != len(set(now.values())) or kinds == 0:
            kinds = len(set(now.values()))
            before = {**self.hashes, **now}
            now = {m: installed.digest(now[m], self.node(m).filled(before.__getitem__)) for m in circle}
        every = sorted(now.values())
        return {module: installed.digest(now[module], *every) for module in circle}
