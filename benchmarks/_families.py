"""The families beside dropout and mean-field Normals: how each is made, its prior, its goals."""

from typing import Any, NamedTuple

import bdl
from bdl import families, priors


class Candidate(NamedTuple):
    """A family of the benchmarks.

    Attributes:
        family: its initialiser.
        step, predict: goals, as ratios to the deterministic network; `None` where there is none.
        prior: `None` for the default one.
    """

    family: Any
    step: float | None
    predict: float
    prior: Any = None


CANDIDATES = {
    "concrete_dropout": Candidate(families.concrete_dropout(0.1), 1.15, 2.0),
    "gaussian_dropout, per row": Candidate(families.gaussian_dropout(0.1, noise="row"), 1.15, 2.0),
    "gaussian_dropout, per weight": Candidate(families.gaussian_dropout(0.1, noise="weight"), 2.3, 2.0),
    "sparse_dropout": Candidate(families.sparse_dropout(), 2.3, 2.0, {"*/kernel": priors.log_uniform()}),
    "drop_connect": Candidate(families.drop_connect(0.1), 1.15, 2.0),
    "masksembles": Candidate(families.masksembles(members=4), 1.15, 2.0),
    "batch_ensemble": Candidate(families.batch_ensemble(members=4), 1.15, 2.0),
    "rank1_normal": Candidate(families.rank1_normal(0.05), 2.3, 2.0),
    "normal, a scale per row": Candidate(families.normal(0.05, tied="row"), 2.3, 2.0),
    "normal, one scale": Candidate(families.normal(0.05, tied="array"), 2.3, 2.0),
    "normal, Flipout": Candidate(families.normal(0.05, local="flipout"), 2.3, 2.0),
    "radial": Candidate(families.radial(0.05), 2.3, 2.0),
    "low_rank_normal, rank 2": Candidate(families.low_rank_normal(2, scale=0.05), None, 3.0),
    # It holds a matrix over the weights of an array, which is for small ones.
    "full_normal, last layer": Candidate({"Dense_3/*": families.full_normal(0.05)}, 2.3, 2.0),
    "normal, scale mixture prior": Candidate(families.normal(0.05), 2.3, 2.0, priors.scale_mixture()),
}


def posterior_and_model(candidate: Candidate, network: Any, likelihood: Any, x: Any) -> tuple[Any, Any]:
    """The candidate's posterior and model, told how the network uses its weights."""
    posterior = bdl.variational(network.params, candidate.family)
    return bdl.bind(posterior, bdl.Model(network, likelihood, candidate.prior), x)
