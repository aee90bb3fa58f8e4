"""Streams of photos: order, epochs, workers and ends."""

import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from daa_diffusers.degradations.gaussian import BlindGaussian
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.sources.sampling import TrainingPatches
from daa_diffusers.sources.specs import StreamSource

from .conftest import stream, table


def numbers(source, samples):
    dataset = TrainingPatches([source], BlindGaussian(0, 0), patch=4, length=10**6, seed=5)
    return [round(float(dataset[n]["clean"][0, 0, 0]) * 255) for n in samples]


@pytest.mark.parametrize("window", [1, 4, 5, 10, 256])
def test_a_stream_gives_each_photo_once_an_epoch_in_a_new_order_within_windows(window):
    drawn = numbers(stream(10, window), range(30))
    epochs = [drawn[:10], drawn[10:20], drawn[20:]]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
        for start in range(0, 10, window):
            assert sorted(epoch[start : start + window]) == list(range(start, min(10, start + window)))
    if window > 1:
        assert epochs[0] != epochs[1] != epochs[2]


def test_a_sample_of_a_stream_is_a_function_of_its_number():
    expected = numbers(stream(10, 4), range(45))
    assert numbers(stream(10, 4), range(1, 45, 2)) == expected[1::2]  # as one of two workers
    for first in (3, 9, 10, 13, 20, 37):  # as a run that resumes
        assert numbers(stream(10, 4), range(first, 45)) == expected[first:], first
    source = stream(10, 4)
    for n in (40, 2, 19, 20, 8, 0):  # in any order
        assert numbers(source, [n]) == [expected[n]]
    assert source.count == len(source) == 10
    assert numbers(pickle.loads(pickle.dumps(source)), [17]) == [expected[17]]


def test_loader_workers_see_the_whole_stream():
    dataset = TrainingPatches([stream(10, 4)], BlindGaussian(0, 0), patch=4, length=30, seed=5)
    loaded = [batch["clean"] for batch in DataLoader(dataset, batch_size=3, num_workers=2)]
    seen = [round(float(photo[0, 0, 0]) * 255) for photo in torch.cat(loaded)]
    assert seen == numbers(stream(10, 4), range(30))


def test_streams_have_no_length_before_their_end_and_must_not_be_empty():
    source = stream(5, 2, argument="real", name="five")
    assert source.count is None and "? photos" in repr(source)
    with pytest.raises(TypeError, match="`real`: the length of a stream"):
        len(source)
    numbers(source, range(6))
    assert len(source) == 5
    with pytest.raises(IndexError):
        source.photo(5)
    with pytest.raises(ConfigurationError, match="`clean`: 'none' must hold photos"):
        empty = datasets.IterableDataset.from_generator(lambda: iter(()), features=table([]).features)
        numbers(StreamSource(empty, name="none", argument="clean"), [0])
    with pytest.raises(ConfigurationError, match="`window` must be at least 1, got 0"):
        stream(5, 0)


def test_a_stream_that_breaks_off_is_not_taken_for_one_that_ends():
    fails = {"now": True}

    def examples():
        for value in range(10):
            if value == 6 and fails["now"]:
                raise ConnectionError("the line is down")
            yield {"image": Image.fromarray(np.full((4, 4), value, np.uint8))}

    features = datasets.Features({"image": datasets.Image()})
    source = StreamSource(datasets.IterableDataset.from_generator(examples, features=features), window=4, channels=1)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            numbers(source, range(8))
    fails["now"] = False
    assert numbers(source, range(30)) == numbers(stream(10, 4), range(30))
