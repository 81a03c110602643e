"""A pytest plugin for tests/mutations.py: the router named by RPH_MUTANT is imported from RPH_MUTANT_SOURCE."""

import importlib.abc
import importlib.util
import os
import sys

MODULE = f"rph_plugins.routers.{os.environ['RPH_MUTANT']}"


class MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        origin = importlib.util.find_spec(fullname).origin  # the registry hashes the file it came from
        sys.meta_path.insert(0, self)
        return importlib.util.spec_from_file_location(fullname, origin, loader=self)

    def exec_module(self, module):
        exec(compile(os.environ["RPH_MUTANT_SOURCE"], module.__file__, "exec"), module.__dict__)  # noqa: S102 - the mutant itself


sys.meta_path.insert(0, MutantFinder())
