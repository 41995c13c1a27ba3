"""Files of arrays: bit for bit, by path, whole or not at all, and the same predictions in another process."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bdl
from bdl._tree_file import read_notes, read_tree, write_tree


def apply(params, x):
    return sum(x @ layer["kernel"] + layer["bias"] for layer in params.values())


def build(value):
    params = {name: {"kernel": jnp.full((3, 1), value), "bias": jnp.full(1, value)} for name in ("one", "two")}
    families = {"one/kernel": bdl.families.normal(scale=0.3), "two/kernel": bdl.families.bernoulli_dropout(rate=0.2)}
    prior = {"one/*": dist.Normal(value, 2.0), "*": dist.StudentT(3.0, 0.0, value)}
    model = bdl.Model(bdl.network(apply, params), bdl.likelihoods.Normal(scale=bdl.learned(value)), prior)
    return bdl.variational(params, families), model


def predictions(posterior, model):
    x = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
    prediction = bdl.predict(jax.random.key(1), posterior, model, x, num_samples=8)
    parts = (prediction.mean, prediction.variance, model.log_prior(posterior.mean))
    return b"".join(np.asarray(part).tobytes() for part in parts)


@pytest.mark.slow
def test_the_same_predictions_in_another_process(tmp_path):
    """Under another PYTHONHASHSEED, on which the order of numpyro's own leaves depends."""
    posterior, model = build(0.7)
    path = tmp_path / "fitted"
    bdl.save(path, posterior, model)
    here = predictions(posterior, model)
    assert here != predictions(*build(0.25))
    assert here == predictions(*bdl.load(path, like=build(0.25)))
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(bdl.__file__).parents[1])}
    there = subprocess.run([sys.executable, __file__, path], env=environment, capture_output=True)
    assert there.returncode == 0, there.stderr.decode()
    assert there.stdout == here


def leaves():
    return {
        "floats": {"float32": jnp.array([1.0, -0.0, jnp.nan, jnp.inf]), "scalar": jnp.float32(1 / 3)},
        "bfloat16": jnp.linspace(-1, 1, 6, dtype=jnp.bfloat16).reshape(2, 3),
        "float8": jnp.linspace(-1, 1, 5).astype(jnp.float8_e4m3fn),
        "int4": jnp.arange(-2, 3).astype(jnp.int4),
        "integers": (jnp.arange(3), jnp.array([True, False]), jnp.arange(3, dtype=jnp.uint8)),
        "none": None,
        "empty": jnp.zeros((0, 3)),
        "numpy": np.linspace(0, 1, 5),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(3, impl="rbg"), 2),
        "raw key": jax.random.PRNGKey(3),
        "function": len,
        "naïve/../name": jnp.ones(1),
    }


def bits(leaf):
    if leaf is len:
        return "code"
    keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if keys else leaf)
    return type(leaf), leaf.dtype, leaf.shape, array.tobytes()


def test_every_kind_of_array_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "tree"
    write_tree(path, {"tree": leaves()}, step=3)
    like = jax.tree.map(lambda leaf: leaf if leaf is len else leaf[..., ::-1] if leaf.ndim else leaf, leaves())
    back = read_tree(path, {"tree": like})["tree"]
    assert jax.tree.structure(back) == jax.tree.structure(leaves())
    assert list(map(bits, jax.tree.leaves(back))) == list(map(bits, jax.tree.leaves(leaves())))
    assert read_notes(path) == {"step": 3}
    with np.load(path) as file:
        assert np.array_equal(file["arrays/tree/floats/float32"], leaves()["floats"]["float32"], equal_nan=True)


def test_shapes_are_enough_to_read(tmp_path):
    tree = {"weights": jnp.arange(3.0), "keys": jax.random.split(jax.random.key(3), 2)}
    write_tree(tmp_path / "tree", tree)
    back = read_tree(tmp_path / "tree", jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree))
    assert list(map(bits, jax.tree.leaves(back))) == list(map(bits, jax.tree.leaves(tree)))


def test_what_does_not_fit_is_listed(tmp_path):
    path = tmp_path / "tree"
    write_tree(path, {"a": jnp.ones((2, 3)), "b": jnp.ones(2), "c": jnp.ones(2), "key": jax.random.key(0)})
    like = {"a": jnp.ones((3, 2)), "b": jnp.ones(2, jnp.bfloat16), "d": jnp.ones(1), "key": jax.random.PRNGKey(0)}
    with pytest.raises(ValueError, match="tree are not those expected") as raised:
        read_tree(path, like)
    assert [line.strip() for line in str(raised.value).splitlines()[1:-1]] == [
        "a: expected float32[3, 2], found float32[2, 3]",
        "b: expected bfloat16[2], found float32[2]",
        "d: expected float32[1], found nothing",
        "key: expected uint32[2], found key<fry>[]",
        "c: expected nothing, found float32[2]",
    ]
    with pytest.raises(ValueError, match="and 38 more"):
        read_tree(path, {str(i): jnp.ones(1) for i in range(46)})


def test_arrays_are_found_by_their_names(tmp_path):
    """Two arrays of one shape that change places in the tree stay with their names."""
    write_tree(tmp_path / "tree", {"x": {"a": jnp.zeros(2), "b": jnp.ones(2)}})
    back = read_tree(tmp_path / "tree", {"x": {"b": jnp.zeros(2), "a": jnp.zeros(2)}})
    assert back["x"]["a"].tolist() == [0, 0]
    assert back["x"]["b"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="x/a: expected nothing"):
        read_tree(tmp_path / "tree", {"x": {"a": {"b": jnp.zeros(2)}}})
    with pytest.raises(ValueError, match="the same path name"):
        write_tree(tmp_path / "tree", {"x": {"a/b": jnp.zeros(2), "a": {"b": jnp.ones(2)}}})


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "tree"
    tree = {"a": jnp.arange(1000.0)}
    write_tree(path, tree)
    whole = path.read_bytes()
    at = whole.index(np.arange(1000, dtype=np.float32).tobytes())
    damaged = [whole[:n] for n in (0, 10, len(whole) // 2, len(whole) - 1)]
    damaged += [whole[: at + 9] + b"x" + whole[at + 10 :], b"not a file of ours"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="tree is not a whole file of bdl"):
            read_tree(path, tree)
    for stranger in (lambda file: np.savez(file, a=np.ones(3)), lambda file: np.save(file, np.ones(3))):
        with path.open("wb") as file:
            stranger(file)
        with pytest.raises(ValueError, match="tree is not a whole file of bdl"):
            read_tree(path, tree)
    with pytest.raises(FileNotFoundError):
        read_tree(tmp_path / "none", tree)


@pytest.mark.parametrize("fails", ["numpy.savez", "os.fsync", "pathlib.Path.replace"])
def test_a_writing_that_fails_leaves_the_old_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "tree"
    write_tree(path, {"a": jnp.zeros(3)})
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fails, full)
        with pytest.raises(OSError, match="no space"):
            write_tree(path, {"a": jnp.ones(3)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["tree"]


def test_arrays_of_a_mesh_come_back_where_like_has_them(tmp_path):
    code = """
import jax, jax.numpy as jnp, sys
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from bdl._tree_file import read_tree, write_tree
spread = NamedSharding(Mesh(jax.devices(), "data"), PartitionSpec("data"))
array = jax.device_put(jnp.arange(8.0), spread)
write_tree(sys.argv[1], {"a": array})
assert read_tree(sys.argv[1], {"a": array})["a"].sharding == spread
back = read_tree(sys.argv[1], {"a": jnp.zeros(8)})["a"]
assert len(back.sharding.device_set) == 1 and (back == array).all()
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "tree"], env=os.environ | flags, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


if __name__ == "__main__":  # the other process
    sys.stdout.buffer.write(predictions(*bdl.load(sys.argv[1], like=build(0.25))))
