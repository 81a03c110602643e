"""What pip calls this project, and how it is installed again: the one place that knows.

The distribution is not called what the command and the import are: `rph` on the package index is another project
(random projection hashing), which brings a folder `rph/` too. No advice may ask an index for it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

OURS = "routing-plateau-harness"
FORMER = "rph"  # ours in files and metadata from before its first release


def current(name: str) -> str:
    """The distribution that a stored file means by `name`: it may be older than our name."""
    return OURS if name == FORMER else name


def install(extra: str = "", *, options: Sequence[str] = ()) -> str:
    """The command that installs rph, with an extra, from where the one that runs was taken.

    pip keeps that place (PEP 610): a clone, a repository, a file. Without one it came from an index. So the advice is
    right before the first release, when there is nothing on an index, and after it.
    """
    origin = _origin()
    wanted = f"{OURS}[{extra}]" if extra else OURS
    if folder := _folder(origin):
        wanted = f"{folder}[{extra}]" if extra else str(folder)
        if origin["dir_info"].get("editable"):
            options = (*options, "-e")
    elif vcs := origin.get("vcs_info"):
        revision = f"@{vcs['requested_revision']}" if "requested_revision" in vcs else ""
        wanted += f" @ {vcs['vcs']}+{origin['url']}{revision}"
    elif origin:
        wanted += f" @ {origin['url']}"
    return shlex.join(["pip", "install", *options, wanted])


def upgrade(specifier: str = "") -> str:
    """What brings another version: one that meets `specifier`, as in `>=2`, or else a newer one."""
    origin = _origin()
    if folder := _folder(origin):
        what = f"{OURS}{specifier}" if specifier else f"a newer {OURS}"
        return f"get {what} into {folder} (git pull), then {install()}"
    if "vcs_info" in origin:
        return install(options=["--upgrade"])
    return shlex.join(["pip", "install", "--upgrade", OURS + specifier])


def problems() -> Iterator[str]:
    """What is wrong with how rph is installed: who else owns its folder, who else would bring it in, what is imported."""
    # Where another was installed over ours, ours is still recorded as installed: without force pip would do nothing.
    again = install(options=["--force-reinstall", "--no-deps"])
    for other in distributions(name=FORMER):
        yield (
            f"{FORMER} {other.version} is installed too, in {_site(other)}: another project of the package index, or this "
            f"one under its former name. Both own the folder rph/: pip uninstall {FORMER}, then {again}"
        )
    for plugin in distributions():
        if any(point.group == "rph" for point in plugin.entry_points) and requires_former(plugin):
            yield (
                f"{plugin.name} {plugin.version} requires {FORMER}, by which pip installs another project: "
                f"its authors must require {OURS}"
            )
    here = Path(__file__).resolve().parent
    try:
        ours = distribution(OURS)
    except PackageNotFoundError:
        yield f"{OURS} is not installed; what is imported lies in {here}: {again}"
        return
    if (its := _package(ours)) and its.resolve() != here:
        yield (
            f"what is imported lies in {here}, and {OURS} {ours.version} in {its}: leave {here.parent} out of PYTHONPATH "
            "and the working folder, or install it from there"
        )


def requires_former(plugin: Distribution) -> bool:
    """Whether it requires `rph`, and not us: written before the name was another, or by mistake."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    for text in plugin.requires or ():
        try:
            if canonicalize_name(Requirement(text).name) == FORMER:
                return True
        except InvalidRequirement:
            continue
    return False


def _origin() -> dict[str, Any]:
    """Where pip took the running rph from, in the form of PEP 610; empty: from an index."""
    try:
        told = distribution(OURS).read_text("direct_url.json")
    except PackageNotFoundError:  # a clone on the path: nothing was installed
        clone = Path(__file__).resolve().parents[2]
        return {"url": clone.as_uri(), "dir_info": {"editable": True}}
    origin: dict[str, Any] = json.loads(told) if told else {}
    return origin


def _folder(origin: dict[str, Any]) -> Path | None:
    return Path(url2pathname(urlsplit(origin["url"]).path)) if "dir_info" in origin else None


def _site(found: Distribution) -> Path:
    """The folder that a distribution is installed in."""
    return Path(str(found.locate_file("")))


def _package(ours: Distribution) -> Path | None:
    """The folder rph/ of our distribution; None: its metadata do not tell."""
    origin = _origin()
    if (folder := _folder(origin)) and origin["dir_info"].get("editable"):
        return folder / "harness" / "rph"
    listed = any(file.as_posix() == "rph/__init__.py" for file in ours.files or ())
    return _site(ours) / "rph" if listed else None
