"""numpy and torch, imported at first use.

`rph list routers` imports every plugin to read its card. A plugin that takes its array libraries from
here costs microseconds to import; `import torch` at its top would cost every listing seconds.

    from rph.lazy import np, torch
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    __all__ = ["np", "torch"]
else:

    class _Lazy:
        """Stands for a module and imports it when one of its names is first read."""

        def __init__(self, name: str) -> None:
            self.__name__ = name

        def __getattr__(self, attribute: str) -> Any:
            value = getattr(importlib.import_module(self.__name__), attribute)
            setattr(self, attribute, value)  # the next read is a plain attribute
            return value

    np = _Lazy("numpy")
    torch = _Lazy("torch")
