"""What several test modules look at."""

import jax

from lconv_jax.rundir import metrics
from lconv_jax.training.setup import laid_out, make_initial_state


def in_dtype(experiment, dtype):
    """The experiment with a model of another precision than configurations offer."""
    model = experiment.model.clone(dtype=dtype)
    shape, seed = experiment.dataset.image_shape, experiment.config.seed
    make = make_initial_state(model, experiment.plan, shape, seed)
    shapes = laid_out(experiment.mesh, jax.eval_shape(make))
    return experiment._replace(model=model, state_shapes=shapes)


def timeless(workdir):
    """What a run logged, without what depends on the clock."""
    lines = metrics.read_metrics(workdir)
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def final_digests(workdir):
    """The newest checkpoint's step, and the digests of its arrays."""
    newest = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    return newest, (workdir / "checkpoints" / str(newest) / "digests" / "metadata").read_text()
