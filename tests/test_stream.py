"""Streamed data: the batches, bits and errors that data in memory would have given."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lconv_jax import data, errors, mdl, models
from lconv_jax.compression import certify
from lconv_jax.experiments import sweeps
from lconv_jax.parallel import sharding
from lconv_jax.training import evaluation, loop, rng, streaming
from lconv_jax.training.inputs import make_inputs
from lconv_jax.training.setup import prepare
from tests import tiny_config
from tests.data import tfds_made
from tests.helpers import final_digests, timeless

pytestmark = pytest.mark.optimized

tfds = pytest.importorskip("tensorflow_datasets")

COUNTS = {"train": 430, "test": 70}
CLASSES, SHAPE = 5, (6, 7, 3)
EXAMPLE_BYTES = 6 * 7 * 3 + 4
# GiB, of which the set takes 6.05e-5.
SMALLER, LARGER = 6.0e-5, 6.1e-5
FEATURES = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "label": tfds.features.ClassLabel(num_classes=CLASSES),
}


def _examples(split):
    rng = np.random.default_rng(len(split))
    labels = rng.permutation(np.arange(COUNTS[split]) % CLASSES)
    patterns = np.random.default_rng(9).integers(0, 156, (CLASSES, *SHAPE))
    images = patterns[labels] + rng.integers(0, 100, (len(labels), *SHAPE))
    return [
        {"image": tfds_made.png(image.astype(np.uint8)), "label": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a set of 500 examples, prepared by TFDS, is."""
    folder = tmp_path_factory.mktemp("prepared")
    tfds_made.make(folder, FEATURES, {split: _examples(split) for split in COUNTS})
    return folder


def _config(folder):
    config = tiny_config.get_config()
    config.data.name, config.data.data_dir = "made_set", str(folder)
    config.data.validation, config.data.flip, config.data.permute = 50, True, 1
    config.model.alpha = 2
    config.train.batch_size, config.train.epochs = 32, 3
    config.log.eval_every_epochs = config.checkpoint.every_epochs = 1
    return config


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of five batches of the made set, where an epoch has eleven."""
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 5 * 32 * EXAMPLE_BYTES)


@pytest.fixture(scope="module")
def in_memory(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("in_memory")
    loop.train_and_evaluate(_config(folder), workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "streamed"), [(SMALLER, True), (LARGER, False)])
def test_a_set_is_streamed_if_it_is_larger_than_the_limit(folder, limit, streamed):
    config = _config(folder)
    config.data.device_limit_gib = limit
    dataset = prepare(config).dataset
    assert data.is_streamed(dataset.train) is data.is_streamed(dataset.test) is streamed
    size = data.nbytes(dataset.train, dataset.validation, dataset.test)
    assert size == sum(COUNTS.values()) * EXAMPLE_BYTES


def test_a_subset_that_fits_is_read_whole(folder):
    load = {"examples": 50, "stream": "auto", "device_limit_gib": SMALLER}
    subset = data.load("made_set", folder, **load)
    expected = data.load("made_set", folder, examples=50)
    assert data.digest(subset) == data.digest(expected)


@pytest.mark.slow
def test_a_streamed_run_stopped_in_the_middle_has_the_bits_of_one_in_memory(
    folder, in_memory, small_chunks, tmp_path, monkeypatch
):
    assert threading.current_thread() is threading.main_thread(), "signals need the main thread"
    original, asked = streaming.training_feed, []

    @contextlib.contextmanager
    def stopping_feed(*args):
        with original(*args) as feed:

            def stopping(step):
                asked.append(step)
                if step == 16:
                    signal.raise_signal(signal.SIGTERM)
                return feed(step)

            yield stopping

    monkeypatch.setattr(streaming, "training_feed", stopping_feed)
    monkeypatch.setattr(loop, "SECONDS_PER_CALL", 0.0)  # one step a call
    config = _config(folder)
    config.data.device_limit_gib = SMALLER
    with pytest.raises(errors.Stopped, match="saved at step 17;"):
        loop.train_and_evaluate(config, tmp_path)
    summary = loop.train_and_evaluate(config, tmp_path)
    # Step 17 ends neither an epoch, of 11 steps, nor a chunk, of 5.
    assert summary["resumed_at_step"] == 17
    assert asked == list(range(33))
    assert summary["data_sha256"].startswith("streamed-")
    assert final_digests(tmp_path) == final_digests(in_memory)
    lines = timeless(tmp_path)
    assert lines == timeless(in_memory)
    assert {"eval/loss", "validation/accuracy"} <= lines[-1].keys()


@pytest.mark.slow
def test_a_directory_is_not_continued_with_data_read_in_the_other_way(folder, in_memory):
    config = _config(folder)
    config.data.stream = "always"
    with pytest.raises(ValueError, match=r"set config\.data\.stream=never"):
        loop.train_and_evaluate(config, in_memory)


@pytest.mark.parametrize("name", ["made_set", "digits"])
def test_division_gives_the_examples_it_gives_in_memory(folder, name):
    load = {"examples": 300, "validation": 50, "seed": 3}
    whole = data.load(name, folder, **load)
    streamed = data.load(name, folder, **load, stream="always")
    for split in ("train", "validation", "test"):
        there, here = getattr(whole, split), getattr(streamed, split)
        assert data.is_streamed(here)
        assert here.images.shape == there.images.shape
        assert (here.images.dtype, here.labels.dtype) == (there.images.dtype, there.labels.dtype)
        for got, want in zip(data.read_all(here), there, strict=True):
            np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(np.asarray(here.labels), there.labels)
        some = np.random.default_rng(0).integers(0, len(there.labels), 20)
        np.testing.assert_array_equal(here.images[some], there.images[some])
        np.testing.assert_array_equal(here.labels[5:9], there.labels[5:9])


@pytest.mark.slow
def test_a_batch_is_a_function_of_seed_and_step(folder):
    split = data.load("made_set", folder, stream="always").train
    images, labels = data.read_all(split)
    rows = np.arange(8, 24)
    batches = streaming.training_batches(split, 7, 32, 39, rows)
    assert len(batches) == 39
    for step in (38, 0, 12, 13, 26, 1):  # 13 steps an epoch, in any order
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), rng.ORDER), step // 13)
        start = step % 13 * 32
        chosen = np.asarray(jax.random.permutation(key, 430))[start : start + 32][rows]
        np.testing.assert_array_equal(batches[step].images, images[chosen])
        np.testing.assert_array_equal(batches[step].labels, labels[chosen])


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 4, 38])
def test_chunks_are_the_batches_in_order_from_any_start(folder, start):
    split = data.load("made_set", folder, stream="always").train
    batches = streaming.training_batches(split, 0, 32, 39, np.arange(32))
    with streaming.prefetched(batches, sharding.make_mesh(1), 32, 4, start) as chunks:
        got = [jax.device_get(chunk) for chunk in chunks]
    assert [chunk.labels.shape for chunk in got] == [(4, 32)] * -(-(39 - start) // 4)
    for number in range(start, start + 4 * len(got)):
        chunk, place = divmod(number - start, 4)
        want = batches[min(number, 38)]  # filled up with the last
        np.testing.assert_array_equal(got[chunk].images[place], want.images)
        np.testing.assert_array_equal(got[chunk].labels[place], want.labels)


@pytest.mark.slow
def test_threads_stop_when_a_feed_is_left(folder):
    split = data.load("made_set", folder, stream="always").train
    before = set(threading.enumerate())
    with streaming.training_feed(_config(folder), split, 39, sharding.make_mesh(1), 0) as feed:
        feed(0)
        started = set(threading.enumerate()) - before
        assert started
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()


def test_each_process_reads_its_rows():
    one_each = np.array([[0], [1], [2], [3]])
    rows = [sharding.rows_of_process(one_each, 12, process) for process in range(4)]
    assert [part.tolist() for part in rows] == [list(range(i, i + 3)) for i in (0, 3, 6, 9)]
    # Two hosts of four devices as 4 × 2; as 2 × 4 with "model" within a host; and across hosts.
    assert sharding.rows_of_process(np.repeat([0, 1], 4).reshape(4, 2), 8, 1).tolist() == [
        *range(4, 8)
    ]
    assert sharding.rows_of_process(np.array([[0] * 4, [1] * 4]), 8, 0).tolist() == [*range(4)]
    across = np.array([[0, 1], [0, 1]])
    assert sharding.rows_of_process(across, 8, 0).tolist() == [*range(8)]
    assert sharding.rows_of_process(across, 8, 1).tolist() == [*range(8)]
    assert sharding.local_rows(sharding.make_mesh(1), 6).tolist() == [*range(6)]


PROCESS = """
import sys
import jax
import numpy as np
from lconv_jax import data
from lconv_jax.parallel import sharding
from lconv_jax.training import streaming

index, port = int(sys.argv[1]), sys.argv[2]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", 2, index)
mesh = sharding.make_mesh()
images = np.arange(60, dtype=np.uint8).reshape(60, 1, 1)
split = data.stream_arrays(data.Split(images, np.arange(60, dtype=np.int32)))
rows = sharding.local_rows(mesh, 12)
assert rows.tolist() == list(range(6 * index, 6 * index + 6)), rows
whole = streaming.training_batches(split, 3, 12, 10, np.arange(12))
mine = streaming.training_batches(split, 3, 12, 10, rows)
with streaming.prefetched(mine, mesh, 12, 2, 4) as chunks:
    for first, chunk in zip((4, 6, 8), chunks, strict=True):
        assert chunk.images.shape == (2, 12, 1, 1) and chunk.labels.shape == (2, 12)
        want = np.stack([whole[first].labels, whole[first + 1].labels])
        assert len(chunk.labels.addressable_shards) == 2
        for shard in chunk.labels.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), want[shard.index])
        for shard in chunk.images.addressable_shards:
            pixels = np.asarray(shard.data)[..., 0, 0]
            np.testing.assert_array_equal(pixels, want[shard.index[:2]])
print("read", rows.tolist())
"""


@pytest.mark.slow
def test_two_processes_make_whole_batches_of_their_parts():
    import portpicker

    port = str(portpicker.pick_unused_port())
    root = pathlib.Path(__file__).parent.parent
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(index), port],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for index, process in enumerate(processes):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == f"read {list(range(6 * index, 6 * index + 6))}"


def test_chunks_are_bounded(folder):
    split = data.load("made_set", folder, stream="always").train
    assert streaming.example_bytes(split) == EXAMPLE_BYTES
    assert streaming.chunk_steps(split, 32, 1000) == streaming.MOST_STEPS
    assert streaming.chunk_steps(split, 32, 9) == 9
    # 64 × 64 × 3 + 4 bytes an example: ten batches of 512 fit 64 MiB, and 11 do not.
    imagenet = dataclasses.replace(split.images, records=_Shape((1000, 64, 64, 3)))
    imagenet = data.Split(imagenet, dataclasses.replace(imagenet, what="labels"))
    assert streaming.chunk_steps(imagenet, 512, 1000) == 10
    assert streaming.chunk_steps(imagenet, 100_000, 1000) == 1


@dataclasses.dataclass
class _Shape:
    shape: tuple[int, ...]
    dtype = np.dtype(np.uint8)


@pytest.mark.slow
def test_evaluation_in_batches_larger_than_the_set_is_that_in_memory(folder):
    config, batch_size = _config(folder), 500
    whole = data.load("made_set", folder)
    streamed = data.load("made_set", folder, stream="always")
    model = models.create("s_fc", alpha=2, num_classes=CLASSES)
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(1), np.zeros((2, *SHAPE), np.float32))
    given = model, make_inputs(config, SHAPE), batch_size, sharding.make_mesh(1)
    key = jax.random.key(3)
    statistics = evaluation.make_statistics(*given)
    params, batch_stats = variables["params"], variables["batch_stats"]
    here, there = (
        jax.device_get(statistics(params, batch_stats, dataset.train.images, key))
        for dataset in (streamed, whole)
    )
    jax.tree.map(np.testing.assert_array_equal, here, there)

    @dataclasses.dataclass
    class State:
        params = variables["params"]
        batch_stats = variables["batch_stats"]

    run = evaluation.make_evaluate(*given)
    assert run(State, streamed.train, streamed.test, key) == run(
        State, whole.train, whole.test, key
    )


def test_errors_of_a_description_are_counted_on_streamed_examples(folder):
    rng = np.random.default_rng(0)
    kernel = rng.integers(-3, 4, (int(np.prod(SHAPE)), CLASSES))
    term = mdl.Term("dense", 0, 1, kernel)
    layer = mdl.Layer((term,), np.zeros(CLASSES, np.int64), 0)
    network = mdl.Network(SHAPE, "centred", (layer,))
    whole = data.load("made_set", folder).train
    split = data.load("made_set", folder, stream="always").train
    errors = certify.count_errors(network, whole)
    assert 0 < errors < 430
    assert certify.count_errors(network, split) == errors


def test_what_needs_all_images_in_memory_is_refused(folder):
    split = data.load("made_set", folder, stream="always").train
    with pytest.raises(data.DataError, match=r"made_set.*\(train\).*config\.data\.stream=never"):
        np.asarray(split.images)


@pytest.mark.slow
def test_the_digest_of_a_streamed_set(folder, tmp_path):
    def digest(folder=folder, **options):
        return data.digest(data.load("made_set", folder, stream="always", **options))

    original = digest(validation=50)
    assert original.startswith("streamed-")
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert digest(moved, validation=50) == original
    others = [digest(), digest(validation=50, seed=1), digest(validation=50, examples=400)]
    for changed in ("size", "content"):
        examples = {split: _examples(split) for split in COUNTS}
        if changed == "size":
            # A longer file of the same image, which may not be among those looked at.
            examples["test"][33]["image"] += bytes(100_000)
        else:
            for example in examples["train"]:
                example["label"] = (example["label"] + 1) % CLASSES
        tfds_made.make(tmp_path / changed, FEATURES, examples)
        others.append(digest(tmp_path / changed, validation=50))
    assert len({original, *others}) == 1 + len(others)
    # What is in the host's memory is covered whole, and streaming it changes nothing.
    digits = [data.load("digits", validation=10, stream=how) for how in ("never", "always")]
    assert data.digest(digits[0]) == data.digest(digits[1])


def test_the_folder_of_a_set_may_be_named(folder):
    named = data.load(str(folder / "made_set" / "1.0.0"))
    assert named.name == "made_set"
    assert data.digest(named) == data.digest(data.load("made_set", folder))


@pytest.mark.parametrize("wrong", ["size", "label"])
def test_what_is_wrong_with_a_record_is_said_when_it_is_read(tmp_path, wrong):
    examples = {split: _examples(split) for split in COUNTS}
    if wrong == "size":
        examples["train"][200]["image"] = tfds_made.png(np.zeros((6, 8, 3), np.uint8))
    else:
        examples["train"][200]["label"] = -1  # what TFDS writes where there is no label
    tfds_made.make(tmp_path, FEATURES, examples)
    split = data.load("made_set", tmp_path, stream="always").train
    feeding = streaming.training_feed(_config(tmp_path), split, 13, sharding.make_mesh(1), 0)
    says = r"image \d+ has shape \(6, 8, 3\)" if wrong == "size" else r"label -1 of example \d+"
    with feeding as feed, pytest.raises(data.DataError, match=says) as error:
        feed(0)
    assert "made_set" in str(error.value)


@pytest.mark.parametrize("error", [SystemExit("gone"), StopIteration("gone"), OSError("gone")])
def test_whatever_a_reading_thread_meets_is_raised(error):
    def index(number):
        if number == 3:
            raise error
        return np.arange(4)

    split = data.Split(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32))
    batches = streaming.Batches(split, 10, index, np.arange(4))
    with (
        streaming.prefetched(batches, sharding.make_mesh(1), 4, 2) as chunks,
        pytest.raises((data.DataError, OSError), match="gone"),
    ):
        list(chunks)


def test_a_sweep_of_a_streamed_set_is_refused(folder, tmp_path):
    config = _config(folder)
    config.data.device_limit_gib = SMALLER
    with pytest.raises(ValueError, match=r"config\.data\.stream = 'auto': .* set it to never"):
        sweeps.run(config, tmp_path / "sweep", {"optimizer.beta": [0.0, 10.0]})
    assert not (tmp_path / "sweep").exists()


def test_unknown_ways_of_streaming_are_refused(folder):
    with pytest.raises(data.DataError, match=r"data\.stream = 'yes': must be one of auto, never"):
        data.load("made_set", folder, stream="yes")


def test_a_chunk_lies_over_the_data_axis():
    assert sharding.chunk_sharding(sharding.make_mesh(1)).spec == P(None, "data")
