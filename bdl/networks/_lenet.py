"""LeNet: two convolutions, then dense layers."""

from typing import Any

import flax.linen as nn

from bdl.networks._base import Network
from bdl.networks._reference import check_images, initialised, initialiser


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling, on images [N, H, W, C]; outputs [N, K]. See `lenet`."""

    num_outputs: int
    weight_init: str = "he"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The outputs, [N, K]."""
        check_images(x, "LeNet", multiple=4)
        options: dict[str, Any] = {"kernel_init": initialiser(self.weight_init), "use_bias": self.use_bias}
        for channels in (6, 16):
            x = nn.relu(nn.Conv(channels, (5, 5), **options)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for width in (120, 84):
            x = nn.relu(nn.Dense(width, **options)(x))
        return nn.Dense(self.num_outputs, **options, name="head")(x)


def lenet(key: Any, x: Any, num_outputs: int, *, init: str = "he", use_bias: bool = True) -> Network:
    """LeNet-5 with initial weights: convolutions of 6 and 16 channels, dense layers of 120 and 84 units, the `head`.

    As in the paper but for ReLU in the place of tanh, max pooling in that of the learned averages, and convolutions
    that keep the size of the image, so that small ones do.

    Args:
        key: of the initial weights.
        x: images [N, H, W, C], or their `jax.ShapeDtypeStruct`; height and width are multiples of 4.
        num_outputs: K, the number of classes for `bdl.likelihoods.Categorical`.
        init: `"he"` or `"xavier"`; see `bdl.networks.mlp`.
        use_bias: whether layers add a bias; not for `bdl.ood.training.DeepSAD`.

    Raises:
        ValueError: the images are not [N, H, W, C], or of other sizes.

    Reference:
        LeCun et al. (1998), Gradient-based learning applied to document recognition,
        https://doi.org/10.1109/5.726791

    Example:
        >>> import jax, jax.numpy as jnp, bdl
        >>> network = bdl.networks.lenet(jax.random.key(0), jnp.ones((5, 28, 28, 1)), 10)
        >>> list(network.params)
        ['Conv_0', 'Conv_1', 'Dense_0', 'Dense_1', 'head']
    """
    return initialised(key, LeNet(num_outputs, init, use_bias), x)
