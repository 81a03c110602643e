"""Finds plugins by name, and imports one only when it is asked for.

Names come from package metadata, so that a slow or broken plugin can neither delay nor break a command that
does not use it. Each plugin is imported in isolation: one that fails is reported with its exception and
stops nothing else. Two plugins of one name are an error that names both distributions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.util
import inspect
import json
import os
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pluggy

from rph import hookspecs
from rph.api import MAX_VARIANTS, BenchmarkSpec, EncoderSpec, ExecutorSpec, RouterSpec, variant_name
from rph.disk import NAME
from rph.distribution import FORMER, OURS, current, upgrade
from rph.errors import RphError, UsageError

Kind = Literal["router", "encoder", "benchmark", "executor"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SPECS: dict[Kind, type[Any]] = {
    "router": RouterSpec,
    "encoder": EncoderSpec,
    "benchmark": BenchmarkSpec,
    "executor": ExecutorSpec,
}
ALL = "all"  # where a name is asked for: every installed one
# What is a plugin's failure, not ours, around code of which other exceptions are not: also `sys.exit`, but never Ctrl-C.
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
    def remedy(self) -> str:
        """What a user can do about a failure of it."""
        if isinstance(self.target, Path):
            return f"repair {self.target}"
        report = f"report it to the authors of {self.distribution}"
        return report if self.distribution == OURS else f"leave it out with RPH_PLUGINS, or {report}"

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
                unusable = f"plugin file {str(path)!r} cannot be used"
                with plugin_errors(unusable, f"repair register_{kind}", UsageError):
                    spec = getattr(module, f"register_{kind}")()
                try:
                    _check_records(kind, spec)
                except (TypeError, ValueError) as error:
                    raise UsageError(unusable, why=str(error), fix=f"repair register_{kind}") from error
                added.append(
                    Source(
                        kind=kind, name=spec.card.name, distribution="local file", version="0", target=path
                    )
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
        except (RphError, KeyboardInterrupt):
            raise
        except BaseException as error:
            needed, fix = _unmet(source, error)
            installed = "" if isinstance(source.target, Path) else "is installed but "
            install = "install what it needs, or " if isinstance(error, ImportError) else ""
            raise RphError(
                f"{source.kind} {source.name!r} {installed}cannot be used",
                why=f"{type(error).__name__}: {error}{needed}",
                fix=fix or install + source.remedy,
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
    _check_records(source.kind, spec)
    if spec.card.name != source.name:
        raise ValueError(
            f"it registers the name {spec.card.name!r}, but its entry point is named {source.full_name!r}"
        )
    if spec.api > hookspecs.API_VERSION:
        raise RphError(
            f"{source.kind} {source.name!r} is written for a newer rph",
            why=f"it states API version {spec.api}, and rph {version(OURS)} has version {hookspecs.API_VERSION}",
            fix=upgrade()
            + ("" if isinstance(source.target, Path) else f", or install an older {source.distribution}"),
        )
    if isinstance(spec, RouterSpec) and (problem := wrong_with_grid(spec.grid)):
        raise ValueError(problem)


def _check_records(kind: Kind, spec: Any) -> None:
    """TypeError or ValueError where the spec or its card does not hold what its fields say, or has no usable name."""
    expected = SPECS[kind]
    if not isinstance(spec, expected):
        raise TypeError(f"register_{kind} returned {type(spec).__name__}, not {expected.__name__}")
    name = getattr(spec.card, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == ALL:
        raise ValueError(
            f"the name on its card is {reprlib.repr(name)}; a name is made of letters, digits, dot, dash and underscore, "
            f"since it becomes part of file names, and is not {ALL!r}"
        )
    if isinstance(spec.api, int) and spec.api > hookspecs.API_VERSION:
        return  # its records may be others; when it is loaded it is refused for that
    hints = get_type_hints(expected)
    for record, its, fields in (
        (spec, "its", hints),
        (spec.card, "its card's", get_type_hints(hints["card"])),
    ):
        for field, hint in fields.items():
            value = getattr(record, field, None)
            if not _fits(value, hint):
                raise TypeError(
                    f"{its} {field} is {reprlib.repr(value)}, not {inspect.formatannotation(hint)}"
                )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a record's field states; a list will do for a tuple."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return isinstance(value, str)  # one that rph does not know harms nothing
    if origin is tuple:
        types = args[:1] * len(value) if isinstance(value, Sequence) and args[-1] is ... else args
        return isinstance(value, (tuple, list)) and len(value) == len(types) and all(map(_fits, value, types))
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, args[0]) and _fits(one, args[1]) for key, one in value.items()
        )
    if origin in (type, Callable):
        return callable(value)
    return isinstance(value, hint)


def wrong_with_grid(grid: Sequence[Any]) -> str:
    """What keeps a router's variants from being trained, stored and told apart; "" where nothing does."""
    if not 1 <= len(grid) <= MAX_VARIANTS:
        return f"its grid has {len(grid)} variants; 1 to {MAX_VARIANTS} are allowed, so that no method gets more tries"
    for variant in grid:
        kind = type(variant)
        if not dataclasses.is_dataclass(kind):
            return f"its grid holds {reprlib.repr(variant)}, which is no instance of a dataclass"
        if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return f"its grid's {kind.__name__} is not frozen: @dataclass(frozen=True)"
        try:
            hash(variant)
            json.dumps(dataclasses.asdict(variant), allow_nan=False)
        except (TypeError, ValueError) as error:
            return (
                f"its variant {reprlib.repr(variant)} cannot be stored ({error}); "
                "fields are finite numbers, texts, booleans, None or tuples of them"
            )
    if len({type(variant) for variant in grid}) > 1:
        return "the variants of its grid are of more than one class"
    if len(set(grid)) < len(grid):
        return "two variants of its grid are equal"
    names = [variant_name(variant) for variant in grid]
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"two variants of its grid are both named {' and '.join(twice)}" if twice else ""


@contextlib.contextmanager
def plugin_errors(what: str, fix: str, kind: type[RphError] = RphError) -> Iterator[None]:
    """Whatever a plugin raises in the block is the plugin's failure, also `sys.exit`, but never Ctrl-C: an
    RphError that says `what` failed and where.
    """
    try:
        yield
    except (RphError, KeyboardInterrupt):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if Path(frame.filename).parent != Path(__file__).parent]
        where = f" ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})" if theirs else ""
        raise kind(what, why=f"{type(error).__name__}: {error}{where}", fix=fix) from error


def _unmet(source: Source, error: BaseException) -> tuple[str, str]:
    """What a plugin that failed lacks, and how to get it, by the metadata of its distribution; two empty texts where unknown.

    It lacks another version of rph, or a module that an extra of the distribution brings. One that requires `rph` by that
    name may lack anything: pip then put another project's files among ours.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    distribution = source.target.dist if isinstance(source.target, EntryPoint) else None
    module = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    misnamed = ""
    for text in (distribution and distribution.requires) or ():
        try:
            required = Requirement(text)
        except InvalidRequirement:
            continue
        name, marker, here = canonicalize_name(required.name), required.marker, version(OURS)
        if marker is None or marker.evaluate({"extra": ""}):
            if name == FORMER:
                misnamed = f"; it requires {FORMER}, which pip takes from another project, and means {OURS}"
            if current(name) == OURS and not required.specifier.contains(here, prereleases=True):
                wanted = str(required.specifier)
                return f"; it needs {OURS}{wanted}, and this is {here}{misnamed}", upgrade(wanted)
        elif distribution and name == canonicalize_name(module.partition(".")[0]):
            for extra in distribution.metadata.get_all("Provides-Extra") or ():
                if marker.evaluate({"extra": extra}):
                    with_extra = f"{source.distribution}[{extra}]"
                    return f"; it comes with the extra {with_extra}", f"pip install '{with_extra}'"
    return misnamed, ""


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
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UsageError(
            f"plugin file {str(path)!r} cannot be used",
            why=f"{type(error).__name__}: {error}",
            fix="repair the file",
        ) from error
    return module


def allow_list(environ: Mapping[str, str] = os.environ) -> frozenset[str] | None:
    """RPH_PLUGINS: unset allows every plugin, empty none but the built-in, else a comma-separated list.

    An entry is a plugin (`router-mine`) or a distribution (`rph-mine`).
    """
    value = environ.get("RPH_PLUGINS")
    return None if value is None else frozenset(part.strip() for part in value.split(",") if part.strip())


def installed() -> Registry:
    """The registry of what is installed beside rph, as RPH_PLUGINS allows."""
    return Registry(entry_points(group="rph"), allow_list())
