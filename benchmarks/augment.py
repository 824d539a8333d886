"""Random crop and flip inside a scan, written in several ways: CPU milliseconds per step.

    python -m benchmarks.augment

dm_pix is timed if it is installed. `data.augment` says which way it takes, and the numbers.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lconv_jax import data

BATCH, STEPS, ROUNDS, CROP = 512, 40, 7, 4


def draw(key, batch):
    bits = jax.random.bits(key, (3, batch), jnp.uint32)
    shifts = ((bits[:2] >> 16) * jnp.uint32(2 * CROP + 1) >> 16).astype(jnp.int32)
    return shifts[0], shifts[1], (bits[2] >> 31).astype(bool)


def pad(images):
    return jnp.pad(images, ((0, 0), (CROP, CROP), (CROP, CROP), (0, 0)))


def mirror(images, flip):
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def sources(images, rows, columns, flip):
    height, width = images.shape[1:3]
    column = jnp.arange(width)[None]
    column = jnp.where(flip[:, None], width - 1 - column, column)
    return jnp.arange(height)[None] + rows[:, None], column + columns[:, None]


def nothing(key, images):
    return images


def ours(key, images):
    return data.augment(key, images, crop=CROP, flip=True)


def per_image_map(key, images):
    def one(args):
        image, row, column, flip = args
        image = jnp.where(flip, image[:, ::-1], image)
        padded = jnp.pad(image, ((CROP, CROP), (CROP, CROP), (0, 0)))
        return lax.dynamic_slice(padded, (row, column, 0), image.shape)

    return lax.map(one, (images, *draw(key, len(images))))


def take_along_axes(key, images):
    row, column = sources(images, *draw(key, len(images)))
    mode = "promise_in_bounds"
    taken = jnp.take_along_axis(pad(images), row[:, :, None, None], 1, mode=mode)
    return jnp.take_along_axis(taken, column[:, None, :, None], 2, mode=mode)


def one_hot(key, images):
    row, column = sources(images, *draw(key, len(images)))
    height, width = images.shape[1:3]
    rows = (row[:, :, None] - CROP == jnp.arange(height)).astype(jnp.float32)
    columns = (column[:, :, None] - CROP == jnp.arange(width)).astype(jnp.float32)
    taken = jnp.einsum("bhi,biwc->bhwc", rows, images.astype(jnp.float32))
    return jnp.einsum("bwj,bhjc->bhwc", columns, taken).astype(images.dtype)


def vmap_slice(key, images):
    rows, columns, flip = draw(key, len(images))
    cut = jax.vmap(lambda i, r, c: lax.dynamic_slice(i, (r, c, 0), images.shape[1:]))
    return mirror(cut(pad(images), rows, columns), flip)


def select(key, images):
    rows, columns, flip = draw(key, len(images))
    out = pad(mirror(images, flip))
    for axis, shift in ((1, rows), (2, columns)):
        size = images.shape[axis]
        chosen = lax.slice_in_dim(out, 0, size, axis=axis)
        for step in range(1, 2 * CROP + 1):
            moved = lax.slice_in_dim(out, step, step + size, axis=axis)
            chosen = jnp.where((shift == step)[:, None, None, None], moved, chosen)
        out = chosen
    return out


METHODS = [nothing, ours, per_image_map, take_along_axes, one_hot, vmap_slice, select]
try:
    import dm_pix

    def pix_vmap(key, images):
        def one(key, image):
            crop, flip = jax.random.split(key)
            cut = dm_pix.random_crop(crop, image, images.shape[1:])
            return dm_pix.random_flip_left_right(flip, cut)

        return jax.vmap(one)(jax.random.split(key, len(images)), pad(images))

    METHODS.append(pix_vmap)
except ImportError:
    pass


def main():
    for shape in ((28, 28, 1), (32, 32, 3)):
        rng = np.random.default_rng(0)
        images = jnp.asarray(rng.integers(0, 256, (10_000, *shape), dtype=np.uint8))
        weights = jnp.asarray(rng.normal(size=(np.prod(shape), 8)), jnp.float32)
        order = jnp.asarray(rng.integers(0, 10_000, (STEPS, BATCH)))
        programs = {}
        for method in METHODS:

            def run(images, weights, order, method=method):
                def body(total, step_and_chosen):
                    step, chosen = step_and_chosen
                    key = jax.random.fold_in(jax.random.key(0), step)
                    inputs = data.normalize(method(key, images[chosen]))
                    return total + inputs.reshape(BATCH, -1) @ weights, None

                return lax.scan(body, jnp.zeros((BATCH, 8)), (jnp.arange(STEPS), order))[0]

            programs[method.__name__] = jax.jit(run)
            programs[method.__name__](images, weights, order).block_until_ready()
        spent: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(ROUNDS):  # interleaved, so that other load falls on all alike
            for name, program in programs.items():
                start = time.process_time()
                program(images, weights, order).block_until_ready()
                spent[name].append((time.process_time() - start) / STEPS * 1e3)
        base = min(spent["nothing"])
        for name, times in spent.items():
            print(
                f"{shape} {name:16s} {min(times):7.2f}  more than nothing {min(times) - base:7.2f}"
            )


if __name__ == "__main__":
    main()
