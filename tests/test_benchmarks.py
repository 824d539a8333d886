"""Each benchmark at toy size, and the arithmetic that their ratios rest on."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cases, common, memory, optimizers, report, step
from lconv_jax import masks_of, models


def _run(module, name, tmp_path, *flags):
    path = tmp_path / f"{name}.json"
    returned = module.main(["--toy", f"--json={path}", *flags])
    stored = json.loads(path.read_text("utf-8"))
    assert stored == returned
    assert {"hardware", "python", "jax", "jaxlib", "flax"} <= set(stored["machine"])
    assert stored["toy"]
    return stored["models"]


@pytest.fixture
def told_times(monkeypatch):
    """Makes the programs of a benchmark run once, and take the seconds that a test says."""

    def tell(**seconds):
        def interleave(programs, rounds, **_):
            for program in programs.values():
                jax.block_until_ready(program())
            return common.Times({name: seconds[name.replace(" ", "_")] for name in programs})

        monkeypatch.setattr(common, "interleave", interleave)

    return tell


@pytest.mark.slow
@pytest.mark.parametrize(("model", "dtype"), [("s_fc_256m", "bfloat16"), ("s_local", "float32")])
def test_step(model, dtype, tmp_path, capsys, told_times):
    # The median turn of the step is the one that takes eight times the products and the copy.
    told_times(
        step=[24.0, 3.0, 60.0],
        no_metrics=[16.0, 2.0, 40.0],
        no_augmentation=[12.0, 2.0, 30.0],
        products=[2.0, 1.0, 4.0],
        copy=[1.0, 1.0, 1.0],
        square=[0.5, 0.25, 0.5],
    )
    rows = _run(step, "step", tmp_path, f"--models={model}", f"--dtype={dtype}")
    assert list(rows) == [model]
    row = rows[model]
    assert row["dtype"] == dtype
    case = cases.CASES[model].toy()
    network = models.create(case.model, alpha=case.alpha, num_classes=cases.CLASSES)
    flops = sum(product.flops for product in cases.products(network, case.image_shape, case.batch))
    assert row["step ms"] == 24e3 / case.steps
    assert row["bound ms"] == 3e3 / case.steps
    assert row["GFLOP/s"] == pytest.approx(case.steps * flops / 24e9)
    assert row["products GFLOP/s"] == pytest.approx(case.steps * flops / 2e9)
    assert row["square GFLOP/s"] == pytest.approx(2 * 128**3 / 0.5e9)
    # A step computes its flops, and the square 2 · 128³, in the time of each.
    assert row["share of square"] == pytest.approx(case.steps * flops / (2 * 128**3) * 0.5 / 24)
    ratios = {
        "share": 2 / 24,
        "step / bound": 8.0,
        "metrics cost": 0.5,
        "augmentation cost": 1.0,
    }
    assert {name: row[name] for name in ratios} == pytest.approx(ratios)
    assert 0 < row["compile s"] < math.inf
    printed = capsys.readouterr().out
    assert "step / bound" in printed
    assert common.hardware() in printed


def test_what_needs_a_gpu_is_not_run_without_one_and_says_so(tmp_path):
    if jax.default_backend() != "cpu":
        pytest.skip("there is one")
    path = tmp_path / "step.json"
    result = step.main(["--models=s_fc_256m", f"--json={path}"])
    assert result["models"] == {"s_fc_256m": {"note": "not run: no GPU at hand"}}


@pytest.mark.slow
@pytest.mark.optimized
def test_memory_of_the_state_is_that_of_its_arrays(tmp_path):
    (row,) = _run(memory, "memory", tmp_path, "--models=s_fc_8").values()
    # Two BN layers of 72 and 48 units: two parameters and two statistics each; a bias of 10.
    weights = 144 * 72 + 72 * 48 + 48 * 10
    parameters = weights + 2 * (72 + 48) + 10
    assert row["parameters MiB"] == 4 * parameters / 2**20
    # Statistics, and three counts: of steps, of the schedule, of the threshold's.
    state = 4 * (parameters + 2 * (72 + 48)) / 2**20
    assert state < row["state MiB"] < state + 64 / 2**20
    assert row["arguments MiB"] > row["state MiB"]
    # The state is donated.
    assert row["aliased MiB"] == pytest.approx(row["state MiB"], rel=0.01)
    assert 1 < row["peak / parameters"] < 100


@pytest.mark.slow
def test_peers_agree_and_are_timed(tmp_path, told_times):
    pytest.importorskip("torch")
    from benchmarks import peers

    told_times(jax=[2.0, 4.0], eager=[6.0, 20.0], compile=[1.0, 3.0], multiply=[8.0, 24.0])
    rows = _run(peers, "peers", tmp_path, "--models=s_fc_16m,s_local,resnet18")
    for name, row in rows.items():
        assert row["loss difference"] < 1e-4
        assert row["eager / jax"] == (6 / 2 + 20 / 4) / 2
        assert row["compile / jax"] == (1 / 2 + 3 / 4) / 2
        assert row["eager ms"] == 13e3 / peers.peer_case(name, toy=True).steps
    assert rows["s_local"]["multiply / jax"] == (8 / 2 + 24 / 4) / 2
    assert "multiply / jax" not in rows["s_fc_16m"]


@pytest.mark.slow
def test_peers_that_train_otherwise_are_refused():
    pytest.importorskip("torch")
    from benchmarks import peers

    case = peers.peer_case("s_fc_8", toy=True)
    programs = {name: peers.make_program(case, name) for name in ("jax", "eager")}
    programs["eager"].threshold *= 100
    with pytest.raises(ValueError, match="losses of the first steps differ"):
        peers.check_losses(case, programs)


@pytest.mark.slow
@pytest.mark.optimized
def test_flops_are_those_that_the_compiler_counts():
    case = cases.CASES["s_fc_8"]._replace(batch=64)
    model = models.create("s_fc", alpha=8, num_classes=10)
    inputs = jax.ShapeDtypeStruct((64, *case.image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)

    def loss(params, stats, inputs):
        variables = {"params": params, "batch_stats": stats}
        return model.apply(variables, inputs, train=True, mutable=["batch_stats"])[0].sum()

    traced = jax.jit(jax.grad(loss)).trace(variables["params"], variables["batch_stats"], inputs)
    compiled = traced.lower().compile()
    counted = compiled.cost_analysis()["flops"]
    flops = sum(product.flops for product in cases.products(model, case.image_shape, 64))
    # The rest is elementwise, some tens of operations for each of 64 · (1568 + 192) activations.
    assert flops < counted < 1.03 * flops


def test_products_of_a_convolution_and_of_its_local_twin_are_the_same_arithmetic():
    found = {
        kind: cases.products(models.create(f"d_{kind}", alpha=3, num_classes=10), (16, 16, 3), 8)
        for kind in ("conv", "local")
    }
    assert found["conv"][0] == (1, 8 * 16 * 16, 9 * 3, 3, 1)
    assert found["local"][0] == (16 * 16, 8, 9 * 3, 3, 1)
    assert found["conv"][1] == (1, 8 * 8 * 8, 9 * 3, 6, 2)
    conv, local = ([product.flops for product in found[kind]] for kind in ("conv", "local"))
    assert conv == local
    assert sum(conv) == sum(2 * (1 + p.backward) * math.prod(p[:4]) for p in found["conv"])


@pytest.mark.slow
@pytest.mark.optimized
def test_every_product_stays_in_the_loop():
    products = [cases.Product(1, 8, 6, 5, 1), cases.Product(3, 8, 4, 2, 2)]
    loop = step.product_loop(products, jnp.float32)
    for outputs in (loop(1), loop(3)):
        assert [output.shape for output in outputs] == [
            (8, 5),
            (6, 5),
            (3, 8, 2),
            (3, 4, 2),
            (3, 8, 4),
        ]
    text = jax.jit(loop).lower(2).compile().as_text()
    body = text[: text.index("ENTRY")]
    assert body.count(" dot(") == 5


def test_turns_are_taken_and_ratios_are_within_a_turn():
    order = []
    programs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = common.interleave(programs, 3)
    assert order == list("abcbcacababc")
    assert [len(seconds) for seconds in times.seconds.values()] == [3, 3, 3]
    times = common.Times({"a": [1.0, 8.0, 3.0], "b": [2.0, 4.0, 3.0], "c": [2.0, 4.0, 1.0]})
    assert times.median("a") == 3.0
    assert times.ratio("a", "b") == 1.0
    assert times.ratio("a", "b", "c") == 0.75


@pytest.mark.parametrize("flags", [["--models=s_fc"], ["--rounds=0"]])
def test_flags_that_cannot_be_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        step.main(flags)
    assert flags[0].partition("=")[2] in capsys.readouterr().err


def test_the_page_has_the_last_results():
    page = report.PAGE.read_text("utf-8")
    assert report.refreshed(page) == page
    for name in report.TABLES:
        assert page.count(f"<!-- {name} -->\n") == 1


def test_a_result_is_put_into_the_page_and_what_was_not_run_says_so(tmp_path):
    rows = {"a": {"alpha": 8, "share": 0.87654}, "b": {"note": "not run: no GPU at hand"}}
    result = {"machine": {"jax": "1"}, "rounds": 3, "clock": "wall", "models": rows}
    (tmp_path / "step.json").write_text(json.dumps(result))
    page = "before\n<!-- step -->\nold\n<!-- end -->\nafter\n"
    assert report.refreshed(page, tmp_path) == (
        "before\n<!-- step -->\n"
        "| | alpha | share |\n|---|---|---|\n| a | 8 | 0.877 |\n"
        "| b | not run: no GPU at hand |  |\n\njax 1; wall time, medians of 3 turns.\n"
        "<!-- end -->\nafter\n"
    )


@pytest.mark.slow
def test_optimizers_are_timed_by_sgd(tmp_path, told_times):
    seconds = {"sgd": [2.0, 1.0, 4.0], "snip": [3.0, 2.0, 4.0], "rigl": [2.0, 3.0, 8.0]}
    told_times(**seconds, **{"rigl,_always": [6.0, 4.0, 8.0]})
    rows = _run(optimizers, "optimizers", tmp_path, "--models=snip,rigl")
    assert rows["sgd"] == {"step ms": 1000}
    assert rows["snip"] == {"step ms": 1500, "by SGD": 1.5}
    assert rows["rigl"] == {"step ms": 1500, "by SGD": 2.0, "change": 1.0, "with changes": 2.01}


@pytest.mark.slow
@pytest.mark.parametrize("always", [False, True])
def test_masks_change_at_each_timed_step_or_at_none(always):
    stepper = optimizers.make_stepper(optimizers.CASE.toy(), "sparse_evolution", always)
    masks = []
    for _ in range(2):
        stepper(2)
        # A copy: the next call takes the state's memory.
        masks.append(jax.device_get(masks_of(stepper.state.opt_state)))
    moved = not all(map(np.array_equal, *map(jax.tree.leaves, masks)))
    assert moved == always


@pytest.mark.slow
def test_autoaugment_does_what_pillow_does_and_is_timed(tmp_path, told_times):
    from benchmarks import autoaugment

    told_times(jax=[2.0, 1.0, 5.0], pillow=[8.0, 16.0, 5.0])
    rows = _run(autoaugment, "autoaugment", tmp_path)
    assert list(rows) == list(autoaugment.SHAPES)
    for row in rows.values():
        assert row["agree"] > 0.99
        # Two batches of 32, by the median turns; the ratio is the median of those in a turn.
        assert (row["jax images/s"], row["Pillow images/s"]) == (64 / 2, 64 / 8)
        assert row["jax / Pillow"] == 4
