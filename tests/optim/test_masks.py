"""Methods of sparse training against their definitions, written out in NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax.optim import (
    NM,
    Blocks,
    Units,
    apply_masks,
    fixed_masks,
    layer_densities,
    lottery_ticket,
    magnitude_pruning,
    masks_of,
    random_masks,
    rigl,
    saliency_pruning,
    snip,
    sparse_evolution,
    top_k_mask,
)

SHAPES = {"conv1": (12, 16), "fc1": (16, 8)}


def make_params(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": jnp.asarray(rng.normal(size=shape), dtype),
            "bias": jnp.asarray(rng.normal(size=shape[-1:]), dtype),
        }
        for name, shape in SHAPES.items()
    }


def kernels(tree):
    return {name: np.asarray(tree[name]["kernel"]) for name in SHAPES}


def run(tx, steps, *, params=None, start=apply_masks, key=0):
    """The parameters, gradients and states of all updates, the first being those before any."""
    params = make_params() if params is None else params
    state = tx.init(params)
    params = start(params, state) if start else params
    step = jax.jit(tx.update)
    found = [(params, None, state)]
    for index in range(steps):
        grads = make_params(1000 * key + index + 1)
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        found.append((params, grads, state))
        for name, mask in kernels(masks_of(state)).items():
            kernel = kernels(params)[name]
            assert np.all(kernel[~mask] == 0)
            assert np.all(kernel[mask] != 0) or not np.all(mask)
        assert all(np.all(params[name]["bias"] != 0) for name in SHAPES)
    return found


def counts(state):
    return {name: int(mask.sum()) for name, mask in kernels(masks_of(state)).items()}


def largest(scores, k):
    """NumPy's k largest, of equals the first."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[:k]] = True
    return mask.reshape(scores.shape)


values = st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.5, 1e-30, 3e38, -np.inf]) | st.floats(
    width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(scores=st.lists(values, min_size=6, max_size=6), k=st.integers(0, 6))
def test_the_largest_are_those_of_a_sort(scores, k):
    scores = np.asarray(scores, np.float32)
    expected = largest(scores, k)
    np.testing.assert_array_equal(jax.jit(top_k_mask)(scores, k), expected)
    together = top_k_mask([scores[:2], scores[2:].reshape(2, 2)], k)
    found = np.concatenate([np.ravel(leaf) for leaf in together])
    np.testing.assert_array_equal(found, expected)


def test_the_largest_of_many_lanes():
    scores = np.random.default_rng(0).integers(0, 9, (5, 200)).astype(np.float32)
    ks = np.array([0, 1, 50, 199, 200])
    found = jax.jit(jax.vmap(top_k_mask))(scores, ks)
    for lane, score, k in zip(found, scores, ks, strict=True):
        np.testing.assert_array_equal(lane, largest(score, k))


def resnet50():
    """The kernels of ResNet-50, and the places at which each is used on 224 × 224 pixels."""
    layers, channels = {"conv1": ((7, 7, 3, 64), 112**2)}, 64
    for stage, (width, blocks, side) in enumerate(
        [(64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)]
    ):
        for block in range(blocks):
            first = 2 * side if stage and not block else side
            parts = [((1, 1, channels, width), first), ((3, 3, width, width), side)]
            parts += [((1, 1, width, 4 * width), side)]
            parts += [((1, 1, channels, 4 * width), side)] * (not block)
            for number, (shape, sides) in enumerate(parts):
                layers[f"{stage}.{block}.{number}"] = shape, sides**2
            channels = 4 * width
    return layers | {"fc": ((2048, 1000), 1)}


@pytest.mark.parametrize(
    ("density", "distribution", "published"),
    [
        (0.2, "erdos_renyi_kernel", 0.42),
        (0.1, "erdos_renyi_kernel", 0.24),
        (0.05, "erdos_renyi_kernel", 0.12),
        (0.1, "uniform", 0.10),
    ],
)
def test_resnet_50_has_the_operations_that_rigl_publishes(density, distribution, published):
    """Evci et al. 2020, Table 2: operations at a test, by those of the dense network."""
    layers = resnet50()
    shapes = {n: {"kernel": jax.ShapeDtypeStruct(s, "float32")} for n, (s, _) in layers.items()}
    found = layer_densities(shapes, density, distribution)
    sizes = {name: math.prod(shape) for name, (shape, _) in layers.items()}
    assert sum(sizes.values()) == 25_502_912
    total = sum(found[name]["kernel"] * sizes[name] for name in layers)
    assert total == pytest.approx(density * sum(sizes.values()))
    operations = {name: sizes[name] * uses for name, (_, uses) in layers.items()}
    share = sum(found[name]["kernel"] * operations[name] for name in layers)
    assert share / sum(operations.values()) == pytest.approx(published, abs=0.01)


@settings(max_examples=50, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6),
    density=st.floats(0.01, 1),
)
def test_layers_share_the_density_in_proportion(sides, density):
    shapes = {f"fc{i}": jax.ShapeDtypeStruct(shape, "float32") for i, shape in enumerate(sides)}
    found = layer_densities(shapes, density, "erdos_renyi")
    total = sum(math.prod(shapes[name].shape) * found[name] for name in shapes)
    assert total == pytest.approx(density * sum(math.prod(shape) for shape in sides))
    assert all(0 < value <= 1 for value in found.values())
    ratios = {
        name: found[name] * math.prod(shapes[name].shape) / sum(shapes[name].shape)
        for name in shapes
    }
    shared = [ratios[name] for name in shapes if found[name] < 1]
    assert shared == pytest.approx([max(shared, default=0)] * len(shared))
    # Dense are only those that would be more than dense.
    assert all(ratios[name] <= max(shared) * 1.001 for name in shapes if shared)


def test_a_local_layer_counts_as_a_convolution_at_each_position():
    shapes = {
        "conv1": {"kernel": jax.ShapeDtypeStruct((5, 5, 3, 3, 4, 8), "float32")},
        "fc1": {"kernel": jax.ShapeDtypeStruct((200, 10), "float32")},
    }
    found = layer_densities(shapes, 0.05)
    ratio = found["conv1"]["kernel"] / found["fc1"]["kernel"]
    assert ratio == pytest.approx((3 + 3 + 4 + 8) / (9 * 32) / (210 / 2000))
    by_label = layer_densities(shapes, {"conv": 0.5})
    assert by_label["conv1"]["kernel"] == 0.5
    assert isinstance(by_label["fc1"]["kernel"], optax.MaskedNode)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_gradual_pruning_follows_the_cubic_and_keeps_the_largest(distribution):
    begin, end, every, density = 2, 9, 3, 0.1
    tx = magnitude_pruning(
        *(optax.sgd(0.1, momentum=0.9), density),
        **{"begin": begin, "end": end, "every": every, "distribution": distribution},
    )
    found = run(tx, 12)
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    before = {name: np.ones(shape, bool) for name, shape in SHAPES.items()}
    for t, ((params, _, old), (_, grads, new)) in enumerate(itertools.pairwise(found)):
        masks = kernels(masks_of(new))
        due = t in (2, 5, 8, 9)
        if due:
            now = density + (1 - density) * (1 - (t - begin) / (end - begin)) ** 3
            traces = kernels(old.inner_state[0].trace)
            moved = {
                name: kernel - 0.1 * (0.9 * traces[name] + kernels(grads)[name] * before[name])
                for name, kernel in kernels(params).items()
            }
            scores = {n: np.where(before[n], np.abs(moved[n]), -1) for n in SHAPES}
            if distribution == "global":
                flat = np.concatenate([scores[name].ravel() for name in SHAPES])
                chosen = largest(flat, sum(round(now * size) for size in sizes.values()))
                parts = np.split(chosen, [sizes["conv1"]])
            else:
                parts = [largest(scores[name], round(now * sizes[name])) for name in SHAPES]
            for name, part in zip(SHAPES, parts, strict=True):
                np.testing.assert_array_equal(masks[name], part.reshape(SHAPES[name]))
            traces = kernels(new.inner_state[0].trace)
            assert all(np.all(traces[name][~masks[name]] == 0) for name in SHAPES)
        assert all(np.all(masks[name] <= before[name]) for name in SHAPES)
        assert due or all(np.all(masks[name] == before[name]) for name in SHAPES)
        before = masks
    assert sum(counts(found[-1][2]).values()) == sum(round(density * n) for n in sizes.values())


@pytest.mark.slow
def test_saliency_is_averaged_since_the_pruning_before():
    tx = saliency_pruning(optax.sgd(0.01), 0.25, begin=1, end=4, every=3, distribution="uniform")
    found = run(tx, 5)
    for first, last, share in ((0, 1, 1.0), (2, 4, 0.25)):
        for name, shape in SHAPES.items():
            scores = sum(
                (kernels(found[t][0])[name] * kernels(found[t + 1][1])[name]) ** 2
                for t in range(first, last + 1)
            )
            mask = kernels(masks_of(found[last][2]))[name]
            scores = np.where(mask, scores, -1)
            np.testing.assert_array_equal(
                kernels(masks_of(found[last + 1][2]))[name],
                largest(scores.astype(np.float32), round(share * math.prod(shape))),
            )


@pytest.mark.slow
def test_snip_s_score_is_the_derivative_by_the_mask():
    inputs = jax.random.normal(jax.random.key(0), (32, 12))
    params = make_params()

    def loss(params):
        hidden = jnp.tanh(inputs @ params["conv1"]["kernel"] + params["conv1"]["bias"])
        return jnp.mean((hidden @ params["fc1"]["kernel"]) ** 2)

    def loss_of_masks(masks):
        masked = {
            name: params[name] | {"kernel": params[name]["kernel"] * masks[name]} for name in SHAPES
        }
        return loss(masked)

    slopes = jax.grad(loss_of_masks)({name: jnp.ones(shape) for name, shape in SHAPES.items()})
    flat = np.concatenate([np.abs(slopes[name]).ravel() for name in SHAPES])
    tx = snip(optax.adam(0.1), 0.3)
    state = tx.init(params)
    updates, state = jax.jit(tx.update)(jax.grad(loss)(params), state, params)
    found = np.concatenate([mask.ravel() for mask in kernels(masks_of(state)).values()])
    kept = found.sum()
    assert kept == sum(round(0.3 * math.prod(shape)) for shape in SHAPES.values())
    assert flat[found].min() >= flat[~found].max() * (1 - 1e-5)
    # The first update removes weights and does nothing else.
    after = optax.apply_updates(params, updates)
    for name, mask in kernels(masks_of(state)).items():
        np.testing.assert_array_equal(after[name]["kernel"], params[name]["kernel"] * mask)
        np.testing.assert_array_equal(after[name]["bias"], params[name]["bias"])
    assert int(optax.tree.get(state.inner_state, "count")) == 0


@pytest.mark.slow
def test_a_lottery_ticket_goes_back_with_its_schedule():
    schedule = optax.linear_schedule(0.5, 0.0, 6)
    tx = lottery_ticket(
        *(optax.sgd(schedule, momentum=0.9), 0.25),
        **{"rounds": 2, "steps_per_round": 6, "rewind_step": 2, "distribution": "uniform"},
    )
    found = run(tx, 6 + 2 * 4)
    early = kernels(found[2][0])
    for end, share in ((6, 0.5), (10, 0.25)):
        params, _, state = found[end]
        assert counts(state) == {n: round(share * math.prod(s)) for n, s in SHAPES.items()}
        for name, mask in kernels(masks_of(state)).items():
            left = kernels(found[end - 1][0])[name]
            off = np.abs(kernels(params)[name] - early[name] * mask)
            assert np.all(off <= 2.0**-22 * np.maximum(np.abs(left), np.abs(early[name])))
            trace = kernels(found[2][2].inner_state[0].trace)[name]
            np.testing.assert_array_equal(kernels(state.inner_state[0].trace)[name], trace * mask)
        assert int(optax.tree.get(state.inner_state, "count")) == 2
        # The largest at the end of the round stay.
        for name, mask in kernels(masks_of(state)).items():
            before = kernels(masks_of(found[end - 1][2]))[name]
            assert np.all(mask <= before)
    assert int(optax.tree.get(found[-1][2].inner_state, "count")) == 6


@pytest.mark.slow
def test_rigl_drops_the_smallest_and_grows_the_steepest():
    every, end, alpha = 3, 10, 0.5
    tx = rigl(optax.sgd(0.1, momentum=0.9), 0.3, every=every, end=end, drop_fraction=alpha)
    found = run(tx, 13)
    first = counts(found[0][2])
    assert sum(first.values()) == pytest.approx(0.3 * (192 + 128), abs=1)
    for t, ((params, _, old), (after, grads, new)) in enumerate(itertools.pairwise(found)):
        assert counts(new) == first
        due = t in (3, 6, 9)
        for name, mask in kernels(masks_of(new)).items():
            before, kernel = kernels(masks_of(old))[name], kernels(params)[name]
            if not due:
                np.testing.assert_array_equal(mask, before)
                continue
            fraction = alpha / 2 * (1 + math.cos(math.pi * t / end))
            dropped = math.floor(fraction * first[name])
            assert dropped > 0 or t == 9
            stay = largest(np.where(before, np.abs(kernel), -np.inf), first[name] - dropped)
            slopes = np.where(stay, -np.inf, np.abs(kernels(grads)[name]))
            np.testing.assert_array_equal(mask, stay | largest(slopes, dropped))
            # No step: weights that stay have not moved, new ones are zero.
            np.testing.assert_array_equal(kernels(after)[name], np.where(mask, kernel, 0))
            trace = kernels(new.inner_state[0].trace)[name]
            assert np.all(trace[mask & ~before] == 0)
            assert np.any(trace[mask & before] != 0)


@pytest.mark.slow
def test_set_grows_anywhere_and_trains_on():
    tx = sparse_evolution(optax.sgd(0.1), 0.3, every=2, drop_fraction=0.4)
    found = run(tx, 5)
    first = counts(found[0][2])
    for t, ((params, _, old), (_, grads, new)) in enumerate(itertools.pairwise(found)):
        assert counts(new) == first
        for name, mask in kernels(masks_of(new)).items():
            before = kernels(masks_of(old))[name]
            if t not in (2, 4):
                np.testing.assert_array_equal(mask, before)
                continue
            moved = np.abs(kernels(params)[name] - 0.1 * kernels(grads)[name] * before)
            stay = largest(np.where(before, moved, -np.inf), math.ceil(0.6 * first[name]))
            assert np.all(mask[stay])

    # Over many seeds each free place grows equally often.
    params, grads = make_params(), make_params(1)

    def grown(seed):
        tx = sparse_evolution(optax.sgd(0.1), {"conv": 0.25}, every=1, drop_fraction=0.5, seed=seed)
        state = tx.init(params)
        state = state._replace(masks=masks, count=jnp.int32(1))
        return tx.update(grads, state, params)[1].masks["conv1"]["kernel"]

    masks = random_masks(optax.sgd(0.1), {"conv": 0.25}).init(params).masks
    share = np.asarray(jax.jit(jax.vmap(grown))(jnp.arange(2000)).mean(0))
    sizes = np.where(
        masks["conv1"]["kernel"],
        np.abs(kernels(params)["conv1"] - 0.1 * kernels(grads)["conv1"]),
        -1,
    )
    stay = largest(sizes, 24)
    assert np.all(share[stay] == 1)
    free = share[~stay]
    expected = 24 / free.size
    deviation = math.sqrt(expected * (1 - expected) / 2000)
    assert np.all(np.abs(free - expected) < 5 * deviation)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("structure", "density"), [(NM(1, 4), 0.25), (Blocks(4, 2), 0.25), (Units(), 0.25)]
)
@pytest.mark.parametrize("method", ["magnitude", "random", "rigl"])
def test_structures(structure, density, method):
    options = {"structure": structure}
    if method == "rigl" and isinstance(structure, NM):
        with pytest.raises(ValueError, match="structure must be None, Blocks or Units here"):
            rigl(optax.sgd(0.1), density, end=9, **options)
        return
    make = {
        "magnitude": lambda: magnitude_pruning(optax.sgd(0.1), density, begin=1, end=3, **options),
        "random": lambda: random_masks(optax.sgd(0.1), density, distribution="uniform", **options),
        "rigl": lambda: rigl(
            optax.sgd(0.1), density, end=9, every=2, distribution="uniform", **options
        ),
    }[method]
    found = run(make(), 5)
    for mask in kernels(masks_of(found[-1][2])).values():
        assert mask.mean() == density
        inputs, outputs = mask.shape
        if isinstance(structure, NM):
            assert np.all(mask.reshape(inputs // 4, 4, outputs).sum(1) == 1)
        elif isinstance(structure, Units):
            assert set(mask.sum(0)) == {0, inputs}
        else:
            blocks = mask.reshape(inputs // 4, 4, outputs // 2, 2).sum((1, 3))
            assert set(np.unique(blocks)) == {0, 8}


def test_a_block_s_score_is_the_sum_of_its_weights():
    params = make_params()
    tx = magnitude_pruning(optax.sgd(0.0), 0.25, begin=0, structure=Blocks(4, 2))
    (_, _, state) = run(tx, 1, params=params)[-1]
    for name, kernel in kernels(params).items():
        inputs, outputs = kernel.shape
        sums = np.abs(kernel).reshape(inputs // 4, 4, outputs // 2, 2).sum((1, 3))
        mask = kernels(masks_of(state))[name][::4, ::2]
        np.testing.assert_array_equal(mask, largest(sums, sums.size // 4))


@pytest.mark.slow
def test_lanes_with_seeds_of_their_own_have_masks_of_their_own():
    params = make_params()

    def masks(seed):
        tx = rigl(optax.sgd(0.1), 0.2, end=10, seed=seed)
        return tx.init(params).masks["conv1"]["kernel"]

    several = jax.jit(jax.vmap(masks))(jnp.arange(3, dtype=jnp.uint32))
    for seed in range(3):
        np.testing.assert_array_equal(several[seed], masks(seed))
    assert not np.array_equal(several[0], several[1])


@pytest.mark.slow
def test_fixed_masks_train_the_rest_as_the_inner_optimizer_would():
    params = make_params()
    masks = jax.tree.map(lambda leaf: leaf > 0 if leaf.ndim == 2 else None, params)
    found = run(fixed_masks(optax.adam(0.1), masks), 4, params=params)
    inner = optax.adam(0.1)
    state, by_hand = inner.init(params), found[0][0]
    for _, grads, _ in found[1:]:
        grads = {
            n: {"kernel": grads[n]["kernel"] * masks[n]["kernel"], "bias": grads[n]["bias"]}
            for n in SHAPES
        }
        updates, state = inner.update(grads, state, by_hand)
        by_hand = optax.apply_updates(by_hand, updates)
    for one, other in zip(jax.tree.leaves(found[-1][0]), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"a mask of shape \(2, 2\) stands for a parameter of"):
        fixed_masks(optax.adam(0.1), {"a": jnp.ones((2, 2))}).init({"a": jnp.ones((3, 2))})


@pytest.mark.slow
def test_masks_are_found_inside_wrappers_and_nowhere_else():
    params = make_params()
    tx = optax.chain(optax.clip(1.0), random_masks(optax.adam(1e-3), 0.2))
    state = tx.init(params)
    assert sum(counts(state).values()) == pytest.approx(64, abs=1)
    parts = optax.partition(
        {
            "conv": random_masks(optax.sgd(0.1), 0.5),
            "fc": magnitude_pruning(optax.sgd(0.1), 0.5, begin=3),
        },
        {"conv1": "conv", "fc1": "fc"},
    )
    assert counts(parts.init(params)) == {"conv1": 96, "fc1": 128}
    with pytest.raises(ValueError, match="opt_state has no masks"):
        masks_of(optax.adam(1e-3).init(params))


SGD = optax.sgd(0.1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: random_masks(SGD, 0.0), "density must be a number above 0 and at most 1, got 0.0"),
        (lambda: random_masks(SGD, 1.5), "density must be a number above 0 and at most 1"),
        (lambda: random_masks(SGD, {"fc": -1}), r"density\['fc'\] must be a number above 0"),
        (lambda: random_masks(SGD, 0.5, distribution="erk"), "distribution must be one of uniform"),
        (lambda: random_masks(SGD, 0.5, distribution="global"), "distribution must be one of"),
        (lambda: random_masks(SGD, 0.3, structure=NM(1, 4)), "has a density of 0.25, and density"),
        (lambda: random_masks(SGD, 0.5, structure=NM(5, 4)), "n must be at most m"),
        (lambda: random_masks(SGD, 0.5, structure="2:4"), "structure must be None, NM, Blocks"),
        (lambda: random_masks(SGD, 0.5, structure=Blocks(0, 1)), "must be integers of at least 1"),
        (lambda: magnitude_pruning(SGD, 0.5, begin=5, end=4), "end must not be before begin = 5"),
        (lambda: magnitude_pruning(SGD, 0.5, begin=-1), "begin must be an integer of at least 0"),
        (lambda: magnitude_pruning(SGD, 0.5, begin=0, every=0), "every must be an integer of at"),
        (lambda: rigl(SGD, 0.5, end=9, drop_fraction=1.0), "drop_fraction must be a number below"),
        (lambda: rigl(SGD, 0.5, end=9.5), "end must be an integer of at least 0, got 9.5"),
        (
            lambda: lottery_ticket(SGD, 0.5, rounds=1, steps_per_round=3, rewind_step=3),
            "rewind_step must be below steps_per_round = 3",
        ),
    ],
)
def test_bad_targets_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: random_masks(SGD, {"head": 0.5}),
            "density has the key 'head', which is the label",
        ),
        (lambda: snip(SGD, 0.5, labels="none"), "density has nothing to act on"),
        (lambda: snip(SGD, 0.2, structure=NM(1, 5)), r"12 inputs of a kernel \(12, 16\) are no"),
        (lambda: snip(SGD, 0.2, structure=Blocks(5, 1)), "does not divide a kernel"),
    ],
)
def test_what_does_not_fit_the_parameters_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make().init(make_params())
