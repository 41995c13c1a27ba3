"""Corruptions of images against scipy, Pillow and matplotlib, and a posterior under them."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
from PIL import Image

import bdl
import bdl.diagnostics
from bdl.diagnostics._corruptions import _TABLES, CORRUPTIONS

KEY = jax.random.key(0)
NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
# Smooth images with edges, in [0.05, 0.95], of three colours.
rng = np.random.default_rng(0)
SMOOTH = scipy.ndimage.gaussian_filter(rng.normal(size=(4, 32, 32, 3)), (0, 1.5, 1.5, 0.5))
COLOUR = (0.5 + 0.45 * np.tanh(SMOOTH / SMOOTH.std())).astype(np.float32)


def corrupt(name, severity, images=COLOUR, **options):
    return np.asarray(bdl.diagnostics.corrupt(KEY, images, name, severity, **options))


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_distance_grows_with_the_severity_and_the_range_is_kept(name):
    found = [corrupt(name, severity) for severity in (1, 2, 3, 4, 5)]
    # Turned by more than the size of what is in it an image is as far from itself as from any other: a few pixels.
    inside = slice(13, 19) if name == "rotation" else slice(None)
    distances = [np.abs(a - COLOUR)[:, inside, inside].mean() for a in found]
    assert np.all(np.diff([0, *distances]) > 0)
    assert all(a.shape == COLOUR.shape and a.dtype == np.float32 and a.min() >= 0 and a.max() <= 1 for a in found)
    np.testing.assert_array_equal(found[2], corrupt(name, 3))
    # Black and white stay in the range, and blurs of what is even change nothing.
    even = np.stack([np.zeros((32, 32, 3)), np.ones((32, 32, 3)), np.full((32, 32, 3), 0.3), np.zeros((32, 32, 3))])
    ends = corrupt(name, 5, even.astype(np.float32))
    assert ends.min() >= 0
    assert ends.max() <= 1
    if name in ("gaussian_blur", "defocus_blur", "pixelate", "contrast"):
        np.testing.assert_allclose(ends, even, atol=1e-6)


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("severity", [1, 4])
def test_noises_have_their_moments(severity):
    """Of even images, so far from 0 and 1 that little is cut, or with both."""
    count = 4 * 32 * 32 * 3
    level = np.full((4, 32, 32, 3), 0.5, np.float32)
    c = {name: _TABLES["cifar10-c"][name][severity - 1] for name in NOISES}
    scale = {"gaussian_noise": c["gaussian_noise"], "shot_noise": np.sqrt(0.5 / c["shot_noise"]),
             "speckle_noise": 0.5 * c["speckle_noise"]}  # fmt: skip
    for name, expected in scale.items():
        noise = corrupt(name, severity, level).astype(np.float64) - 0.5
        assert abs(noise.mean()) < 5 * expected / np.sqrt(count), name
        assert abs(noise.std() / expected - 1) < 5 / np.sqrt(2 * count), name
        assert np.abs(noise[0] - noise[1]).max() > 0  # every image has its own
    shot = corrupt("shot_noise", severity, level) * c["shot_noise"]
    np.testing.assert_allclose(shot, np.round(shot), atol=1e-4)
    salt = corrupt("impulse_noise", severity, level)
    for value in (0.0, 1.0):
        share = c["impulse_noise"] / 2
        assert abs((salt == value).mean() - share) < 5 * np.sqrt(share / count)
    assert set(np.unique(salt)) == {0.0, 0.5, 1.0}


def test_brightness_is_that_of_hue_saturation_and_value():
    c = _TABLES["cifar10-c"]["brightness"][3]
    pixels = np.concatenate([COLOUR[0, :2].reshape(-1, 3), [[0, 0, 0], [1, 0, 0], [0.9, 0.9, 0.2]]]).astype(np.float32)
    found = corrupt("brightness", 4, pixels[None, None])[0, 0]
    for pixel, ours in zip(pixels, found, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(ours, colorsys.hsv_to_rgb(h, s, min(v + c, 1)), atol=1e-5)
    gray = corrupt("brightness", 4, COLOUR[..., :1])
    np.testing.assert_allclose(gray, np.minimum(COLOUR[..., :1] + c, 1), atol=1e-6)


def test_contrast_shrinks_towards_the_mean_of_a_channel():
    mean = COLOUR.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(corrupt("contrast", 3), (COLOUR - mean) * 0.4 + mean, atol=1e-6)


@pytest.mark.parametrize(("table", "severity"), [("cifar10-c", 1), ("cifar10-c", 5), ("imagenet-c", 2)])
def test_blurs_are_those_of_scipy(table, severity):
    images = np.concatenate([COLOUR[:1], np.roll(COLOUR[:1], 9, 2)], 2)[:, :20]  # 20 × 64: not square
    sigma = _TABLES[table]["gaussian_blur"][severity - 1]
    expected = scipy.ndimage.gaussian_filter(
        images.astype(np.float64), (0, sigma, sigma, 0), mode="nearest", truncate=4
    )
    np.testing.assert_allclose(corrupt("gaussian_blur", severity, images, table=table), expected, atol=1e-6)

    radius, alias = _TABLES[table]["defocus_blur"][severity - 1]
    grid = np.hypot(*np.mgrid[-12:13, -12:13])
    disc = (grid <= radius) / (grid <= radius).sum()
    taps = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)
    kernel = scipy.ndimage.convolve(disc, np.outer(taps, taps) / taps.sum() ** 2, mode="constant")
    expected = scipy.ndimage.correlate(images[0].astype(np.float64), kernel[..., None], mode="mirror")
    np.testing.assert_allclose(corrupt("defocus_blur", severity, images, table=table)[0], expected, atol=1e-6)


def test_the_disc_of_a_large_radius_is_smoothed_by_five_taps():
    """Its 21 × 21 pixels are cut there, with the border mirrored before the smoothing."""
    images = np.zeros((1, 48, 48, 1), np.float32)
    images[0, 24, 24] = 1
    grid = np.hypot(*np.mgrid[-10:11, -10:11])
    disc = (grid <= 10) / (grid <= 10).sum()
    taps = np.exp(-0.5 * (np.arange(-2, 3) / 0.5) ** 2)
    kernel = scipy.ndimage.convolve(disc, np.outer(taps, taps) / taps.sum() ** 2, mode="mirror")
    found = corrupt("defocus_blur", 5, images, table="imagenet-c")[0, ..., 0]
    np.testing.assert_allclose(found[14:35, 14:35], kernel, atol=1e-7)
    assert found.sum() == pytest.approx(kernel.sum(), rel=1e-5)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_pixelation_is_that_of_pillow(severity):
    for table, size in (("cifar10-c", 32), ("imagenet-c", 28)):
        image = COLOUR[0, :size, :, 0]
        c = _TABLES[table]["pixelate"][severity - 1]
        small = Image.fromarray(image).resize((int(32 * c), int(size * c)), Image.Resampling.BOX)
        expected = np.asarray(small.resize((32, size), Image.Resampling.BOX))
        found = corrupt("pixelate", severity, image[None, :, :, None], table=table)[0, ..., 0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rotation_is_that_of_scipy():
    images = COLOUR[:2, :20]
    for degrees in (0.0, 30.0, 90.0, -100.0):
        found = bdl.diagnostics.rotate(images, degrees)
        expected = scipy.ndimage.rotate(
            images.astype(np.float64), degrees, axes=(2, 1), reshape=False, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(corrupt("rotation", 2, images), bdl.diagnostics.rotate(images, 30.0), atol=1e-6)


def _templates():
    """Images of three templates, a network that compares with them, and its labels."""
    templates = COLOUR[:3, ::2, ::2]
    labels = np.arange(60) % 3
    images = np.clip(templates[labels] + 0.05 * rng.normal(size=(60, 16, 16, 3)), 0, 1).astype(np.float32)
    centred = (templates - templates.mean(0)).reshape(3, -1)
    bias = -0.5 * (templates.reshape(3, -1) ** 2).sum(1)
    return images, labels, jnp.asarray(centred.T, jnp.float32), jnp.asarray(bias, jnp.float32)


IMAGES, LABELS, KERNEL, BIAS = _templates()
network = bdl.network(
    lambda params, x: 0.1 * (x.reshape(len(x), -1) @ params["kernel"] + params["bias"]),
    {"kernel": KERNEL, "bias": BIAS},
)
classes = bdl.Model(network, bdl.likelihoods.Categorical())
POINT = bdl.variational(network.params, bdl.families.point)


def test_scores_under_shift_are_those_of_the_corrupted_images():
    posterior = bdl.variational(network.params, {"kernel": bdl.families.normal(scale=0.05)})
    options = {"corruptions": ("contrast", "brightness"), "severities": (2, 5), "num_samples": 20, "num_bins": 10}
    found = bdl.diagnostics.under_shift(KEY, posterior, classes, (IMAGES, LABELS), batch_size=40, **options)
    assert found.corruptions == ("contrast", "brightness")
    assert found.severities == (0, 2, 5)
    assert found.accuracy.shape == found.negative_log_likelihood.shape == found.calibration_error.shape == (2, 3)
    mean = IMAGES.mean((1, 2), keepdims=True)
    for row, column, images in ((0, 0, IMAGES), (1, 0, IMAGES), (0, 2, (IMAGES - mean) * 0.15 + mean)):
        probs = np.asarray(bdl.predict(KEY, posterior, classes, images, num_samples=20).probs, np.float64)
        confidence, right = probs.max(1), probs.argmax(1) == LABELS
        bins = np.minimum((confidence * 10).astype(int), 9)
        gaps = [abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(10)]
        assert float(found.accuracy[row, column]) == pytest.approx(right.mean(), abs=1e-6)
        nll = -np.log(probs[np.arange(60), LABELS]).mean()
        assert float(found.negative_log_likelihood[row, column]) == pytest.approx(nll, abs=1e-4)
        assert float(found.calibration_error[row, column]) == pytest.approx(sum(gaps) / 60, abs=1e-4)
    assert np.all(np.diff(found.negative_log_likelihood[0]) > 0)


def test_probabilities_too_small_for_float32_keep_their_likelihood():
    sharp = bdl.network(lambda params, x: 1e3 * x.reshape(len(x), -1) @ params["kernel"], {"kernel": KERNEL})
    model = bdl.Model(sharp, bdl.likelihoods.Categorical())
    posterior = bdl.variational(sharp.params, bdl.families.point)
    wrong = (LABELS + 1) % 3
    found = bdl.diagnostics.under_shift(
        KEY, posterior, model, (IMAGES, wrong), corruptions="brightness", severities=[1], preprocess=lambda x: x - 0.5
    )
    logits = 1e3 * (IMAGES.astype(np.float64) - 0.5).reshape(60, -1) @ np.asarray(KERNEL, np.float64)
    expected = -scipy.special.log_softmax(logits, 1)[np.arange(60), wrong].mean()
    assert expected > 200
    assert float(found.negative_log_likelihood[0, 0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corrupt("gaussian_noise", 1, COLOUR[0]), r"images \[N, H, W, C\], got shape \(32, 32, 3\)"),
        (lambda: corrupt("gaussian_noise", 1, 255 * COLOUR), "Divide 8-bit images by 255"),
        (lambda: corrupt("gaussian_noise", 1, COLOUR * np.nan), "from nan to nan"),
        (lambda: corrupt("snow", 1), "expected one of gaussian_noise, shot_noise"),
        (lambda: corrupt("contrast", 6), "severity of 1, 2, 3, 4 or 5, got 6"),
        (lambda: corrupt("contrast", 1, table="mnist-c"), "one of .*'imagenet-c'"),
        (
            lambda: bdl.diagnostics.under_shift(
                KEY, POINT, bdl.Model(network, bdl.likelihoods.Normal()), (IMAGES, LABELS)
            ),
            "this model is a regression",
        ),
        (
            lambda: bdl.diagnostics.under_shift(KEY, POINT, classes, (IMAGES, LABELS), corruptions=()),
            "at least one",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
