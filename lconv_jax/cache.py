"""Compiled programs are kept on disk, so that a run that starts again does not compile again."""

from __future__ import annotations

import hashlib
import os
import platform

import jax
from jax import monitoring

# JAX's own event: compiling one program, or reading it from the cache.
_COMPILED = "/jax/core/compile/backend_compile_duration"


def default_directory() -> str:
    """$JAX_COMPILATION_CACHE_DIR, or lconv_jax/jax-<processor> in the user's folder of caches.

    Programs for the CPU use the instructions of the processor that they were compiled on, and a
    folder of caches may be shared by machines with different ones.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is not None:
        return chosen
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(os.path.expanduser(caches), "lconv_jax", f"jax-{_processor()}")


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


def enable(directory: str) -> None:
    """Keeps what takes half a second or more to compile in `directory`; "" keeps nothing.

    JAX's key of a program is made of the program itself, the compiler's version and options and
    the kind of device, so what is read is what would have been compiled.
    """
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(directory) or None)
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
