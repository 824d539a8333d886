"""What all tests share.

The tests under `sharded/` need eight devices, which JAX must be told before it starts: they run in
processes of their own, which `test_sharded.py` starts.

Compilation is most of what the tests would cost. Whatever is compiled is kept for the length of
the tests and no longer, in one folder for all pytest workers and the commands that they start, many
of them with one configuration. The compiler leaves out most optimizations, but in tests marked
`optimized`: of bits that different programs share, of collectives and of memory.
"""

import atexit
import collections
import importlib.metadata
import os
import shutil
import signal
import tempfile

import pytest

_KEPT = "LCONV_TEST_PROGRAMS"  # the folder of the first process, for those that it starts

if _KEPT not in os.environ:
    os.environ[_KEPT] = tempfile.mkdtemp(prefix="lconv_jax_tests_")
    atexit.register(shutil.rmtree, os.environ[_KEPT], ignore_errors=True)
# JAX reads these when it is imported.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ[_KEPT]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# XLA ends a process that sets a flag which it does not know, as a later one may not know this.
_FLAG = "--xla_cpu_use_fusion_emitters=false"
if importlib.metadata.version("jaxlib").startswith(("0.10.", "0.11.")):
    given = os.environ.get("XLA_FLAGS", "")
    if _FLAG not in given:
        os.environ["XLA_FLAGS"] = f"{given} {_FLAG}".strip()

# Decoded images would be kept in the user's folder of caches.
os.environ["LCONV_JAX_DATA_CACHE"] = tempfile.mkdtemp(prefix="lconv_jax_tests_data_")
atexit.register(shutil.rmtree, os.environ["LCONV_JAX_DATA_CACHE"], ignore_errors=True)

collect_ignore = [] if "LCONV_TEST_DEVICES" in os.environ else ["sharded"]

# A job in the background may have these ignored, and so would its children: tests send them.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    import jax  # here, as the process that hands out the tests needs none

    fast = item.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", fast)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files come in the order of how many slow tests they have.

    A file is one worker's, so what takes long and began late would keep one worker alone at work.
    """
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
