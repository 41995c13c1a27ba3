"""A network as pure functions of its weights, and small reference networks."""

from bdl.networks._autoencoder import VAE, Autoencoder, LatentOutputs, autoencoder, vae
from bdl.networks._base import Network, network
from bdl.networks._features import features
from bdl.networks._lenet import LeNet, lenet
from bdl.networks._linen import from_linen
from bdl.networks._lstm import LSTM, lstm
from bdl.networks._mlp import MLP, mlp
from bdl.networks._nnx import from_nnx
from bdl.networks._normalisation import FilterResponseNorm, ThresholdedLinearUnit
from bdl.networks._resnet import ResidualBlock, ResNet, resnet
from bdl.networks._transform import stochastic
from bdl.networks._unet import UNet, unet
from bdl.networks._use import Use

__all__ = [
    "LSTM",
    "MLP",
    "VAE",
    "Autoencoder",
    "FilterResponseNorm",
    "LatentOutputs",
    "LeNet",
    "Network",
    "ResNet",
    "ResidualBlock",
    "ThresholdedLinearUnit",
    "UNet",
    "Use",
    "autoencoder",
    "features",
    "from_linen",
    "from_nnx",
    "lenet",
    "lstm",
    "mlp",
    "network",
    "resnet",
    "stochastic",
    "unet",
    "vae",
]
