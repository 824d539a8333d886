"""What all tests share.

The tests under `sharded/` need eight devices, which JAX must be told before it starts: they run in
a process of their own, which `test_sharded.py` starts.

Compiled programs are kept for the length of the tests and no longer, each pytest worker's apart:
the commands that tests start, many of them with one configuration, find them there.
"""

import atexit
import os
import shutil
import signal
import tempfile

# JAX reads this when it is imported.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="lconv_jax_tests_")
atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

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
