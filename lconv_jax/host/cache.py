"""Compiled programs are kept on disk, so that a run that starts again does not compile again."""

from __future__ import annotations

import hashlib
import os
import platform

import jax
from absl import logging
from jax import monitoring

from lconv_jax.errors import ConfigError
from lconv_jax.host import places

# JAX's own event: compiling one program, or reading it from the cache.
_COMPILED = "/jax/core/compile/backend_compile_duration"
# JAX's own variable: the least seconds of compilation that make a program worth keeping.
_LEAST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def default_directory() -> str:
    """$JAX_COMPILATION_CACHE_DIR, or lconv_jax/jax-<processor> in the user's folder of caches.

    Programs for the CPU use the instructions of the processor that they were compiled on, and a
    folder of caches may be shared by machines with different ones.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is not None:
        return chosen
    return os.path.join(places.user_caches(), "lconv_jax", f"jax-{_processor()}")


def _processor() -> str:
    """A digest of what instructions the processor has, as far as the system says."""
    known = [platform.machine(), platform.processor()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith(("flags", "Features", "model name"))]
        known += sorted(set(lines))
    except OSError:
        pass  # not Linux
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]


def enable(directory: str | None) -> None:
    """Keeps what takes half a second or more to compile in `directory`.

    $JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS takes the place of the half second.

    JAX's key of a program is made of the program itself, the compiler's version and options and
    the kind of device, so what is read is what would have been compiled.

    Args:
      directory: made if need be; "" to keep nothing; None for `default_directory`, which is done
        without, with a warning, if it cannot be.

    Raises:
      ConfigError: `directory` is none that can be written.
    """
    path = None
    chosen = default_directory() if directory is None else directory
    try:
        if chosen:
            path = places.folder(chosen, "--compilation_cache")
            os.makedirs(path, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise ConfigError(f"--compilation_cache={path} cannot be written")
    except (ConfigError, OSError) as error:
        if directory is not None:
            raise
        path = None
        logging.warning("Compiled programs are not kept: %s", error)
    jax.config.update("jax_compilation_cache_dir", path)
    if _LEAST not in os.environ:  # which JAX has read
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class CompileClock:
    """Counts the seconds that this process spends on compiling, or on reading what was kept."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> CompileClock:
        monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, duration_secs: float, **_: object) -> None:
        if event == _COMPILED:
            self.seconds += duration_secs
