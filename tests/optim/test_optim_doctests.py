"""The examples of docstrings and of the documentation's page run; importing loads little."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import lconv_jax.optim

MODULES = sorted(
    module.name for module in pkgutil.iter_modules(lconv_jax.optim.__path__, "lconv_jax.optim.")
)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    # `lconv_jax.optim.beta_lasso` is the function; the module of that name is in sys.modules.
    importlib.import_module(name)
    results = doctest.testmod(sys.modules[name])
    assert results.failed == 0


def test_every_public_function_has_an_example():
    for name in lconv_jax.optim.__all__:
        assert ">>> " in getattr(lconv_jax.optim, name).__doc__, name


@pytest.mark.slow
def test_import_loads_little():
    code = (
        "import sys, lconv_jax, lconv_jax.optim; "
        "print([m for m in ('flax', 'matplotlib', 'tensorflow', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
