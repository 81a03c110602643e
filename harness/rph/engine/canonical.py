"""Source text -> canonical form: what the text computes, without what nobody computes with.

Two texts of one form do the same. The form is made of the syntax tree alone, by rules that no version of Python
changes: comments, formatting, docstrings, other bare strings, `pass` and what stands under `if TYPE_CHECKING:` are
gone. What comes from another module is a slot that says what is meant; `rph.engine.reach` fills it with the hash of
the code behind it, so that the form says what is used and not where it lies. Nothing is imported or looked up here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeAlias

UNSAID = frozenset({"ctx", "kind", "type_comment"})  # fields that say how a thing is written
# A call of one of these with a constant is an import like any other.
IMPORTERS = frozenset({"import_module", "__import__", "find_spec"})
# Names by which code is found, made or run that no import statement shows; as a name, an attribute or a whole string.
COMPUTING = IMPORTERS | {
    "SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader", "spec_from_file_location", "spec_from_loader",
    "module_from_spec", "exec_module", "load_module", "run_path", "run_module", "entry_points", "meta_path",
    "path_hooks", "__path__", "__builtins__", "__loader__", "runpy", "zipimport", "pkgutil", "builtins", "pydoc",
    "pickle", "cloudpickle", "dill", "subprocess", "Popen", "popen", "posix_spawn", "create_subprocess_exec",
    "create_subprocess_shell",
}  # fmt: skip
RUNNING = frozenset({"exec", "eval"})  # as names only: `model.eval()` is another thing
DOCS = frozenset({"__doc__", "getdoc"})  # where one is named, docstrings may decide something
TYPING = ("typing", "typing_extensions")
LONGEST_NAME = 200  # of a file; file systems end at 255 bytes
IMPORT = (ast.Import, ast.ImportFrom)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Import:
    """Something of another module."""

    module: str  # its full name
    name: str | None = None  # what is taken from it, dotted; "*": all that it has; None: the module itself
    inside: bool = False  # in a function: it runs when that is called


@dataclass(frozen=True)
class Binding:
    """A local name that an import statement binds, and what becomes of it."""

    local: str  # "" where every use of the name is a slot of its own
    target: Import
    used: tuple[str, ...] = ()  # the attributes, dotted, that are read of it
    passed: bool = False  # it is also used as a whole: handed on, or read with getattr


Part: TypeAlias = "str | Import | tuple[Binding, ...]"  # a tuple: import statements that stand together


@dataclass(frozen=True)
class Form:
    """The canonical form of one module."""

    parts: tuple[Part, ...]  # () where the text does nothing
    exports: Mapping[str, Import]  # names of the module that are nothing but imports
    bound: frozenset[str]  # names that are bound otherwise, in any scope
    typing: Mapping[str, Import]  # what is imported for type checkers only
    computed: bool  # it finds or runs code that the text does not name
    docs: tuple[str, ...] = ()  # its docstrings, which are in no part
    reads_docs: bool = False  # it reads docstrings, its own or those of what it imports
    strings: frozenset[str] = frozenset()  # those of its constants that could name a file

    @property
    def imports(self) -> tuple[Import, ...]:
        """All that it takes from other modules, in the order of the form."""
        found: list[Import] = []
        for part in self.parts:
            if isinstance(part, tuple):
                found.extend(binding.target for binding in part)
            elif isinstance(part, Import):
                found.append(part)
        return tuple(found)


def read(source: str | bytes, package: str = "") -> Form:
    """The form of a module's source; `package` is its `__package__`, which relative imports start from.

    Raises SyntaxError, ValueError or RecursionError for what this Python cannot read.
    """
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    docs = tuple(ascii(doc) for node in nodes if isinstance(node, DOCUMENTED) for doc in _docstring(node))
    reads_docs = any(_mentions(node, DOCS) for node in nodes)
    for_types = dict(map(_bound_by, _bindings(_prune(nodes), package)))
    form = _Writer(tree, package).form(for_types)
    return replace(form, docs=docs, reads_docs=reads_docs, strings=frozenset(_strings(nodes)))


# --- what is dropped --------------------------------------------------------------------------------


def _prune(nodes: list[ast.AST]) -> list[ast.stmt]:
    """Take out of a tree all that decides nothing; returns the statements under `if TYPE_CHECKING:`."""
    for_types: list[ast.stmt] = []
    checking = _type_checking(nodes)

    def kept(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            if isinstance(statement, ast.If) and _dotted(statement.test) in checking:
                for_types.extend(statement.body)
                yield from kept(statement.orelse)
            elif not isinstance(statement, ast.Pass) and not _is_text(statement):
                yield statement

    for node in nodes:
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if body and isinstance(body, list):
                setattr(node, field, list(kept(body)))
    return for_types


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The docstring of one of DOCUMENTED, if it has one."""
    match node.body[:1]:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return [text]
    return []


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _strings(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) <= LONGEST_NAME:
            yield node.value


def _mentions(node: ast.AST, names: frozenset[str]) -> bool:
    """Whether the node is one of the names, as a name, an attribute, an import or a string."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=name) | ast.alias(name=name):
            return name in names
    return False


def _type_checking(nodes: list[ast.AST]) -> set[str]:
    """How this text spells typing.TYPE_CHECKING; nothing where one of the names is also something else."""
    spelt: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module in TYPING and not node.level:
            spelt.update(a.asname or a.name for a in node.names if a.name == "TYPE_CHECKING")
        elif isinstance(node, ast.Import):
            spelt.update(f"{a.asname or a.name}.TYPE_CHECKING" for a in node.names if a.name in TYPING)
    bound = _bound(nodes) if spelt else ()
    return {name for name in spelt if name.partition(".")[0] not in bound}


# --- names and imports ------------------------------------------------------------------------------


def _dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute of an attribute of a name; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    before = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{before}.{node.attr}" if before and isinstance(node, ast.Attribute) else ""


def _bound(nodes: list[ast.AST]) -> frozenset[str]:
    """Every name that something other than an import statement binds, in whichever scope."""
    bound: set[str] = set()
    for node in nodes:
        match node:
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                bound.update(names)
            case ast.Name(ctx=ast.Load()) | ast.Attribute() | ast.keyword() | ast.alias() | ast.ImportFrom():
                pass
            case ast.Constant():
                pass
            # A definition, a parameter, an assignment, a pattern, `except ... as`: the texts they hold are names.
            case _:
                bound.update(value for _, value in ast.iter_fields(node) if isinstance(value, str))
    return frozenset(bound)


def _uses(nodes: list[ast.AST]) -> Mapping[str, set[str]]:
    """Name -> the attributes, dotted, that are read of it; "" where it is used as a whole."""
    uses: dict[str, set[str]] = {}
    within: set[int] = set()  # nodes of a longer chain that was seen before: outer nodes are walked first
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute):
            name, _, attributes = _dotted(node).partition(".")
            if name and id(node) not in within:
                uses.setdefault(name, set()).add(attributes)
            if isinstance(node, ast.Attribute) and (name or id(node) in within):
                within.add(id(node.value))
    return uses


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that the statement names; "" where it lies above every package."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - node.level + 1])
    return ".".join(filter(None, (base, node.module))) if base else ""


def _bindings(statements: Iterable[ast.stmt], package: str, inside: bool = False) -> Iterator[Binding]:
    for node in statements:
        if isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            for alias in node.names:
                yield Binding(alias.asname or alias.name, Import(module, alias.name, inside))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield Binding(alias.asname or "", Import(alias.name, None, inside))


def _bound_by(binding: Binding) -> tuple[str, Import]:
    """The name that an import statement binds, and to what: `import a.b` binds a."""
    if binding.local:
        return binding.local, binding.target
    top = binding.target.module.partition(".")[0]
    return top, Import(top)


# --- what is written --------------------------------------------------------------------------------


class _Writer:
    """Writes the parts of one module's form, and notes on the way what computes an import."""

    def __init__(self, tree: ast.Module, package: str) -> None:
        self.tree, self.package = tree, package
        nodes = list(ast.walk(tree))
        self.bound, self.uses = _bound(nodes), _uses(nodes)
        every = [node for node in nodes if isinstance(node, IMPORT)]
        plain = [b for b in _bindings(every, package) if not b.local]
        # `import a.b` makes a and a.b known; a chain that starts at a name of another meaning too is left as it is.
        self.known = {
            ".".join(parts[:n])
            for parts in (b.target.module.split(".") for b in plain)
            for n in range(1, len(parts) + 1)
            if parts[0] not in self.bound
        }
        self.parts: list[Part] = []
        self.exports: dict[str, set[Import]] = {}
        self.computed = False
        self.functions = self.classes = 0  # how many of them the node being written stands in

    def form(self, typing: Mapping[str, Import]) -> Form:
        if self.tree.body:
            self.value(self.tree.body)
        parts: list[Part] = []
        for is_text, group in groupby(self.parts, key=lambda part: isinstance(part, str)):
            run = list(group)
            parts.extend(["".join(map(str, run))] if is_text else run)
        # A star import or `globals()` may give any name another meaning.
        hidden = "*" in self.exports or "globals" in self.uses
        exports = {
            name: next(iter(targets))
            for name, targets in self.exports.items()
            if len(targets) == 1 and name not in self.bound and not hidden
        }
        return Form(tuple(parts), exports, self.bound, typing, self.computed)

    def value(self, value: Any) -> None:
        if isinstance(value, list):
            self.parts.append("[")
            for imported, run in groupby(value, key=lambda item: isinstance(item, IMPORT)):
                if imported:
                    for statements in self.runs(run):
                        self.run(statements)
                    continue
                for item in run:
                    self.value(item)
                    self.parts.append(",")
            self.parts.append("]")
        elif isinstance(value, ast.AST):
            self.node(value)
        else:  # an identifier, a number that a node holds, or nothing
            self.parts.append(ascii(value))

    def node(self, node: ast.AST) -> None:
        match node:
            case ast.Constant(value=value):
                self.computed |= isinstance(value, str) and value in COMPUTING
                # Not repr: what it escapes in a text depends on the version of Unicode, and it refuses long numbers.
                text = hex(value) if type(value) is int else ascii(value)
                self.parts.append(f"{type(value).__name__}:{text}")
            case ast.JoinedStr(values=values):
                self.fields(node, values=list(_merged(values)))
            case ast.FormattedValue(format_spec=ast.JoinedStr(values=values)) if not [*_merged(values)]:
                self.fields(node, format_spec=None)
            case ast.Call(func=func) if (target := self.imported(node)) is not None:
                self.parts += [f"{_dotted(func).rpartition('.')[2]}(", target, ")"]
            case ast.Subscript(value=ast.Attribute(), slice=ast.Name(id="__name__")) if (
                _dotted(node.value) == "sys.modules"
            ):
                self.parts.append("this module")
            case ast.Attribute() if _dotted(node).partition(".")[0] in self.known:
                self.chain(node)
            case _:
                self.note(node)
                functions = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                self.functions += functions
                self.classes += isinstance(node, ast.ClassDef)
                self.fields(node)
                self.functions -= functions
                self.classes -= isinstance(node, ast.ClassDef)

    def note(self, node: ast.AST) -> None:
        """Note what finds or runs code that the text does not name."""
        computing = _mentions(node, COMPUTING) or (isinstance(node, ast.Name) and node.id in RUNNING)
        self.computed |= computing or _dotted(node) == "sys.modules"

    def fields(self, node: ast.AST, **instead: Any) -> None:
        self.parts.append(f"{type(node).__name__}(")
        for field in sorted(node._fields):  # a new Python may add fields, and give them in another order
            value = instead[field] if field in instead else getattr(node, field, None)
            if value is not None and value != [] and field not in UNSAID:
                self.parts.append(f" {field}=")
                self.value(value)
        self.parts.append(")")

    def chain(self, node: ast.Attribute) -> None:
        """`a.b.c.f` behind `import a.b.c`: a slot for f of a.b.c. What is assigned stays an attribute of the module."""
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            self.note(inner)
            inner = inner.value
        dotted, assigned = _dotted(node), ""
        if not isinstance(node.ctx, ast.Load):
            dotted, _, assigned = dotted.rpartition(".")
        parts = dotted.split(".")
        length = max(n for n in range(1, len(parts) + 1) if ".".join(parts[:n]) in self.known)
        module, name = ".".join(parts[:length]), ".".join(parts[length:])
        self.parts += [Import(module, name or None, self.functions > 0), f".{assigned}" if assigned else ""]

    def imported(self, call: ast.Call) -> Import | None:
        """What `import_module("a.b")` imports; None for any other call, also of a name that is computed."""
        named = _dotted(call.func).rpartition(".")[2] in IMPORTERS
        match call:
            case ast.Call(args=[ast.Constant(value=str(name))], keywords=[]) if named and name[:1] != ".":
                return Import(name, None, self.functions > 0)
        return None

    def runs(self, statements: Iterable[ast.stmt]) -> Iterator[list[ast.stmt]]:
        """Import statements that stand together, cut where their order matters: what binds a name anew comes after."""
        run: list[ast.stmt] = []
        bound: dict[str, Import] = {}
        for statement in statements:
            binds = list(map(_bound_by, _bindings([statement], self.package)))
            if run and (
                "*" in bound
                or any(name == "*" or bound.get(name, target) != target for name, target in binds)
            ):
                yield run
                run, bound = [], {}
            run.append(statement)
            bound.update(binds)
        yield run

    def run(self, statements: list[ast.stmt]) -> None:
        """Import statements that stand together, in whichever order."""
        bindings: list[Binding] = []
        for binding in _bindings(statements, self.package, self.functions > 0):
            module, name = binding.target.module, binding.target.name
            self.computed |= not module or module.partition(".")[0] in COMPUTING
            self.computed |= name in COMPUTING and name != binding.local  # by its own name its use is seen
            self.computed |= module == "sys" and (name == "modules" or (name is None and binding.local != ""))
            if module in TYPING and name == "TYPE_CHECKING" and binding.local not in self.uses:
                continue  # it was used only in what is gone
            exported, target = _bound_by(binding)
            if not self.functions and not self.classes:
                self.exports.setdefault(exported, set()).add(target)
            uses = self.uses.get(exported, set())
            if binding.local:
                used = tuple(sorted(uses - {""}))
                bindings.append(Binding(binding.local, binding.target, used, "" in uses))
            else:
                bindings.append(binding)
                if "" in uses or exported in self.bound:
                    bindings.append(Binding(exported, target, tuple(sorted(uses - {""})), passed=True))
        if bindings:
            self.parts.append(tuple(sorted(bindings, key=lambda binding: binding.local)))


def _merged(values: list[ast.expr]) -> Iterator[ast.expr]:
    """The values of an f-string, its text in as few pieces as can be: where it is cut depends on the Python."""
    for text, run in groupby(values, key=lambda value: isinstance(value, ast.Constant)):
        if not text:
            yield from run
        elif whole := "".join(str(piece.value) for piece in run if isinstance(piece, ast.Constant)):
            yield ast.Constant(whole)
