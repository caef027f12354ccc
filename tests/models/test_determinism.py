"""One thread, padded chunks, seeds that are put back: what makes results the same to the last bit."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from bench import __version__
from bench.models import training
from bench.models.determinism import CHUNK, flush_denormals, in_chunks, single_thread, torch_seed, versions


def threads():
    return torch.get_num_threads(), [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_one_thread_inside_and_as_before_after():
    with single_thread():
        pass
    before = threads()
    assert before[0] == 2
    with single_thread():
        inside = threads()
        with single_thread():
            pass
        assert threads() == inside
    assert inside[0] == 1
    assert {number for _, number in inside[1]} == {1}
    assert threads() == before


@pytest.mark.usefixtures("two_threads")
def test_threads_are_put_back_after_an_error():
    with pytest.raises(KeyError), single_thread():
        raise KeyError
    assert torch.get_num_threads() == 2


def test_a_seed_holds_inside_and_the_global_generator_is_put_back():
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with torch_seed(seed):
            draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(before, torch.get_rng_state())


def fail():
    torch.rand(3)
    raise KeyError


def test_the_generator_is_put_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), torch_seed(1):
        fail()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 600])
def test_every_chunk_has_256_rows_and_the_padding_is_cut_off(n):
    x = np.random.default_rng(0).random((n, 1, 2, 2), dtype=np.float32)
    seen = []

    def evaluate(rows):
        seen.append(rows)
        return rows.sum(axis=(1, 2, 3)), rows[:, 0]

    sums, first = in_chunks(evaluate, x)
    assert {rows.shape for rows in seen} == {(CHUNK, 1, 2, 2)}
    assert {rows.dtype for rows in seen} == {np.dtype(np.float32)}
    assert len(seen) == max(1, -(-n // CHUNK))
    assert sums.shape == (n,)
    assert (first == x[:, 0]).all()
    assert not seen[-1][n - CHUNK * (len(seen) - 1) :].any()


def test_chunks_come_in_single_precision_and_in_one_piece():
    def evaluate(rows):
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        return (rows,)

    wide = np.random.default_rng(0).random((2, 3, 300)).T
    assert (in_chunks(evaluate, wide)[0] == wide.astype(np.float32)).all()


@pytest.mark.parametrize("classes", [1, 2, 10, 128])
def test_a_product_in_double_precision_is_the_same_for_a_row_alone_and_in_a_batch(classes):
    # What scikit-learn's victims compute; those of PyTorch are in test_victims. In single precision NumPy
    # does not keep this everywhere: on some processors the last bits depend on the row's place in the batch.
    rng = np.random.default_rng(0)
    weights = rng.random((200, classes))
    x = rng.random((300, 200), dtype=np.float32)

    def product(rows):
        return (rows.astype(np.float64) @ weights,)

    with single_thread():
        (whole,) = in_chunks(product, x)
        for row in (0, 7, 100, 252, 255, 299):
            assert (in_chunks(product, x[row : row + 1])[0] == whole[row]).all()


def test_versions_name_what_results_depend_on():
    found = versions()
    assert found["moatbench"] == __version__
    assert {"adversarial-robustness-toolbox", "torch", "numpy", "scikit-learn"} < set(found)


def flushes():
    return float(torch.tensor([1e-40]) * 1) == 0


@flush_denormals()
def flushed_inside():
    return flushes()


def test_denormals_are_flushed_inside_alone():
    assert not flushes()
    with flush_denormals():
        assert flushes()
        assert flushed_inside()
        assert flushes()
        with pytest.raises(KeyError), flush_denormals():
            raise KeyError
        assert flushes()
    assert not flushes()


def test_networks_are_evaluated_without_denormals():
    seen = []

    class Network(torch.nn.Module):
        def forward(self, x):
            seen.append(flushes())
            return x.flatten(1)

    training.logits(Network(), np.ones((3, 1, 2, 2), dtype=np.float32))
    assert seen == [True]
    assert not flushes()
