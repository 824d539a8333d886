"""What all tests share.

The tests under `sharded/` need eight devices, which JAX must be told before it starts: they run in
a process of their own, which `test_sharded.py` starts.
"""

import os

collect_ignore = [] if "LCONV_TEST_DEVICES" in os.environ else ["sharded"]
