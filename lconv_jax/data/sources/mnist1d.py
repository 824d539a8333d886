"""MNIST-1D, generated: ten classes of noisy, shifted and scaled pieces of a curve.

    mnist1d                                  4 000 + 1 000 signals [40, 1], as its authors have them
    mnist1d:examples=20000,test=2000,seed=7  more of them, or others

Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024. The package `mnist1d`
(Apache-2.0) makes the signals from ten templates; nothing is downloaded. They are float32, of mean
0 and standard deviation 1 over training and test set together, without a unit. Each class has the
same number of signals in the two sets together; which set a signal is in is random.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np

from lconv_jax.data import dataset, options

DEFAULTS = {"examples": 4000, "test": 1000, "seed": 42}
_CLASSES = 10


def read(name: str, data_dir: str | os.PathLike[str] | None = None) -> dataset.Source:
    """The data set `name`, as this module's docstring says; `data_dir` is not used.

    Raises:
      DataError: an option is out of range, or the package mnist1d is not installed.
    """
    del data_dir
    found = options.parse(name, DEFAULTS)
    examples, test, seed = found["examples"], found["test"], found["seed"]
    if examples < 1 or test < 1 or (examples + test) % _CLASSES:
        raise dataset.DataError(
            f"data.name = {name!r}: examples = {examples} and test = {test} must be 1 or more, and "
            f"their sum a multiple of {_CLASSES}, the number of classes"
        )
    options.require(name, found, {"seed": (0 <= seed < 2**32, "in 0 … 2³² − 1")})
    # float64 [40], its parts, and float32.
    options.require_memory(name, 40 * 24.0 * (examples + test), "examples or test")
    # A signal takes half a millisecond.
    most = 200_000
    options.require(
        name, found, {"examples": (examples + test <= most, f"at most {most:,} with test")}
    )
    try:
        with _global_state_kept():
            from mnist1d.data import get_dataset_args, make_dataset

            args = get_dataset_args()
            args.num_samples, args.seed = examples + test, seed
            # Not `get_dataset`, which downloads, and keeps a file in the working directory.
            made = make_dataset(args)
    except ImportError as error:
        raise dataset.DataError(
            f"data.name = {name!r}: the package that generates it cannot be imported ({error}). "
            "Install it: pip install mnist1d"
        ) from error
    # Divided here, because the package rounds a fraction.
    signals = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)[..., None]
    labels = np.concatenate([made["y"], made["y_test"]]).astype(np.int32)
    return dataset.Source(
        name="mnist1d",
        num_classes=_CLASSES,
        train=dataset.Split(signals[:examples], labels[:examples]),
        test=dataset.Split(signals[examples:], labels[examples:]),
        train_file=name,
        test_file=name,
    )


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """Leaves the global generators of Python and NumPy, which the package seeds, as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
