"""The run directory: one configuration, one data set, one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import jax

from lconv_jax import config as config_lib
from lconv_jax.errors import StoredError
from lconv_jax.host import json_files, places
from lconv_jax.host.files import no_link, write_atomically
from lconv_jax.rundir.metrics import METRICS_FILE

CONFIG_FILE, SUMMARY_FILE, CHECKPOINTS = "config.json", "summary.json", "checkpoints"
SESSIONS_FILE, DIVERGED_FILE = "sessions.json", "diverged.json"
_PACKAGES = ("lconv_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@contextlib.contextmanager
def open_workdir(workdir: str | os.PathLike[str], config: Any, data_sha256: str) -> Iterator[str]:
    """Claims a run directory for this process and this configuration.

    A new directory gets config.json. In a directory with a run, the data and all keys that change
    the results must be the same. Other keys (see `config.is_free`) may change; config.json then
    lists the change.

    Yields:
      The absolute path of the directory.

    Raises:
      ConfigError: if the directory holds another run, or another process is at work in it.
    """
    directory = places.folder(workdir, "--workdir")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, ".lock"), "w", encoding="utf-8", opener=no_link) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise config_lib.ConfigError(
                f"--workdir={directory} is in use by another process; wait for it or choose another"
            ) from None
        record = _compare(directory, dict(config_lib.flatten(config)), data_sha256)
        write_atomically(os.path.join(directory, CONFIG_FILE), json.dumps(record, indent=2) + "\n")
        yield directory


def check_workdir(workdir: str | os.PathLike[str], config: Any, data_sha256: str) -> None:
    """Raises ConfigError if `open_workdir` would, except for another process; writes nothing."""
    directory = places.folder(workdir, "--workdir")
    _compare(directory, dict(config_lib.flatten(config)), data_sha256)


def check_is_run(workdir: str | os.PathLike[str]) -> None:
    """Raises ConfigError for a directory that holds no run."""
    if not os.path.exists(os.path.join(workdir, CONFIG_FILE)):
        raise config_lib.ConfigError(
            f"{workdir} has no {CONFIG_FILE}: it is not the --workdir of a run"
        )


def read_config(workdir: str | os.PathLike[str]) -> Any:
    """The `ConfigDict` of the run in a directory.

    Keys that later versions added are at their defaults; values whose type has changed since are
    converted.

    Raises:
      StoredError: config.json is damaged, or does not hold a configuration.
    """
    flat = _defaults() | _flat(_read_record(workdir))
    try:
        config_lib.validate(flat)
    except config_lib.ConfigError as error:
        raise StoredError(f"{os.path.join(workdir, CONFIG_FILE)}: {error}") from error
    return config_lib.unflatten(flat)


def read_data_digest(workdir: str | os.PathLike[str]) -> str:
    """The digest of the data of the run in a directory, as `data.digest` gives it.

    Raises:
      StoredError: config.json is damaged.
    """
    return _read_record(workdir)["data_sha256"]


def _read_record(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    return json_files.read(
        os.path.join(workdir, CONFIG_FILE),
        {"config": dict, "data_sha256": str, "changes": list},
        "bring it back from a copy, or start in another --workdir",
    )


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat = dict(config_lib.flatten(record["config"]))
    # `data.permute` was once True or False.
    return {
        name: int(v) if type(v) is bool and name == "data.permute" else v
        for name, v in flat.items()
    }


def _defaults() -> dict[str, Any]:
    return {name: key.default for name, key in config_lib.KEYS.items()}


def read_summary(
    workdir: str | os.PathLike[str], metrics: Iterable[str] = ()
) -> dict[str, Any] | None:
    """The summary.json of a directory, or None if there is none yet.

    Args:
      workdir: of the run.
      metrics: names of numbers that it must have among its metrics.

    Raises:
      StoredError: it is damaged.
    """
    path = os.path.join(workdir, SUMMARY_FILE)
    if not os.path.exists(path):
        return None
    form = {"metrics": dict.fromkeys(metrics, float)}
    remedy = "delete it, and the run's command writes it anew from the last checkpoint"
    return json_files.read(path, form, remedy)


def read_diverged(directory: str | os.PathLike[str]) -> str | None:
    """Why the run of a directory cannot go on, or None if nothing is known against it."""
    path = os.path.join(directory, DIVERGED_FILE)
    if not os.path.exists(path):
        return None
    remedy = "delete it, and the run is continued from its last checkpoint"
    return json_files.read(path, {"message": str}, remedy)["message"]


def write_summary(directory: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Writes summary.json: the results, and the versions and device; returns all of it."""
    whole = summary | made_by()
    write_atomically(os.path.join(directory, SUMMARY_FILE), json.dumps(whole, indent=2) + "\n")
    return whole


def made_by() -> dict[str, Any]:
    """The devices and the versions that this process computes with."""
    return {
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "versions": {name: version_of(name) for name in _PACKAGES},
    }


def version_of(package: str) -> str:
    """The version of an installed package; "not installed" for one that is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a clone that was not installed
        return "not installed"


def _compare(directory: str, flat: dict[str, Any], data_sha256: str) -> dict[str, Any]:
    """The new contents of config.json; raises if the old contents are of another run."""
    path = os.path.join(directory, CONFIG_FILE)
    changes: list[dict[str, Any]] = []
    if os.path.exists(path):
        stored = _read_record(directory)
        before = _defaults() | _flat(stored)
        changed = {
            name: (before.get(name), flat.get(name))
            for name in sorted({*before, *flat})
            if before.get(name) != flat.get(name)
        }
        fixed = [
            f"  config.{name}: {config_lib.brief(old)} there, {config_lib.brief(new)} here"
            for name, (old, new) in changed.items()
            if not config_lib.is_free(name)
        ]
        before_sha256 = stored["data_sha256"]
        streamed = [sha256.startswith("streamed-") for sha256 in (before_sha256, data_sha256)]
        if streamed[0] != streamed[1]:
            there, here = ("streamed from disk" if each else "read whole" for each in streamed)
            fixed.append(
                f"  the data: {there} there and {here} here, so that their digests cannot be "
                f"compared; set config.data.stream={'always' if streamed[0] else 'never'}"
            )
        elif before_sha256 != data_sha256:
            fixed.append("  the data: their contents are not the same")
        if fixed:
            raise config_lib.ConfigError(
                f"--workdir={directory} holds another run, which differs in\n"
                + "\n".join(fixed)
                + "\nchoose another --workdir, or give that run's configuration to continue it"
            )
        changes = stored["changes"] + [
            {"key": name, "from": old, "to": new} for name, (old, new) in changed.items()
        ]
    else:
        for name in (METRICS_FILE, CHECKPOINTS, SESSIONS_FILE, SUMMARY_FILE):
            if os.path.lexists(os.path.join(directory, name)):
                raise config_lib.ConfigError(
                    f"--workdir={directory} has {name} but no {CONFIG_FILE}, so it cannot be "
                    "continued and would be overwritten; choose another --workdir"
                )
    config = config_lib.unflatten(flat).to_dict()
    return {"config": config, "data_sha256": data_sha256, "changes": changes}
