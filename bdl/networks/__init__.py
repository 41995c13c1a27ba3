"""A network as pure functions of its weights."""

from bdl.networks._base import Network, network
from bdl.networks._linen import from_linen
from bdl.networks._nnx import from_nnx
from bdl.networks._transform import stochastic
from bdl.networks._use import Use

__all__ = ["Network", "Use", "from_linen", "from_nnx", "network", "stochastic"]
