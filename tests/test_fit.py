"""The training loop: batches, blocks, traces, vmap, failures, early stopping and checkpoints."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bdl
from bdl import _watch
from bdl._batches import ArrayBatches, permute, random_order
from bdl.inference import Algorithm, StepInfo
from tests.slow import slow

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
Y = (X @ np.array([[1.0], [-2.0], [0.5]], np.float32)).astype(np.float32)
CALLS = []


def linear(params, x):
    CALLS.append(None)
    return x @ params["w"]


NETWORK = bdl.network(linear, {"w": jnp.zeros((3, 1))})
MODEL = bdl.Model(NETWORK, bdl.likelihoods.Normal(scale=0.5))
POSTERIOR = bdl.variational(NETWORK.params, {})


class State(eqx.Module):
    posterior: object
    model: object
    count: object


@functools.cache
def descent(rate=0.1, noise=0.01, fails_at=-1, start=0):
    """Noisy gradient descent on the mean squared error, whose log-likelihood is NaN at one step."""

    def init(key, posterior, model, *, num_data):
        return State(posterior, model, start)

    def step(key, state, batch):
        x, y = batch

        def loss(params):
            return jnp.mean((state.model.apply(params, x)[0] - y) ** 2)

        value, gradient = jax.value_and_grad(loss)(state.posterior.tree)
        value = jnp.where(state.count == fails_at, jnp.nan, value)
        draw = noise * jax.random.normal(key, (3, 1))
        tree = jax.tree.map(lambda w, g: w - rate * g * value / value + draw, state.posterior.tree, gradient)
        posterior = eqx.tree_at(lambda p: p.tree, state.posterior, tree)
        return State(posterior, state.model, state.count + 1), StepInfo(-value, -value, 0 * x.sum(), value**0)

    return Algorithm(init, step)


DESCENT = descent()


def fit(key=KEY, algorithm=DESCENT, data=(X, Y), posterior=POSTERIOR, num_steps=12, **options):
    options = {"batch_size": 5} | options if isinstance(data, tuple) else options
    return bdl.fit(key, algorithm, posterior, MODEL, data, num_steps=num_steps, progress=False, **options)


def weights(fitted):
    return np.asarray(fitted.posterior.tree["w"])


def same(a, b):
    """Whether two trees are equal bit for bit, NaNs included."""
    flat = [jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (a, b)]
    return len(flat[0]) == len(flat[1]) and all(
        np.asarray(p).tobytes() == np.asarray(q).tobytes() for p, q in zip(*flat, strict=True)
    )


# Batches

SHUFFLE = jax.jit(permute, static_argnums=2)


@pytest.mark.parametrize("size", [1, 2, 5, 23, 1000])
def test_shuffle_is_a_permutation(size):
    words = jax.random.bits(jax.random.key(size), (12,))
    assert sorted(SHUFFLE(words, jnp.arange(size), size).tolist()) == list(range(size))


@pytest.mark.usefixtures("strict_dtypes")
def test_shuffle_is_uniform():
    """Every element is as often at every place, and before every other one, over 4,000 epochs of 11 examples."""
    epochs, size = 4000, 11
    words = jax.random.bits(jax.random.key(0), (epochs, 12))
    order = np.asarray(jax.vmap(lambda words: SHUFFLE(words, jnp.arange(size), size))(words))
    counts = np.stack([(order == i).sum(0) for i in range(size)])
    p = 1 / size
    assert np.abs(counts / epochs - p).max() < 5 * np.sqrt(p * (1 - p) / epochs)
    steps = np.bincount(((order[:, 1:] - order[:, :-1]) % size).ravel(), minlength=size)[1:]
    p = 1 / (size - 1)
    assert np.abs(steps / steps.sum() - p).max() < 5 * np.sqrt(p / steps.sum())


@pytest.mark.usefixtures("strict_dtypes")
def test_examples_are_seen_equally_often():
    """23 batches of 5 are 5 epochs of 23; each epoch has an order of its own, and every example once."""
    batches = ArrayBatches((jnp.arange(23), jnp.arange(23)), 5)
    order = random_order(KEY)
    take = jax.jit(lambda position: batches.take(order, position))
    seen, position = [], batches.begin(order)
    for _ in range(23):
        (x, y), position = take(position)
        assert (x == y).all()
        seen += np.asarray(x).tolist()
    epochs = np.reshape(seen, (5, 23))
    assert (np.sort(epochs, axis=1) == np.arange(23)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5
    assert (int(position.epoch), int(position.used)) == (5, 0)


def test_the_whole_data_set_is_one_batch_in_its_order():
    batches = ArrayBatches((jnp.arange(23), jnp.arange(23)), 23)
    order = random_order(KEY)
    assert batches.take(order, batches.begin(order))[0] is batches.data


# The loop


def test_finds_the_optimum_and_tells_what_it_did():
    fitted = fit(algorithm=descent(noise=0.0), num_steps=300)
    assert np.allclose(weights(fitted), [[1.0], [-2.0], [0.5]], atol=1e-3)
    assert fitted.history.elbo.shape == (300,)
    assert fitted.history.elbo.dtype == jnp.float32
    assert fitted.history.elbo is fitted.history.info.elbo
    assert fitted.history.held_out.shape == (0,)
    assert fitted.state.count == 300
    with pytest.raises(AttributeError, match="loss"):
        fitted.history.loss  # noqa: B018


def test_blocks_do_not_change_the_result():
    first = fit(num_steps=30)
    for block_size in (1, 7):
        assert same(fit(num_steps=30, block_size=block_size), first)
    assert same(fit(num_steps=20).history.elbo, first.history.elbo[:20])
    assert not same(fit(key=jax.random.key(1), num_steps=30), first)


def test_does_not_trace_again():
    """The user's network is not called a second time for other keys, data, weights and numbers of steps."""
    options = {"validation": (X, Y), "evaluate_every": 6}
    fit(**options)
    before = len(CALLS)
    moved = jax.tree.map(lambda w: w + 1, POSTERIOR)
    fit(jax.random.key(1), data=(2 * X, Y), posterior=moved, num_steps=20, **options)
    assert len(CALLS) == before


def test_nested_inputs():
    network = bdl.network(lambda params, x: x["a"] @ params["w"] + x["b"][:, None], {"w": jnp.zeros((3, 1))})
    model = bdl.Model(network, bdl.likelihoods.Normal(scale=0.5))
    x = {"a": X, "b": np.zeros(23)}
    algorithm = bdl.inference.vi(optax.sgd(0.1))
    posterior = bdl.variational(network.params, bdl.families.normal())
    fitted = bdl.fit(KEY, algorithm, posterior, model, (x, Y), num_steps=3, batch_size=5, progress=False)
    assert np.isfinite(fitted.history.elbo).all()


@pytest.mark.parametrize("jit", [slow(False), True])
def test_vmap_over_keys_and_data_equals_single_fits(jit):
    keys, xs = jax.random.split(jax.random.key(7), 3), jnp.stack([X, 2 * X, X + 1])
    run = jax.vmap(lambda key, x: fit(key, data=(x, Y), num_steps=20, validation=(x, Y), evaluate_every=8))
    many = (jax.jit(run) if jit else run)(keys, xs)
    assert many.history.held_out_steps.tolist() == [[8, 16, 20]] * 3
    for i in range(3):
        one = fit(keys[i], data=(xs[i], Y), num_steps=20, validation=(xs[i], Y), evaluate_every=8)
        mine = jax.tree.map(lambda a, i=i: a[i], many)
        assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-5), mine, one))


def test_vmap_over_a_number_that_the_algorithm_closes_over():
    run = lambda rate: fit(algorithm=descent.__wrapped__(rate)).posterior.tree["w"]
    many = jax.vmap(run)(jnp.array([0.01, 0.1]))
    assert np.allclose(many[1], weights(fit()), atol=1e-5)
    assert not np.allclose(many[0], many[1], atol=0.1)


def test_no_checks_and_no_files_under_a_trace(tmp_path):
    with pytest.raises(ValueError, match="under `jit` or `vmap`"):
        jax.vmap(lambda key: fit(key, checkpoint=tmp_path / "fit"))(jax.random.split(jax.random.key(7), 2))
    with pytest.raises(ValueError, match="under `jit` or `vmap`"):
        jax.vmap(lambda key: fit(key, data=[(X, Y)], num_data=23))(jax.random.split(jax.random.key(7), 2))


# Failures


@pytest.mark.parametrize("block_size", [None, 3, 12])
def test_a_non_finite_loss_stops_at_the_last_finite_state(block_size):
    with pytest.warns(RuntimeWarning, match="non-finite at step 7, in elbo and log_likelihood") as warned:
        fitted = fit(algorithm=descent(fails_at=7), block_size=block_size)
    assert warned[0].filename == __file__
    assert same(weights(fitted), weights(fit(num_steps=7)))
    assert fitted.history.elbo.shape == (8,)
    assert np.isfinite(fitted.history.elbo).tolist() == [True] * 7 + [False]


def test_a_non_finite_first_step_returns_the_start():
    with pytest.warns(RuntimeWarning, match="at step 0"):
        fitted = fit(algorithm=descent(fails_at=0))
    assert (weights(fitted) == 0).all()


def test_a_non_finite_loss_under_vmap_freezes_one_run_and_not_the_others():
    """64 steps are two strides of 32; the run that fails at step 40 keeps the state after 32."""
    poison = jnp.stack([X, X])
    failing = jax.vmap(lambda x, at: fit(algorithm=descent.__wrapped__(fails_at=at), data=(x, Y), num_steps=64))
    many = failing(poison, jnp.array([40, -1]))
    assert np.allclose(many.posterior.tree["w"][0], weights(fit(num_steps=32)), atol=1e-5)
    assert np.allclose(many.posterior.tree["w"][1], weights(fit(num_steps=64)), atol=1e-5)
    assert np.isfinite(many.history.elbo).sum(1).tolist() == [40, 64]
    assert np.isnan(many.history.elbo[0, 40:]).all()


HOLED = np.where(np.arange(69).reshape(23, 3) == 7, np.nan, X)
BAD = {
    "num_steps": ({"num_steps": 0}, ValueError, "`num_steps` must be at least 1, got 0"),
    "half a step": ({"num_steps": 1.5}, TypeError, "`num_steps` must be a whole number, got 1.5"),
    "batch_size": ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
    "num_data": ({"num_data": -1}, ValueError, "`num_data` must be at least 1"),
    "block_size": ({"block_size": 0}, ValueError, "`block_size` must be at least 1"),
    "patience": ({"patience": 3}, ValueError, "pass `validation"),
    "no patience": ({"validation": (X, Y), "patience": 0}, ValueError, "`patience` must be at least 1"),
    "evaluate_every": ({"validation": (X, Y), "evaluate_every": 0}, ValueError, "`evaluate_every` must be"),
    "key": ({"key": 3}, TypeError, "expected one random key"),
    "empty": ({"data": (X[:0], Y[:0])}, ValueError, "empty"),
    "ragged": ({"data": (X, Y[:5])}, ValueError, "same number of rows"),
    "NaN": ({"data": (HOLED, Y)}, ValueError, "x is nan at row 2, column 1"),
    "targets": ({"data": (X, Y[:, 0])}, ValueError, r"Pass y\[:, None\]"),
    "validation": ({"validation": (X, Y[:, 0])}, ValueError, r"Pass y\[:, None\]"),
    "validation alone": ({"validation": X}, TypeError, r"`validation` as a tuple \(x, y\)"),
    "inputs alone": ({"data": X}, TypeError, r"expected the data as a tuple \(x, y\)"),
    "no N": ({"data": [(X, Y)]}, ValueError, "pass `num_data=N`"),
    "no batch": ({"data": [], "num_data": 9}, ValueError, "empty"),
    "no pairs": ({"data": [X], "num_data": 9}, TypeError, r"must give pairs \(x, y\)"),
    "a size for batches": ({"data": [(X, Y)], "num_data": 9, "batch_size": 3}, ValueError, "Leave it out"),
    "NaN in a batch": ({"data": [(X * np.nan, Y)], "num_data": 9}, ValueError, "x is nan at row 0"),
    "misspelt": ({"numsteps": 3}, TypeError, "numsteps"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name):
    options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        fit(**options)


# Batches of the host


def batches(count=4):
    return [(X[5 * i : 5 * i + 5], Y[5 * i : 5 * i + 5]) for i in range(count)]


def test_an_iterable_is_started_again():
    """12 steps over 4 batches equal 12 steps over an endless iterator of them, and the network is not traced again."""
    first = fit(data=batches(), num_data=20)
    before = len(CALLS)
    assert same(fit(data=itertools.cycle(batches()), num_data=20), first)
    assert len(CALLS) == before
    assert first.history.elbo.shape == (12,)


def test_an_iterator_that_ends_ends_the_fit():
    with pytest.warns(RuntimeWarning, match="ended after 4 of 12 steps"):
        fitted = fit(data=iter(batches()), num_data=20)
    assert fitted.history.elbo.shape == (4,)


def test_a_ragged_batch_is_refused():
    with pytest.raises(ValueError, match=r"batch 4 .* x float32\[3, 3\] .* first had x float32\[5, 3\]") as raised:
        fit(data=batches(5), num_data=23)
    assert "drop the last batch" in str(raised.value)


def test_a_non_finite_loss_on_a_batch_of_the_host():
    with pytest.warns(RuntimeWarning, match="non-finite at step 7"):
        fitted = fit(algorithm=descent(fails_at=7), data=batches(), num_data=20)
    assert same(weights(fitted), weights(fit(data=batches(), num_data=20, num_steps=7)))
    assert fitted.history.elbo.shape == (8,)


# Held-out data


def nearness(key, posterior, model, data):
    """Best where the path of gradient descent passes by its middle."""
    return -jnp.abs(posterior.tree["w"][1, 0] + 1.0)


def test_early_stopping_returns_the_best():
    options = {"algorithm": descent(noise=0.0), "num_steps": 60, "validation": (X, Y), "evaluate_every": 2}
    fitted = fit(score=nearness, patience=3, **options)
    scores, steps = np.asarray(fitted.history.held_out), fitted.history.held_out_steps.tolist()
    best = int(scores.argmax())
    assert len(scores) == best + 1 + 3 < 30, "it stopped three looks after the best one"
    assert steps == list(range(2, 2 * len(scores) + 1, 2))
    assert fitted.history.elbo.shape == (steps[-1],)
    assert same(weights(fitted), weights(fit(algorithm=options["algorithm"], num_steps=steps[best])))
    assert fitted.state.count == steps[-1]

    one_program = jax.jit(lambda key: fit(key, score=nearness, patience=3, **options))(KEY)
    assert np.allclose(weights(one_program), weights(fitted), atol=1e-6)
    assert np.allclose(one_program.history.held_out[: len(scores)], scores, atol=1e-6)
    assert np.isnan(one_program.history.held_out[len(scores) :]).all()
    assert np.isnan(one_program.history.elbo[steps[-1] :]).all()

    patient = fit(score=nearness, **options)
    assert patient.history.elbo.shape == (60,)
    assert same(weights(patient), weights(fitted)), "the best comes back without patience, too"


def test_the_default_score_is_the_mean_log_predictive_density():
    fitted = fit(validation=(X, Y), evaluate_every=5)
    assert fitted.history.held_out_steps.tolist() == [5, 10, 12]
    density = bdl.log_predictive(KEY, fitted.posterior, fitted.model, (X, Y), num_samples=16).mean()
    assert np.allclose(fitted.history.held_out.max(), density, rtol=1e-5)


# Checkpoints


def interrupt(monkeypatch, after):
    """Ctrl-C in place of a block."""
    blocks = itertools.count()
    real = _watch.block

    def block(*args):
        if next(blocks) == after:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(_watch, "block", block)


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("validation", [None, (X, Y)])
def test_an_interrupted_fit_goes_on_from_its_checkpoint(tmp_path, monkeypatch, after, validation):
    options = {"num_steps": 20, "validation": validation, "block_size": 4}
    straight = fit(**options)
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            fit(checkpoint=tmp_path / "fit", **options)
    resumed = fit(checkpoint=tmp_path / "fit", **options)
    assert same(resumed, straight)
    assert same(fit(checkpoint=tmp_path / "fit", **options), straight), "a finished fit is read from its file"
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]


def test_more_steps_from_a_checkpoint(tmp_path):
    fit(checkpoint=tmp_path / "fit", num_steps=9)
    assert same(fit(checkpoint=tmp_path / "fit", num_steps=14), fit(num_steps=14))
    with pytest.raises(ValueError, match="of 14 steps, more than num_steps=10"):
        fit(checkpoint=tmp_path / "fit", num_steps=10)


def test_batches_of_the_host_go_on_where_they_were(tmp_path):
    def interrupted():
        yield from batches() + batches(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(data=interrupted(), num_data=20, checkpoint=tmp_path / "fit")
    resumed = fit(data=batches(), num_data=20, checkpoint=tmp_path / "fit")
    assert same(resumed, fit(data=batches(), num_data=20))


def test_an_interrupt_without_checkpoint_returns_what_there_is(monkeypatch):
    interrupt(monkeypatch, after=2)
    with pytest.warns(RuntimeWarning, match="interrupted after 8 of 12 steps"):
        fitted = fit(block_size=4)
    assert same(weights(fitted), weights(fit(num_steps=8)))
    interrupt(monkeypatch, after=0)
    with pytest.raises(KeyboardInterrupt):
        fit()


def test_a_failure_is_kept_in_the_checkpoint(tmp_path):
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="non-finite at step 7"):
            fitted = fit(algorithm=descent(fails_at=7), checkpoint=tmp_path / "fit")
        assert fitted.history.elbo.shape == (8,)


OTHERS = {
    "key": {"key": jax.random.key(5)},
    "batch_size": {"batch_size": 6},
    "num_data": {"num_data": 99},
    "validation=False": {"validation": (X, Y)},
    "run/state/count: expected float32.*, found int32": {"algorithm": descent(start=0.0)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_checkpoint_of_another_fit_is_refused_and_kept(tmp_path, what):
    path = tmp_path / "fit"
    fit(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=what):
        fit(checkpoint=path, **OTHERS[what])
    assert path.read_bytes() == before


def test_files_that_are_no_checkpoints_are_refused_and_kept(tmp_path):
    path = tmp_path / "saved"
    bdl.save(path, POSTERIOR, MODEL)
    for content, message in ((path.read_bytes(), "no checkpoint of a fit"), (b"a letter", "not a whole file")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            fit(checkpoint=path)
        assert path.read_bytes() == content


# Progress


@pytest.mark.parametrize("installed", [True, False])
def test_progress_goes_to_standard_error(capsys, monkeypatch, installed):
    if not installed:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    bdl.fit(KEY, DESCENT, POSTERIOR, MODEL, (X, Y), num_steps=12, validation=(X, Y), evaluate_every=6)
    out, err = capsys.readouterr()
    assert out == ""
    assert "12/12" in err
    assert "elbo" in err
    assert "held out" in err
    fit()
    assert capsys.readouterr().err == ""
