"""s_fc on words of eight languages, letters one-hot along a line, without diacritics.

    python -m lconv_jax.main --config=configs/sfc_words.py --workdir=runs/words

SGD instead: --config=configs/sfc_words.py:sgd

Needs Debian's eight word lists, or others in --config.data.data_dir (docs/other_data.md). On two
cores: half a minute, beside other work up to a minute; five seeds: test accuracy 74.2 % ± 0.7 %
at 7.7 % density, SGD 76.3 % ± 0.8 %, and letters counted without their order 47.7 %
(`lconv_jax.data.sources.words.unigram_baseline`). With half of both l1, one seed: 76.0 % at 22.6 %.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    config = config_lib.base_config()
    config.data.name = "words:diacritics=0"
    config.data.crop = 2
    config.model.name = "s_fc"
    config.model.alpha = 16
    config.optimizer.name = optimizer
    if optimizer == "sgd":
        config.optimizer.learning_rate = 0.1
        config.optimizer.momentum = 0.9
        config.optimizer.weight_decay = 0.01
    else:
        config.optimizer.learning_rate = 1.0
        config.optimizer.l1.conv = 4e-4
        config.optimizer.l1.fc = 2e-4
        config.optimizer.beta = 50.0
    config.train.epochs = 60
    config.log.every_steps = 10
    return config
