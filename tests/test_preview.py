"""The contact sheet shows what is stored, and beside it what the training step makes of it."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lconv_jax import config as config_lib
from lconv_jax import data, preview


def run(path, **arguments):
    preview.write(path, **arguments)
    return np.asarray(Image.open(path).convert("RGB"))


def tiles(picture, height, width, rows, columns):
    """The tiles [rows, columns, height, width, 3] of a sheet, found by where they must be."""
    gap, band, header = preview._GAP, preview._BAND, preview._HEADER
    assert picture.shape == (
        rows * (height + gap) + gap + header,
        columns * (width + gap) + gap + band,
        3,
    )
    across = [gap + at * (width + gap) + (band if at else 0) for at in range(columns)]
    down = [header + gap + at * (height + gap) for at in range(rows)]
    return np.stack(
        [
            np.stack([picture[top : top + height, left : left + width] for left in across])
            for top in down
        ]
    )


@pytest.mark.slow
def test_the_first_column_is_the_data_and_the_others_are_the_policy_s(tmp_path):
    path = tmp_path / "sheet.png"
    arguments = {"augment": 'policy:[[["invert", 1]]]', "rows": 3, "columns": 2, "seed": 4}
    picture = run(path, **arguments)
    shown = tiles(picture, 84, 84, 3, 3)
    stored = shown[:, 0, ::3, ::3, 0]
    train = data.load("fashion_mnist_small").train.images[..., 0]
    for image in stored:
        assert (train == image).all((1, 2)).any()
    for column in (1, 2):
        np.testing.assert_array_equal(shown[:, column, ::3, ::3, 0], 255 - stored)
    assert Image.open(path).mode == "L"
    np.testing.assert_array_equal(run(path, **arguments), picture)
    assert (run(path, **(arguments | {"seed": 5})) != picture).any()


@pytest.mark.parametrize("channels", [1, 6])
def test_signals_are_drawn(channels, tmp_path):
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(8, 50, channels)).astype(np.float32)
    signals[1:] = signals[0]
    labels = np.arange(8) % 2
    path = tmp_path / "signals.npz"
    np.savez(
        path,
        train_signals=signals,
        train_labels=labels,
        test_signals=signals,
        test_labels=labels,
    )
    shown = tiles(
        run(tmp_path / "sheet.png", name=str(path), cutout=20, rows=2, columns=3), 60, 144, 2, 4
    )
    # Equal signals look equal, and one that is cut does not.
    np.testing.assert_array_equal(shown[0, 0], shown[1, 0])
    for row in range(2):
        for column in range(1, 4):
            assert (shown[row, column] != shown[row, 0]).any()


def test_columns_have_draws_of_their_own():
    config = config_lib.base_config()
    config.data.crop = 3
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    columns = preview.augmented(config, images, 3)
    np.testing.assert_array_equal(columns[0], images)
    assert len({column.tobytes() for column in columns}) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"augment": "autoaugmen"}, "config.data.augment = 'autoaugmen'"),
        ({"name": "no.npz"}, "no.npz"),
        ({"crop": 28}, "data.crop = 28"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        preview.write(tmp_path / "sheet.png", **arguments)
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.slow
def test_the_command_s_flags_are_its_arguments(tmp_path):
    out = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "lconv_jax.preview", "--name=digits", f"--out={out}"]
    command += ["--rows=2", "--columns=3", "--flip"]
    subprocess.run(command, check=True)
    written = run(tmp_path / "again.png", name="digits", rows=2, columns=3, flip=True)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), written[..., 0])
