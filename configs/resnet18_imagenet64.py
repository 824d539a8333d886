"""ResNet-18 on ImageNet at 64 × 64 pixels with β-lasso, data streamed from disk.

    python -m lconv_jax.data.prepare imagenet_resized/64x64
    python -m lconv_jax.main --config=configs/resnet18_imagenet64.py --workdir=runs/resnet

SGD instead: --config=configs/resnet18_imagenet64.py:sgd

Not measured by us, and not in the paper: λ are its values for CIFAR. A device with 16 GiB to spare
can hold all images: --config.data.stream=never.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    config = config_lib.paper_config(
        "imagenet_resized/64x64", "resnet18", alpha=64, optimizer=optimizer
    )
    config.train.epochs = 40
    config.log.every_steps = 50
    config.log.eval_every_epochs = 1
    config.checkpoint.every_epochs = 1
    return config
