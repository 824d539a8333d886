"""The examples of the analysis run."""

import doctest
import importlib
import pkgutil
import sys

import pytest

import lconv_jax.analysis

MODULES = sorted(
    module.name
    for module in pkgutil.iter_modules(lconv_jax.analysis.__path__, "lconv_jax.analysis.")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    # `lconv_jax.analysis.locality` is the function; the module of that name is in sys.modules.
    importlib.import_module(name)
    assert doctest.testmod(sys.modules[name]).failed == 0
