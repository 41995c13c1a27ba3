"""A network that is trained already: what do its own dropout layers know of its uncertainty?

python examples/07_existing_network.py                  trains a small convolutional network, and takes its file
python examples/07_existing_network.py --weights W.npz  takes weights from a file of an earlier run

The network, its training loop and its checkpoint know nothing of bdl: convolutions, batch normalisation and dropout in
Flax, trained on the digits of scikit-learn. bdl gets the module and the weights, and predicts

* plain: dropout is off, as usual;
* Monte Carlo dropout: the network's own dropout layers stay on (Gal and Ghahramani 2016);
* dropout by path: the same weights in a network without dropout layers, and dropout on the weights of one layer. It
  drops what the network's own layer drops, the inputs of the last one, so that both say the same.

Batch normalisation uses the statistics of training in all three. The figure turns a digit slowly upside down.
"""

# %% Arguments. Run cell by cell, they have their defaults.
import argparse
import sys
from pathlib import Path

import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import bdl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--weights", type=Path, help="weights of an earlier run (default: train, and write them)")
parser.add_argument("--num-steps", type=int, default=600, help="training steps (default: %(default)s)")
parser.add_argument("--num-samples", type=int, default=200, help="draws of a prediction (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of split, weights and draws (default: %(default)s)")
parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the figure (default: %(default)s)")
parser.add_argument("--fast", action="store_true", help="few steps and draws, only to see that it runs")
args = parser.parse_args([] if hasattr(sys, "ps1") else None)
if args.fast:
    args.num_steps, args.num_samples = 20, 10


# %% Somebody's network, as they wrote it.
class Classifier(nn.Module):
    rate: float = 0.3

    @nn.compact
    def __call__(self, x, train: bool = False):
        for width in (16, 32):
            x = nn.Conv(width, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(10)(x)


# %% Their data and their training loop.
digits = load_digits()
images = (digits.images[..., None] / 16).astype(np.float32)
x_train, x_test, y_train, y_test = train_test_split(images, digits.target, test_size=0.3, random_state=args.seed)
module = Classifier()


def train() -> dict:
    variables = module.init(jax.random.key(args.seed), x_train[:1])
    optimizer = optax.adam(1e-3)
    state = optimizer.init(variables["params"])

    @jax.jit
    def step(variables, state, key, x, y):
        def loss(params):
            logits, changed = module.apply(
                {**variables, "params": params}, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), changed

        gradient, changed = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradient, state)
        return {"params": optax.apply_updates(variables["params"], updates), **changed}, state

    rows = np.random.default_rng(args.seed)
    for i in range(args.num_steps):
        batch = rows.integers(len(x_train), size=64)
        key = jax.random.fold_in(jax.random.key(args.seed), i)
        variables, state = step(variables, state, key, x_train[batch], y_train[batch])
    return variables


args.output.mkdir(parents=True, exist_ok=True)
file = args.weights or args.output / "digits_weights.npz"
if args.weights is None:
    np.savez(file, **flatten_dict(train(), sep="/"))

# %% From here on it is bdl: the module, and the weights as they come from the file.
variables = unflatten_dict(dict(np.load(file)), sep="/")
network = bdl.from_linen(module, variables)
without = bdl.from_linen(Classifier(rate=0.0), variables)
point = bdl.variational(network.params, bdl.families.point)
likelihood = bdl.likelihoods.Categorical()
setups = {
    "plain": (point, bdl.Model(network, likelihood)),
    "Monte Carlo dropout": (point, bdl.Model(bdl.networks.stochastic(network), likelihood)),
    "dropout by path": (
        bdl.variational(without.params, {"Dense_1/kernel": bdl.families.bernoulli_dropout(0.3)}),
        bdl.Model(without, likelihood),
    ),
}
try:
    bdl.predict(jax.random.key(0), *setups["plain"], x_test, num_samples=args.num_samples)
except ValueError as error:
    print(f"Draws of a network whose dropout is off would all be one:\n  {error}\n")


# %% Held-out digits, and others that are no digits: noise with the digits' histogram.
def predict(setup: str, x: np.ndarray) -> bdl.ClassPrediction:
    posterior, model = setups[setup]
    draws = None if setup == "plain" else args.num_samples
    return bdl.predict(jax.random.key(args.seed), posterior, model, x, num_samples=draws)


noise = np.random.default_rng(args.seed).permuted(x_test.reshape(len(x_test), -1), axis=1).reshape(x_test.shape)
print(f"{'':22}{'accuracy':>10}{'NLL':>9}{'aleatoric':>12}{'epistemic':>12}{'of shuffled pixels':>21}  (nats)")
table = {}
for setup in setups:
    found, strange = predict(setup, x_test), predict(setup, noise)
    table[setup] = {
        "accuracy": np.mean(np.argmax(found.probs, 1) == y_test),
        "nll": -np.log(np.asarray(found.probs)[np.arange(len(y_test)), y_test]).mean(),
        "aleatoric": found.aleatoric.mean(),
        "epistemic": found.epistemic.mean(),
        "epistemic of shuffled pixels": strange.epistemic.mean(),
    }
    accuracy, nll, *parts = table[setup].values()
    print(f"{setup:22}{accuracy:>10.1%}{nll:>9.3f}{parts[0]:>12.3f}{parts[1]:>12.3f}{parts[2]:>21.3f}")

# %% The figure: a digit turned slowly, and what the network makes of it.
angles = np.arange(0, 181, 15)
digit = x_test[np.argmax(np.where(y_test == 6, predict("plain", x_test).probs[:, 6], 0))]
turned = np.stack([np.clip(rotate(digit, angle, reshape=False, order=1), 0, 1) for angle in angles])
found = predict("Monte Carlo dropout", turned)
likely = np.argsort(-np.asarray(found.probs).max(0))[:4]
deviation = np.sqrt(found.epistemic_variance)

figure, (top, middle, bottom) = plt.subplots(
    3, 1, figsize=(9.5, 7.5), height_ratios=[0.55, 1.2, 1], sharex=True, layout="constrained"
)
for angle, image in zip(angles, turned, strict=True):
    top.imshow(image[..., 0], cmap="gray_r", extent=(angle - 7, angle + 7, 0, 1), aspect="auto")
top.set(xlim=(-8, 188), ylim=(0, 1), yticks=[], title="a six, turned until it is a nine")
for name in ("top", "right", "left", "bottom"):
    top.spines[name].set_visible(False)
for k in sorted(likely):
    (line,) = middle.plot(angles, found.probs[:, k], "o-", ms=3, label=f"{k}")
    low, high = (np.clip(found.probs[:, k] + sign * deviation[:, k], 0, 1) for sign in (-1, 1))
    middle.fill_between(angles, low, high, color=line.get_color(), alpha=0.15, lw=0)
middle.set(ylabel="p(class)\n± std over draws", ylim=(0, 1.02))
middle.legend(title="class", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
bottom.plot(angles, predict("plain", turned).entropy, color="0.6", ls="--", label="entropy, dropout off")
bottom.plot(angles, found.entropy, color="0.2", label="entropy")
bottom.plot(angles, found.aleatoric, color="C0", label="aleatoric: expected entropy")
bottom.plot(angles, found.epistemic, color="C3", label="epistemic: mutual information")
bottom.set(xlabel="angle, degrees", ylabel="nats", ylim=(0, 1.25 * found.entropy.max()))
bottom.legend(loc="upper center", ncols=4, fontsize="small", frameon=False)
figure.savefig(args.output / "existing_network.png", dpi=150)
print(f"\nfigure: {args.output / 'existing_network.png'}")
