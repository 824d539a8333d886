"""Eight virtual CPU devices, for this process: `pytest tests/sharded`."""

import os

# JAX reads this when it is imported; where there is a GPU, the virtual devices are still CPUs.
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_num_cpu_devices", int(os.environ.get("LCONV_TEST_DEVICES", "8")))
