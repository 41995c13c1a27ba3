"""Takes what does not change from step to step, masks above all, out of the body of a scan."""

from collections.abc import Callable
from typing import Any

import jax

from bdl._equation import Literal, evaluate, open_jaxpr


def hoisted_scan_body(body: Callable[[Any, Any], Any], carry: Any, row: Any) -> Callable[[Any, Any], Any]:
    """A body for `lax.scan` that gives what `body` gives; what depends on neither carry nor row is computed here, once.

    Args:
        body: `(carry, row) -> (carry, out)`.
        carry, row: examples of its arguments, of which only shapes and dtypes matter.
    """
    closed, out_shape = jax.make_jaxpr(body, return_shape=True)(carry, row)
    jaxpr = open_jaxpr(closed)
    changing = set(jaxpr.invars)
    fixed: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    remaining = []

    def run(eqn: Any, env: dict[Any, Any]) -> None:
        values = [v.val if isinstance(v, Literal) else env[v] for v in eqn.invars]
        env.update(zip(eqn.outvars, evaluate(eqn, values), strict=True))

    for eqn in jaxpr.eqns:
        if eqn.effects or any(not isinstance(v, Literal) and v in changing for v in eqn.invars):
            changing.update(eqn.outvars)
            remaining.append(eqn)
        else:
            run(eqn, fixed)

    def hoisted(carry: Any, row: Any) -> Any:
        env = {**fixed, **dict(zip(jaxpr.invars, jax.tree.leaves((carry, row)), strict=True))}
        for eqn in remaining:
            run(eqn, env)
        outs = [v.val if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(out_shape), outs)

    return hoisted
