"""Networks that leave as .npz and as .onnx, evaluated by NumPy alone and by ONNX Runtime."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from lconv_jax import data, export, models, train
from lconv_jax.config import with_overrides
from lconv_jax.errors import ConfigError
from lconv_jax.portable import evaluate, npz, to_onnx
from lconv_jax.portable.network import from_run, from_variables
from lconv_jax.saved_run import load_run
from lconv_jax.training import inputs
from tests.test_folding import DENSE, SHAPES, assert_close, made, stored
from tests.tiny_config import get_config

reference = pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")

EVALUATE = pathlib.Path(evaluate.__file__)


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def computed(model, variables, inputs):
    return np.asarray(jax.jit(model.apply)(variables, inputs))


def from_npz(portable, images, tmp_path):
    path = tmp_path / "net.npz"
    path.write_bytes(npz.to_bytes(portable))
    return evaluate.logits(evaluate.read(path), images)


def from_onnx(portable, images):
    contents = to_onnx.to_model(portable).SerializeToString()
    session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize("name", models.NAMES)
def test_every_model_s_logits_are_those_of_its_files(name, shape, tmp_path):
    model, variables = made(name, shape)
    images = stored(shape, 40)
    portable = from_variables(model, variables, shape, "uint8")
    expected = computed(model, variables, data.normalize(images))
    for logits in (from_npz(portable, images, tmp_path), from_onnx(portable, images)):
        assert logits.dtype == np.float32
        assert_close(logits, expected)
        np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s_conv", "s_local", "three_fc"])
def test_signals_and_permuted_pixels(name, tmp_path):
    config = get_config()
    config.data.permute = 1
    shape = (11, 3)
    model, variables = made(name, shape)
    signals = np.random.default_rng(0).standard_normal((20, *shape)).astype(np.float32)
    preprocess = inputs.make_preprocess(config, shape)
    order = inputs.permutation(config.seed, shape)
    portable = from_variables(model, variables, shape, "float32", order=order)
    assert (portable.order is None) == (name in DENSE)
    expected = computed(model, variables, preprocess(signals))
    assert not np.allclose(computed(model, variables, signals), expected, atol=1e-2)
    assert_close(from_npz(portable, signals, tmp_path), expected)
    assert_close(from_onnx(portable, signals), expected)


@pytest.mark.slow
def test_resnet18_with_other_windows(tmp_path):
    model, variables = made("resnet18", (9, 7, 2), kernel_size=4)
    images = stored((9, 7, 2))
    portable = from_variables(model, variables, (9, 7, 2), "uint8")
    expected = computed(model, variables, data.normalize(images))
    assert_close(from_npz(portable, images, tmp_path), expected)
    assert_close(from_onnx(portable, images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.NAMES)
def test_a_kernel_is_found_by_the_name_of_its_layer(name):
    model, variables = made(name, (8, 8, 1))
    portable = from_variables(model, variables, (8, 8, 1), "uint8")
    found = {
        each: term.kernel
        for layer, names in zip(portable.network.layers, portable.names, strict=True)
        for term, each in zip(layer.terms, names, strict=True)
    }
    kernels = models.kernels(variables["params"])
    assert {each for each in found if not each.endswith("/identity")} == set(kernels)
    for each, kernel in kernels.items():
        # Normalisation multiplies a unit's weights by one number.
        ratio = (found[each] / np.asarray(kernel, np.float64)).reshape(-1, kernel.shape[-1])
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-4)


@pytest.mark.slow
def test_numpy_is_all_that_the_npz_needs(tmp_path):
    model, variables = made("d_local", (8, 8, 1))
    images = stored((8, 8, 1))
    (tmp_path / "net.npz").write_bytes(
        npz.to_bytes(from_variables(model, variables, (8, 8, 1), "uint8"))
    )
    np.save(tmp_path / "images.npy", images)
    program = (
        "import runpy, sys, numpy as np\n"
        "file = runpy.run_path(sys.argv[1])\n"
        "out = file['logits'](file['read']('net.npz'), np.load('images.npy'))\n"
        "np.save('out.npy', out)\n"
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'jax', 'flax', 'lconv_jax'}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, str(EVALUATE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert out == "[]\n"
    expected = computed(model, variables, data.normalize(images))
    assert_close(np.load(tmp_path / "out.npy"), expected)


def test_equal_networks_are_equal_bytes_and_zeros_cost_little():
    model, variables = made("s_fc", (16, 16, 1))
    portable = from_variables(model, variables, (16, 16, 1), "uint8")
    assert npz.to_bytes(portable) == npz.to_bytes(portable)
    sparse = jax.tree.map(lambda leaf: leaf * (np.abs(leaf) > 0.2), variables["params"])
    smaller = from_variables(model, {**variables, "params": sparse}, (16, 16, 1), "uint8")
    assert len(npz.to_bytes(smaller)) < len(npz.to_bytes(portable)) / 3


@pytest.mark.slow
def test_an_onnx_model_says_what_it_is():
    model, variables = made("s_conv", (8, 8, 1))
    about = {"model": "s_conv", "step": 7}
    portable = from_variables(model, variables, (8, 8, 1), "uint8", about=about)
    written = to_onnx.to_model(portable)
    assert {entry.key: entry.value for entry in written.metadata_props} == {
        "model": "s_conv",
        "step": "7",
    }
    assert written.opset_import[0].version == to_onnx.OPSET
    assert [node.op_type for node in written.graph.node].count("Conv") == 1
    # The reference implementation of the standard agrees.
    images = stored((8, 8, 1))
    found = reference.ReferenceEvaluator(written).run(None, {"images": images})[0]
    assert_close(found, computed(model, variables, data.normalize(images)))


def test_what_a_file_does_not_take_is_refused(tmp_path):
    model, variables = made("three_fc", (8, 8, 1))
    portable = from_variables(model, variables, (8, 8, 1), "uint8")
    for images in (np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 1), np.float32)):
        with pytest.raises(ValueError, match=r"this network takes uint8 of shape \[N, 8, 8, 1\]"):
            from_npz(portable, images, tmp_path)


def test_damage_is_refused(tmp_path):
    model, variables = made("three_fc", (3, 3, 1))
    whole = npz.to_bytes(from_variables(model, variables, (3, 3, 1), "uint8"))
    path = tmp_path / "net.npz"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 8
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net\.npz is not a network's .npz, or is damaged"):
            evaluate.read(path)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(ValueError, match=r"is not a network's .npz.*'network'"):
        evaluate.read(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="is not a network's"):
        evaluate.read(path)
    np.savez(path, network=np.array('{"format": 2}'))
    with pytest.raises(ValueError, match="has format 2; this program reads 1"):
        evaluate.read(path)


def test_what_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"must end in \.npz or \.onnx.*describe"):
        export.export(None, tmp_path / "net.lconv")
    with pytest.raises(ConfigError, match="there is no folder"):
        export.export(None, tmp_path / "none" / "net.npz")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r'pip install "lconv_jax\[onnx\]"'):
        export.export(None, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Of a convolution on permuted pixels."""
    directory = str(tmp_path_factory.mktemp("run"))
    changes = {"model.name": "s_conv", "train.epochs": 2, "data.permute": 1, "data.crop": 0}
    train.train_and_evaluate(with_overrides(get_config(), changes), directory)
    return directory


@pytest.mark.slow
def test_names_of_classes_leave_with_the_network(run_dir, tmp_path):
    given = data.load("digits")
    names = tuple(f"digit {number}" for number in range(10))
    run = load_run(run_dir)
    named = dataclasses.replace(run, _dataset=dataclasses.replace(given, class_names=names))
    named.__dict__["_setup"] = run._setup._replace(dataset=named._dataset)
    about = from_run(named).about
    assert about["classes"] == list(names)
    assert (about["model"], about["data"], about["step"]) == ("s_conv", "digits", run.step)
    written = to_onnx.to_model(from_run(named))
    found = {entry.key: entry.value for entry in written.metadata_props}
    assert json.loads(found["classes"]) == list(names)


@pytest.mark.slow
def test_a_run_s_predictions_are_those_of_its_files(run_dir, tmp_path):
    run = load_run(run_dir)
    test = run.dataset.test
    for name in ("net.npz", "net.onnx"):
        path = str(tmp_path / name)
        export.export(run, path)
        logits = export.evaluator(path)(test.images)
        assert_close(logits, run.logits(test.images))
        accuracy = np.mean(logits.argmax(1) == test.labels)
        assert accuracy == run.summary["metrics"]["eval/accuracy"]


@pytest.mark.slow
def test_the_command_writes_and_compares(run_dir, tmp_path):
    for name in ("net.npz", "net.onnx"):
        command = [sys.executable, "-m", "lconv_jax.export", run_dir, f"--out={tmp_path / name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "input uint8 [N × 8 × 8 × 1], output 10 logits" in done.stdout
        assert "the same class as the run for 256 of 256 test images" in done.stdout
    command = [sys.executable, "-m", "lconv_jax.export", run_dir, "--out=net.pt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --out=")
    assert len(done.stderr.splitlines()) == 1
