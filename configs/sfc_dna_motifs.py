"""s_fc on random DNA in which one of four motifs is planted near the middle.

    python -m lconv_jax.main --config=configs/sfc_dna_motifs.py --workdir=runs/dna

SGD instead: --config=configs/sfc_dna_motifs.py:sgd

On two cores beside other work: 20 to 40 seconds; five seeds: test accuracy 93.9 % ± 0.3 % at 4.9 %
density, SGD 94.2 % ± 0.3 %. The best possible classifier, which knows the motifs, has 97.4 %
(`data.sources.dna_motifs.bayes_accuracy`), and counting the bases gives 23 %, chance being 25 %.
With data.crop = 4: 94.6 % ± 0.4 % and 95.8 % ± 0.1 %.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    config = config_lib.base_config()
    config.data.name = "dna_motifs"
    config.model.name = "s_fc"
    config.model.alpha = 16
    config.optimizer.name = optimizer
    if optimizer == "sgd":
        config.optimizer.learning_rate = 0.3
        config.optimizer.momentum = 0.9
        config.optimizer.weight_decay = 0.03
    else:
        config.optimizer.learning_rate = 1.0
        config.optimizer.l1.conv = 4e-4
        config.optimizer.l1.fc = 2e-4
        config.optimizer.beta = 50.0
    config.train.epochs = 60
    config.log.every_steps = 10
    return config
