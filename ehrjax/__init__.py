"""ehrjax: foundation models of electronic health records in JAX.

`import ehrjax` costs almost nothing: no jax, no polars. `ehrjax.load` appears when first used.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    if name == "load":
        from ehrjax.training.run import load

        return load
    raise AttributeError(f"module 'ehrjax' has no attribute {name!r}")
