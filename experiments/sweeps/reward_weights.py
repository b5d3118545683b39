"""How much the weights of the two set-level rewards matter, over two seeds.

    python experiments/sweep.py experiments/sweeps/reward_weights.py --workdir=runs/reward_weights

Twelve cells; those of one seed share the prior, the extractors and the cold start.
"""

BASE = "configs/quickstart.py:ci"


def get_hyper(hyper):
    """Returns the cells: three weights by two, for each of two seeds."""
    return hyper.product(
        [
            hyper.grid(
                {
                    "rewards.coverage.weight": [0.0, 0.75, 1.5],
                    "rewards.richness.weight": [0.0, 0.25],
                }
            ),
            hyper.seeds(2),
        ]
    )
