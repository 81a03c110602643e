"""Finds plugins by name, and imports one only when it is asked for.

Names come from package metadata, so that a slow or broken plugin can neither delay nor break a command that
does not use it. Each plugin is imported in isolation: one that fails is reported with its exception and
stops nothing else. Two plugins of one name are an error that names both distributions.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import pluggy

from rph import hookspecs
from rph.api import MAX_VARIANTS, BenchmarkSpec, EncoderSpec, ExecutorSpec, RouterSpec
from rph.disk import sha256_file
from rph.errors import RphError, UsageError

Kind = Literal["router", "encoder", "benchmark", "executor"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SPECS: dict[Kind, type[Any]] = {
    "router": RouterSpec,
    "encoder": EncoderSpec,
    "benchmark": BenchmarkSpec,
    "executor": ExecutorSpec,
}
OURS = "rph"  # the distribution whose plugins no allow-list can turn off
# Whatever a plugin raises is the plugin's failure, not ours: also `sys.exit`, but never Ctrl-C.
FAILURES = (Exception, SystemExit)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a plugin of a known kind and name comes from; nothing is imported yet."""

    kind: Kind
    name: str
    distribution: str  # "local file" for --plugin
    version: str
    target: EntryPoint | Path

    @property
    def full_name(self) -> str:
        return f"{self.kind}-{self.name}"

    @property
    def origin(self) -> str:
        """Who provides it: a distribution and its version, or a file."""
        what = self.target if isinstance(self.target, Path) else self.version
        return f"{self.distribution} {what}"


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """An imported plugin and what it registered."""

    source: Source
    spec: Any  # RouterSpec, EncoderSpec, BenchmarkSpec or ExecutorSpec
    module: ModuleType

    @property
    def name(self) -> str:
        return self.source.name

    @cached_property
    def code(self) -> str:
        """sha256 over the plugin's own files: an edited plugin is another plugin to the run store.

        A third party's plugin is all of the package its module lies in; one of ours is a single file.
        """
        module = self.module if self.source.distribution == OURS else _outermost(self.module)
        file = Path(str(module.__file__))
        files = [file]
        if hasattr(module, "__path__"):
            files = [f for f in file.parent.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        named = sorted((f.relative_to(file.parent).as_posix(), sha256_file(f)) for f in files)
        return hashlib.sha256(repr(named).encode()).hexdigest()


class Registry:
    """All plugins that this process may use.

    `allow` are the third-party plugins or distributions that may be imported; None allows all. Built-in
    plugins are always allowed.
    """

    def __init__(self, points: Iterable[EntryPoint], allow: frozenset[str] | None = None) -> None:
        self.manager = pluggy.PluginManager("rph")
        self.manager.add_hookspecs(hookspecs)
        self._loaded: dict[tuple[Kind, str], Plugin] = {}
        self._sources: dict[tuple[Kind, str], list[Source]] = {}
        self._switched_off: dict[tuple[str, str], str] = {}  # by the allow-list -> distribution
        for point in points:
            kind, _, name = point.name.partition("-")
            distribution = point.dist.name if point.dist else "an unknown distribution"
            if kind not in KINDS or not name:
                continue  # a kind that a later version of rph may know
            if not _allowed(point.name, distribution, allow):
                self._switched_off[kind, name] = distribution
                continue
            version = point.dist.version if point.dist else "?"
            self._add(Source(kind=kind, name=name, distribution=distribution, version=version, target=point))

    def _add(self, source: Source) -> None:
        rivals = self._sources.setdefault((source.kind, source.name), [])
        if source not in rivals:
            rivals.append(source)

    def add_file(self, path: Path) -> list[Source]:
        """Make a local Python file a plugin: every hook it implements registers the name its spec gives."""
        path = path.resolve()
        if not path.is_file():
            raise UsageError(
                f"plugin file {str(path)!r} {'is a folder' if path.is_dir() else 'does not exist'}",
                fix="give --plugin the path of a Python file",
            )
        module = _import_file(path)
        added = []
        for kind in KINDS:
            if hasattr(module, f"register_{kind}"):
                try:
                    name = getattr(module, f"register_{kind}")().card.name
                except FAILURES as error:
                    raise UsageError(
                        f"plugin file {str(path)!r} cannot be used",
                        why=f"register_{kind} raised {type(error).__name__}: {error}",
                        fix="return a spec whose card has a name",
                    ) from error
                added.append(
                    Source(kind=kind, name=name, distribution="local file", version="0", target=path)
                )
        if not added:
            raise UsageError(
                f"plugin file {str(path)!r} registers nothing",
                why="it has none of the functions " + ", ".join(f"register_{kind}" for kind in KINDS),
                fix="decorate one with @rph.hookimpl and return a spec",
            )
        for source in added:
            self._add(source)
        return added

    def names(self, kind: Kind) -> list[str]:
        """Installed names of a kind, sorted; nothing is imported."""
        return sorted(name for of_kind, name in self._sources if of_kind == kind)

    def sources(self) -> Iterator[Source]:
        """Every plugin found, by kind and name; rivals for one name stand side by side."""
        for key in sorted(self._sources, key=lambda key: (KINDS.index(key[0]), key[1])):
            yield from self._sources[key]

    def load(self, kind: Kind, name: str) -> Plugin:
        """Import one plugin, by its name or an alias on its card.

        Raises UsageError for an unknown or ambiguous name, RphError for a plugin that is broken.
        """
        if (kind, name) not in self._sources:
            name = self._behind_alias(kind, name)
        if (kind, name) not in self._loaded:
            source, *rivals = self._sources[kind, name]
            if rivals:
                by = " and by ".join(s.origin for s in (source, *rivals))
                local = any(isinstance(s.target, Path) for s in rivals)
                raise UsageError(
                    f"{kind} {name!r} is provided {len(rivals) + 1} times: by {by}",
                    why="a result must name one implementation",
                    fix="give the one in your file another name"
                    if local
                    else "uninstall one of them, or leave it out of RPH_PLUGINS",
                )
            self._loaded[kind, name] = self._import(source)
        return self._loaded[kind, name]

    def try_load(self, source: Source) -> Plugin | RphError:
        """The plugin, or why it cannot be used: for listings, which one failure must not stop."""
        try:
            return self.load(source.kind, source.name)
        except RphError as error:
            return error

    def require_all(self) -> None:
        """Strict mode: raise if any installed plugin cannot be used."""
        one_of_each = [rivals[0] for rivals in self._sources.values()]
        failures = [error for s in one_of_each if isinstance(error := self.try_load(s), RphError)]
        if failures:
            raise RphError(
                f"{len(failures)} installed plugin(s) cannot be used, and --strict-plugins is on",
                why="; ".join(f"{error.what} ({error.why})" for error in failures),
                fix="`rph plugins` shows each; repair or uninstall it",
            )

    def _behind_alias(self, kind: Kind, name: str) -> str:
        names = self.names(kind)
        plugins = [self.try_load(self._sources[kind, known][0]) for known in names]
        owners = [p for p in plugins if isinstance(p, Plugin) and name in p.spec.card.aliases]
        if len(owners) > 1:
            raise UsageError(
                f"{kind} {name!r} is an alias of {len(owners)} plugins: "
                + " and ".join(f"{p.name!r} of {p.source.origin}" for p in owners),
                why="a result must name one implementation",
                fix=f"use the name {' or '.join(repr(p.name) for p in owners)}",
            )
        if owners:
            return owners[0].name
        if (kind, name) in self._switched_off:
            raise UsageError(
                f"{kind} {name!r} is switched off",
                why=f"it is installed, by {self._switched_off[kind, name]}, but RPH_PLUGINS does not list it",
                fix=f"add {kind}-{name} to RPH_PLUGINS, or unset it",
            )
        close = difflib.get_close_matches(name, names, n=3)
        raise UsageError(
            f"{kind} {name!r} is not installed",
            why=f"did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"installed: {', '.join(names) or 'none'}",
            fix=f"`rph list {kind}s` names them all",
        )

    def _import(self, source: Source) -> Plugin:
        try:
            target = source.target
            module = _import_file(target) if isinstance(target, Path) else target.load()
            spec = self._spec_of(source, module)
            _check_spec(source, spec)
        except RphError:
            raise
        except FAILURES as error:
            needed, fix = _unmet(source, error)
            raise RphError(
                f"{source.kind} {source.name!r} is installed but cannot be used",
                why=f"{type(error).__name__}: {error}{needed}",
                fix=fix or f"install what it needs, or report it to the authors of {source.distribution}",
            ) from error
        return Plugin(source=source, spec=spec, module=module)

    def _spec_of(self, source: Source, module: ModuleType) -> Any:
        if not isinstance(module, ModuleType):
            raise TypeError(f"its entry point names a {type(module).__name__}, not a module")
        # One module may hold several kinds; pluggy wants each registered plugin object once.
        if not self.manager.is_registered(module):
            try:
                self.manager.register(module, name=source.full_name)
                self.manager.check_pending()
            except pluggy.PluginValidationError:
                self.manager.unregister(name=source.full_name)  # or it would fail all that load later
                raise
        caller = getattr(self.manager.hook, f"register_{source.kind}")
        for implementation in caller.get_hookimpls():
            if implementation.plugin is module:
                return implementation.function()
        raise TypeError(f"module {module.__name__} has no @rph.hookimpl function register_{source.kind}")


def _check_spec(source: Source, spec: Any) -> None:
    expected = SPECS[source.kind]
    if not isinstance(spec, expected):
        raise TypeError(f"register_{source.kind} returned {type(spec).__name__}, not {expected.__name__}")
    if spec.card.name != source.name:
        raise ValueError(
            f"it registers the name {spec.card.name!r}, but its entry point is named {source.full_name!r}"
        )
    if spec.api > hookspecs.API_VERSION:
        raise RphError(
            f"{source.kind} {source.name!r} is written for a newer rph",
            why=f"it states API version {spec.api}, and rph {version(OURS)} has version {hookspecs.API_VERSION}",
            fix=f"pip install --upgrade rph, or install an older {source.distribution}",
        )
    if isinstance(spec, RouterSpec) and not 1 <= len(spec.grid) <= MAX_VARIANTS:
        raise ValueError(
            f"its grid has {len(spec.grid)} variants; 1 to {MAX_VARIANTS} are allowed, so that no method gets more tries"
        )


def _unmet(source: Source, error: BaseException) -> tuple[str, str]:
    """What a plugin that failed lacks, and how to get it, by the metadata of its distribution; two empty texts where unknown.

    It lacks another version of rph, or a module that an extra of the distribution brings.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    distribution = source.target.dist if isinstance(source.target, EntryPoint) else None
    module = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    for text in (distribution and distribution.requires) or ():
        try:
            required = Requirement(text)
        except InvalidRequirement:
            continue
        name, marker, here = canonicalize_name(required.name), required.marker, version(OURS)
        if marker is None or marker.evaluate({"extra": ""}):
            if name == OURS and not required.specifier.contains(here, prereleases=True):
                wanted = f"{OURS}{required.specifier}"
                return f"; it needs {wanted}, and this is {here}", f"pip install --upgrade '{wanted}'"
        elif distribution and name == canonicalize_name(module.partition(".")[0]):
            for extra in distribution.metadata.get_all("Provides-Extra") or ():
                if marker.evaluate({"extra": extra}):
                    with_extra = f"{source.distribution}[{extra}]"
                    return f"; it comes with the extra {with_extra}", f"pip install '{with_extra}'"
    return "", ""


def _allowed(point: str, distribution: str, allow: frozenset[str] | None) -> bool:
    return allow is None or distribution == OURS or point in allow or distribution in allow


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name made from its path, once per process."""
    name = f"rph_local_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin file {str(path)!r} cannot be imported", why="its name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]  # also after Ctrl-C: a half-run module must not be found there
        if not isinstance(error, FAILURES):
            raise
        raise UsageError(
            f"plugin file {str(path)!r} cannot be used",
            why=f"{type(error).__name__}: {error}",
            fix="repair the file",
        ) from error
    return module


def _outermost(module: ModuleType) -> ModuleType:
    """The outermost package that `module` lies in, or `module` itself; a namespace package has no files of its own."""
    parts = module.__name__.split(".")
    parents = (sys.modules[".".join(parts[:n])] for n in range(1, len(parts)))
    return next((parent for parent in parents if getattr(parent, "__file__", None)), module)


def allow_list(environ: Mapping[str, str] = os.environ) -> frozenset[str] | None:
    """RPH_PLUGINS: unset allows every plugin, empty none but the built-in, else a comma-separated list.

    An entry is a plugin (`router-mine`) or a distribution (`rph-mine`).
    """
    value = environ.get("RPH_PLUGINS")
    return None if value is None else frozenset(part.strip() for part in value.split(",") if part.strip())


def installed() -> Registry:
    """The registry of what is installed beside rph, as RPH_PLUGINS allows."""
    return Registry(entry_points(group="rph"), allow_list())
