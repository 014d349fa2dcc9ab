"""Distances between sets of features: exact cases, references, expectations, independence of chunks."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.stats

from jaxdiff import metrics


def exact(rng, size, mean, covariance):
    """Points whose sample mean and unbiased covariance are `mean` and `covariance`, up to rounding."""
    points = rng.standard_normal((size, len(mean)))
    points -= points.mean(0)
    points = np.linalg.qr(points)[0] * np.sqrt(size - 1)
    return points @ np.linalg.cholesky(covariance).T + mean


def wishart(rng, dim):
    factor = rng.standard_normal((dim, dim + 2))
    return factor @ factor.T / dim


def test_frechet_of_diagonal_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    std_a, std_b, shift = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5]), np.array([1.0, -2.0, 0.0])
    a = exact(rng, 50, np.zeros(3), np.diag(std_a**2))
    b = exact(rng, 80, shift, np.diag(std_b**2))
    expected = np.sum(shift**2) + np.sum((std_a - std_b) ** 2)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_agrees_with_the_matrix_square_root():
    rng = np.random.default_rng(1)
    cov_a, cov_b, shift = wishart(rng, 8), wishart(rng, 8), rng.standard_normal(8)
    a, b = exact(rng, 100, np.zeros(8), cov_a), exact(rng, 60, shift, cov_b)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = shift @ shift + np.trace(cov_a + cov_b - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_equal_sets_is_zero_and_a_shift_alone_gives_its_square():
    a = np.random.default_rng(2).standard_normal((40, 6)) * 10
    assert metrics.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, a + np.arange(6.0)) == pytest.approx(55, rel=1e-9)


def test_moments_of_parts_are_those_of_the_whole():
    x = np.random.default_rng(0).normal(3.0, [1, 2, 3], (1000, 3))
    parts = [metrics.Moments.of(x[i : i + 137]) for i in range(0, 1000, 137)]
    whole, streamed = metrics.Moments.of(x), sum(parts[::-1], metrics.Moments.empty(3))
    assert streamed.count == 1000
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(streamed.covariance, np.cov(x.T), rtol=1e-12)
    y = x[:300] * 1.1
    assert streamed.distance(metrics.Moments.of(y)) == pytest.approx(metrics.frechet_distance(x, y), rel=1e-10)
    with pytest.raises(ValueError, match="at least 2 rows for a covariance, got 0"):
        metrics.Moments.empty(3).distance(whole)
    with pytest.raises(ValueError, match="as many features in both, got 3 and 2"):
        whole + metrics.Moments.empty(2)
    with pytest.raises(ValueError, match="finite"):
        metrics.Moments.of(np.array([[np.nan, 1.0]]))


def test_frechet_of_singular_covariances():
    rng = np.random.default_rng(3)
    few = rng.standard_normal((5, 30))  # rank 4
    assert metrics.frechet_distance(few, few) == pytest.approx(0, abs=1e-9)
    line = np.outer(np.array([-1.0, 0.0, 1.0]), np.eye(4)[0])  # variance 1 on one axis, none elsewhere
    other = np.outer(np.array([-1.0, 0.0, 1.0]), np.eye(4)[1])
    assert metrics.frechet_distance(line, other) == pytest.approx(2, rel=1e-12)
    assert metrics.frechet_distance(line, 3 * line) == pytest.approx(4, rel=1e-12)
    assert metrics.frechet_distance(np.ones((2, 3)), np.zeros((2, 3))) == pytest.approx(3, rel=1e-12)


def test_frechet_accepts_float32_and_integers():
    a = np.random.default_rng(4).integers(0, 255, (30, 4), np.uint8)
    b = a[:20].astype(np.float32)
    assert metrics.frechet_distance(a, b) == metrics.frechet_distance(a.astype(float), b.astype(float))


def test_identical_sets_are_fully_precise_recalled_and_covered():
    a = np.random.default_rng(5).standard_normal((200, 7))
    assert metrics.precision_recall(a, a) == (1.0, 1.0)
    density, coverage = metrics.density_coverage(a, a, k=5)
    assert coverage == 1.0
    assert density == pytest.approx(6 / 5)  # each ball holds its centre and, on its surface, the k-th neighbour


def test_disjoint_sets_share_nothing():
    a = np.random.default_rng(6).standard_normal((100, 3))
    assert metrics.precision_recall(a, a + 1e3) == (0.0, 0.0)
    assert metrics.density_coverage(a, a + 1e3) == (0.0, 0.0)


def test_precision_and_recall_tell_quality_from_variety():
    rng = np.random.default_rng(7)
    modes = np.where(np.arange(400)[:, None] % 2, 50.0, -50.0)
    real = modes + rng.standard_normal((400, 2))
    collapsed = 50 + rng.standard_normal((400, 2))
    precision, recall = metrics.precision_recall(real, collapsed)
    assert precision > 0.9
    assert 0.4 < recall < 0.5
    precision, recall = metrics.precision_recall(collapsed, real)
    assert 0.4 < precision < 0.5
    assert recall > 0.9


@pytest.mark.parametrize(("real_size", "fake_size", "k"), [(60, 60, 5), (40, 90, 3)])
def test_density_and_coverage_have_their_expectations(real_size, fake_size, k):
    rng = np.random.default_rng(8)
    sets = [(rng.standard_normal((real_size, 4)), rng.standard_normal((fake_size, 4))) for _ in range(300)]
    density, coverage = np.array([metrics.density_coverage(real, fake, k) for real, fake in sets]).T
    uncovered = np.prod([(real_size - i) / (fake_size + real_size - i) for i in range(1, k + 1)])
    for values, expected in ((density, 1), (coverage, 1 - uncovered)):
        error = values.std() / np.sqrt(len(sets))
        assert error < 0.02
        assert abs(values.mean() - expected) < 4 * error


def test_nearest_distance_is_exact():
    rng = np.random.default_rng(9)
    references = rng.standard_normal((150, 5)) + 1e4  # far from the origin, where the expanded square cancels
    queries = np.concatenate([references[::7], rng.standard_normal((30, 5)) + 1e4])
    brute = np.sqrt(((queries[:, None] - references) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(metrics.nearest_distance(queries, references), brute, rtol=1e-12)
    assert (metrics.nearest_distance(references[::7], references) == 0).all()


def test_chunks_change_nothing():
    rng = np.random.default_rng(10)
    a, b = rng.standard_normal((101, 6)), rng.standard_normal((87, 6))
    b[:20] = a[:20]
    for function in (metrics.precision_recall, metrics.density_coverage, metrics.nearest_distance):
        results = [np.asarray(function(a, b, chunk=chunk)) for chunk in (1, 7, 50, 1000)]
        assert all((result == results[0]).all() for result in results), function


def test_mistakes_name_the_mend():
    a, b = np.zeros((10, 3)), np.zeros((10, 4))
    for function in (
        metrics.frechet_distance,
        metrics.precision_recall,
        metrics.density_coverage,
        metrics.nearest_distance,
    ):
        with pytest.raises(ValueError, match="flatten"):
            function(a, b)
        with pytest.raises(ValueError, match="finite"):
            function(a, np.full((10, 3), np.nan))
    with pytest.raises(ValueError, match="at least 2"):
        metrics.frechet_distance(a[:1], a)
    with pytest.raises(ValueError, match="at least 4"):
        metrics.precision_recall(a[:3], a)
    with pytest.raises(ValueError, match="at least 6"):
        metrics.density_coverage(a[:5], a)
    with pytest.raises(ValueError, match="neighbours"):
        metrics.density_coverage(a, a, k=0)


def test_kernel_distance_has_no_bias_and_is_that_of_the_moments():
    """For the kernel x.y it is |mean_a - mean_b|^2 without the bias of squares; of one law its mean is 0."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(40, 3)), rng.normal(0.5, 1.0, (30, 3))
    linear = lambda x, y: x @ y.T
    within = lambda x: (x.sum(0) @ x.sum(0) - (x**2).sum()) / (len(x) * (len(x) - 1))
    expected = within(a) + within(b) - 2 * a.mean(0) @ b.mean(0)
    assert abs(metrics.kernel_distance(a, b, kernel=linear) - expected) < 1e-12
    assert metrics.kernel_distance(a, b, chunk=7) == pytest.approx(metrics.kernel_distance(a, b), abs=1e-12)
    same = [metrics.kernel_distance(rng.normal(size=(20, 3)), rng.normal(size=(35, 3))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20
    assert metrics.kernel_distance(a, a + 2) > 10 * np.std(same)


def test_vendi_counts_what_is_different():
    assert metrics.vendi(np.eye(5)) == pytest.approx(5)
    assert metrics.vendi(np.ones((7, 3))) == pytest.approx(1)
    assert metrics.vendi(np.repeat(np.eye(4), 3, 0)) == pytest.approx(4)
    normal = lambda x, y: np.exp(-((x[:, None] - y[None]) ** 2).sum(-1))
    assert metrics.vendi(100.0 * np.arange(6)[:, None], kernel=normal) == pytest.approx(6)
    x = np.random.default_rng(0).normal(size=(5, 9))
    gram = lambda x, y: (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T
    assert metrics.vendi(x) == pytest.approx(metrics.vendi(x, kernel=gram))
    assert metrics.vendi(x.T) == pytest.approx(metrics.vendi(x.T, kernel=gram))
    with pytest.raises(ValueError, match="row of zeros"):
        metrics.vendi(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"k\(x, x\) = 1"):
        metrics.vendi(np.ones((2, 2)), kernel=lambda x, y: 2 * np.ones((len(x), len(y))))


def test_psnr_and_ssim_are_their_definitions():
    rng = np.random.default_rng(1)
    truth = rng.random((3, 20, 17, 2))
    x = np.clip(truth + 0.1 * rng.normal(size=truth.shape), 0, 1)
    np.testing.assert_allclose(metrics.psnr(truth + 0.1, truth), 20.0)
    np.testing.assert_allclose(metrics.psnr(2 * x, 2 * truth, span=2.0), metrics.psnr(x, truth))
    assert np.isinf(metrics.psnr(truth, truth)).all()
    np.testing.assert_allclose(metrics.ssim(truth, truth), 1.0)
    blur = lambda z: scipy.ndimage.gaussian_filter(z, 1.5, truncate=3.5, axes=(1, 2))  # a radius of 5 pixels

    def direct(a, b):
        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        value = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
        return value[:, 5:-5, 5:-5].mean((1, 2, 3))

    np.testing.assert_allclose(metrics.ssim(x, truth), direct(x, truth), rtol=1e-10)
    np.testing.assert_allclose(metrics.ssim(255 * x, 255 * truth, span=255), metrics.ssim(x, truth))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        metrics.ssim(x[:, :8], truth[:, :8])
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr(x[:, 1:], truth)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        metrics.psnr(x, truth, span=0)


def test_crps_of_normal_samples_is_the_closed_form():
    """sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) for N(mu, sigma^2), whatever the number of samples."""
    rng, y = np.random.default_rng(2), np.array([0.3, -1.0, 2.0])
    z = (y - 0.5) / 2.0
    phi, cdf = scipy.stats.norm.pdf(z), scipy.stats.norm.cdf(z)
    expected = 2.0 * (z * (2 * cdf - 1) + 2 * phi - 1 / np.sqrt(np.pi))
    for count in (2, 5, 50):
        found = metrics.crps(rng.normal(0.5, 2.0, (count, 20_000, 3)), np.broadcast_to(y, (20_000, 3)))
        error = found.std(0) / np.sqrt(20_000)
        assert (abs(found.mean(0) - expected) < 4.5 * error).all()
    certain = np.full((4, 3), 0.5)
    np.testing.assert_allclose(metrics.crps(certain, y), abs(y - 0.5))
    with pytest.raises(ValueError, match="at least 2 samples"):
        metrics.crps(certain[:1], y)
