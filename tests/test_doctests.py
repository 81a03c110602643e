"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import rph


def test_every_example_in_a_docstring_holds():
    names = [info.name for info in pkgutil.walk_packages(rph.__path__, "rph.") if info.name != "rph.__main__"]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in ["rph", *names]}
    assert {name for name, result in results.items() if result.failed} == set()
    assert sum(result.attempted for result in results.values()) >= 5
    assert {name for name, result in results.items() if result.attempted} >= {
        "rph.api",
        "rph.errors",
        "rph.results.metrics",
    }
