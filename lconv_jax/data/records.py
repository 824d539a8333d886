"""Examples that are read by index, as they are needed, and views of them in place of arrays."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, Protocol

import numpy as np

from lconv_jax.errors import DataError

# Examples of a column, evenly spaced, whose contents its digest covers.
_SAMPLED = 64


class Records(Protocol):
    """Labelled images that stay where they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, *spatial, C] of the images."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the images."""

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and int32 labels of these rows; may be called from several threads at once."""

    def read_labels(self, rows: np.ndarray) -> np.ndarray:
        """The labels alone, int32."""

    def whole(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All images and labels, where they are in memory anyhow."""

    def load(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All images and labels, where that takes less than reading every row; else None."""

    def files(self) -> Any:
        """What is known of the files without reading them, for JSON; None: there are none."""

    def __str__(self) -> str:
        """Where they are, for messages."""


@dataclasses.dataclass(frozen=True)
class HostRecords:
    """Records that are arrays in the host's memory."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.images.dtype

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[rows], self.labels[rows]

    def read_labels(self, rows: np.ndarray) -> np.ndarray:
        return self.labels[rows]

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        return self.images, self.labels

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        return self.whole()

    def files(self) -> None:
        return None

    def __str__(self) -> str:
        return "the host's memory"


@dataclasses.dataclass(frozen=True)
class Column:
    """The images or the labels of some records, in the place of an array.

    Indexing reads. `rows` are the records it has, in order; None means all.
    """

    records: Records
    what: Literal["images", "labels"]
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return self.records.shape[0] if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *(self.records.shape[1:] if self.what == "images" else ()))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.records.dtype if self.what == "images" else np.dtype(np.int32)

    @property
    def on_disk(self) -> bool:
        """Whether reading means reading files."""
        return self.records.whole() is None

    def select(self, indices: np.ndarray) -> Column:
        """A column of these examples, of which nothing is read yet."""
        return dataclasses.replace(self, rows=self.rows_of(indices))

    def rows_of(self, indices: Any) -> np.ndarray:
        """The records that these examples, or a slice of them, are."""
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        return np.asarray(indices) if self.rows is None else self.rows[indices]

    def __getitem__(self, indices: Any) -> np.ndarray:
        rows = self.rows_of(indices)
        return (
            self.records.read_labels(rows) if self.what == "labels" else self.records.read(rows)[0]
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it: of what is on disk the labels only, which means reading every record."""
        whole = self.records.whole()
        if whole is not None:
            array = whole[self.what == "labels"]
            return np.asarray(array if self.rows is None else array[self.rows], dtype)
        if self.what == "images":
            raise DataError(
                f"the images of {self.records} are read as they are needed (config.data.stream), "
                "and this would hold all of them in memory at once; train with "
                "config.data.stream=never on a machine that has the memory for it"
            )
        return np.asarray(self[:], dtype)

    def sample(self) -> tuple[bytes, list[np.ndarray]]:
        """What a digest can cover of a column on disk without reading it all.

        Which records it has and what their files are called and how large they are, as bytes; and
        the contents of at most 64 examples, evenly spaced.
        """
        rows = np.zeros(0, "<i8") if self.rows is None else self.rows.astype("<i8")
        head = json.dumps([self.rows is None, self.records.files()], sort_keys=True).encode()
        spread = np.unique(np.linspace(0, len(self) - 1, min(_SAMPLED, len(self))).astype(int))
        return head + rows.tobytes(), [self[spread]] if len(self) else []
