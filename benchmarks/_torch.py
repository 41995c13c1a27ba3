"""The same work in PyTorch and bayesian-torch: the perceptron, with dropout before each layer or mean-field Normal."""

import itertools
import os
from collections.abc import Callable
from typing import Any

# Else its threads spin between two calls, and slow down the reference that alternates with them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRIOR = {
    "prior_mu": 0.0,
    "prior_sigma": 1.0,
    "posterior_mu_init": 0.0,
    "posterior_rho_init": -3.0,
    "type": "Reparameterization",
    "moped_enable": False,
}


def mlp(features: int, width: int, rate: float | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    widths = (features, width, width, width, 1)
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ReLU()] if i else []
        layers += [] if rate is None else [nn.Dropout(rate)]
        layers += [nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers).to(DEVICE).train()


def bayesian_mlp(features: int, width: int) -> nn.Sequential:
    from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn

    network = mlp(features, width, None)
    dnn_to_bnn(network, PRIOR)
    return network.to(DEVICE).train()


def predict(network: nn.Module, batch: int, features: int, draws: int) -> Callable[[], Any]:
    x = torch.randn(batch, features, device=DEVICE)

    def call() -> Any:
        with torch.no_grad():
            outputs = torch.stack([network(x) for _ in range(draws)])
            return _wait((outputs.mean(0), outputs.var(0)))

    return call


def train(network: nn.Module, batch: int, features: int, num_data: int, steps: int, kl: bool) -> Callable[[], Any]:
    x, y = torch.randn(batch, features, device=DEVICE), torch.randn(batch, 1, device=DEVICE)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step() -> Any:
        optimizer.zero_grad()
        loss = 0.5 * num_data * ((network(x) - y) ** 2).mean() / 0.1**2
        if kl:
            from bayesian_torch.models.dnn_to_bnn import get_kl_loss

            loss = loss + get_kl_loss(network)
        loss.backward()
        optimizer.step()
        return loss

    return lambda: _wait([step() for _ in range(steps)])


def _wait(result: Any) -> Any:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return [float(r.detach().sum()) for r in result]
