"""Fresh virtual environments with rph installed from a wheel, for tests of what others install beside it.

torch and the like are not installed again: a .pth file names the site-packages of the environment the tests run in.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "harness", "plugins")
# pip sees what the .pth file names, the rph under test too, and must neither be content with it nor take it away.
PIP = {
    "PIP_IGNORE_INSTALLED": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # sic: it is read as build_isolation = 0
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


def call(*command, cwd=None, **environ):
    """Run a command: its outcome, with the output as text. `environ` is added to this process's environment."""
    environment = {**os.environ, **PIP, **environ}
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=540,
    )


def copy_sources(source):
    """What a clone has, as far as it is packaged: setuptools writes beside what it builds."""
    source.mkdir(parents=True)
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, source / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, source)


def build_wheel(folder, source=None):
    """The wheel of rph, or of another `source` folder, built in `folder`, where no other wheel is."""
    if source is None:
        copy_sources(source := folder / "source")
    done = call(sys.executable, "-m", "pip", "wheel", "--wheel-dir", folder, source)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def share_packages(environment):
    """Let a virtual environment import what the environment of the tests has."""
    (site,) = environment.glob("lib/python*/site-packages")
    for old in site.glob("setuptools*"):  # Python 3.11's venv brings one that would hide the tests' own
        shutil.rmtree(old)
    (site / "of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @classmethod
    def new(cls, folder, *packages):
        """A fresh one, with packages that are installed from their files or folders."""
        done = call(sys.executable, "-m", "venv", "--without-pip", folder)
        assert done.returncode == 0, done.stderr
        share_packages(folder)
        made = cls(folder)
        made.install(*packages)
        return made

    def run(self, program, *arguments, **options):
        """Run a program that is installed in it."""
        return call(self.folder / "bin" / program, *arguments, **options)

    def install(self, *packages):
        done = self.run("python", "-m", "pip", "install", *packages)
        assert done.returncode == 0, done.stderr
