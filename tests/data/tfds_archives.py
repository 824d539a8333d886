"""Archives in the true file formats of some sets that TFDS knows, with synthetic content.

    python tests/data/tfds_archives.py FOLDER NAME [NAME …]

lets TFDS's own builder prepare such archives, each in FOLDER/NAME/prepared; only the download, and
with it the check of the checksum, is replaced. It runs in a process of its own, so that TensorFlow
stays out of the tests'.
"""

from __future__ import annotations

import io
import pathlib
import sys
import tarfile
import zipfile
from typing import Any
from unittest import mock

import numpy as np

CLASSES = {"cifar10": 10, "cifar100": 100, "svhn_cropped": 10}
COUNTS = {"train": 400, "test": 200}
IMAGENET64 = "imagenet_resized/64x64"


def make_split(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Noisy copies of one random pattern per class: uint8 [N, 32, 32, 3] and labels [N]."""
    classes = CLASSES[name]
    patterns = np.random.RandomState(0).randint(40, 216, (classes, 32, 32, 3))
    rng = np.random.RandomState(1 if split == "train" else 2)
    labels = rng.permutation(np.arange(COUNTS[split]) % classes)
    noise = rng.randint(-40, 40, (COUNTS[split], 32, 32, 3))
    return (patterns[labels] + noise).astype(np.uint8), labels.astype(np.int32)


def make_imagenet64(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Noise: uint8 [N, 64, 64, 3] and labels, for "train_part1", "train_part2" or "val"."""
    rng = np.random.RandomState(len(part) + ord(part[-1]))
    images = rng.randint(0, 256, (30, 64, 64, 3), np.uint8)
    return images, rng.randint(0, 1000, 30).astype(np.int32)


def write_archives(name: str, folder: pathlib.Path) -> None:
    """Writes the files that TFDS would download, under the names they have there."""
    if name == IMAGENET64:
        for part in ("train_part1", "train_part2", "val"):
            images, labels = make_imagenet64(part)
            file = io.BytesIO()
            # Each image as its red, green and blue plane; labels count from 1.
            np.savez(file, data=images.transpose(0, 3, 1, 2).reshape(30, -1), labels=labels + 1)
            with zipfile.ZipFile(folder / f"Imagenet64_{part}_npz.zip", "w") as archive:
                archive.writestr(f"{part}_data.npz", file.getvalue())
        return
    if name == "svhn_cropped":
        import scipy.io

        for split in ("train", "test"):
            images, labels = make_split(name, split)
            # MATLAB's layout: images last, and ten stands for the digit zero.
            values = {
                "X": images.transpose(1, 2, 3, 0),
                "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None],
            }
            scipy.io.savemat(folder / f"{split}_32x32.mat", values)
            if split == "train":
                scipy.io.savemat(folder / "extra_32x32.mat", values)
        return
    files: dict[str, bytes] = {}
    train, test = make_split(name, "train"), make_split(name, "test")
    if name == "cifar10":
        prefix, archive = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
        files["batches.meta.txt"] = "".join(f"class{i}\n" for i in range(10)).encode() + b"\n"
        for i in range(5):
            files[f"data_batch_{i + 1}.bin"] = _records(*(part[i::5] for part in train))
        files["test_batch.bin"] = _records(*test)
    else:
        prefix, archive = "cifar-100-binary", "cifar-100-binary.tar.gz"
        files["coarse_label_names.txt"] = "".join(f"coarse{i}\n" for i in range(20)).encode()
        files["fine_label_names.txt"] = "".join(f"fine{i}\n" for i in range(100)).encode()
        files["train.bin"] = _records(*train, coarse=True)
        files["test.bin"] = _records(*test, coarse=True)
    with tarfile.open(folder / archive, "w:gz") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(f"{prefix}/{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _records(images: np.ndarray, labels: np.ndarray, *, coarse: bool = False) -> bytes:
    """CIFAR's binary records: the label (after its superclass), then red, green, blue planes."""
    heads = [[label // 5, label] if coarse else [label] for label in labels.tolist()]
    planes = images.transpose(0, 3, 1, 2)
    return b"".join(
        bytes(head) + image.tobytes() for head, image in zip(heads, planes, strict=True)
    )


def prepare(name: str, folder: pathlib.Path) -> None:
    """Runs `lconv_jax.data.prepare` on archives of our own, which take the downloads' place.

    What TFDS does with a downloaded archive (extraction, the builder, the writing) is its own.
    """
    import promise
    import tensorflow_datasets as tfds

    from lconv_jax.data import prepare as prepare_module

    archives = folder / "archives"
    archives.mkdir(parents=True)
    write_archives(name, archives)

    def downloaded(manager: Any, resource: Any) -> Any:
        url = getattr(resource, "url", resource)
        return promise.Promise.resolve(tfds.core.Path(archives / url.rsplit("/", 1)[1]))

    with mock.patch.object(tfds.download.DownloadManager, "_download_or_get_cache", downloaded):
        prepare_module.prepare(name, folder / "prepared")


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        prepare(wanted, pathlib.Path(sys.argv[1], wanted))
