"""Small TFDS sets with given features, prepared by TFDS in ArrayRecord without TensorFlow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds


def png(pixels: np.ndarray) -> bytes:
    """The PNG file of uint8 [H, W] or [H, W, 3]."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


class MadeSet(tfds.core.GeneratorBasedBuilder):
    """A set whose features and examples are given: {split: [example]}."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, features: Any, examples: dict[str, list[dict[str, Any]]], **kwargs: Any):
        self._features, self._examples = features, examples
        super().__init__(**kwargs)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self._features)
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        return {split: self._generate_examples(split) for split in self._examples}

    def _generate_examples(self, split: str) -> Any:
        for index, example in enumerate(self._examples[split]):
            # TFDS encodes arrays by TensorFlow, but takes a file as it is.
            yield index, example | {"image": io.BytesIO(example["image"])}


def make(folder: Any, features: Any, examples: dict[str, list[dict[str, Any]]]) -> str:
    """Prepares the set "made_set" under `folder`, and returns the folder of its files."""
    builder = MadeSet(features, examples, data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)
