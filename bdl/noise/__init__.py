"""How a draw of the weights enters the arithmetic: one draw for the batch, or one draw per example."""

from bdl.noise._apply import find_uses, local
from bdl.noise._linear import Linear

__all__ = ["Linear", "find_uses", "local"]
