"""Texts that training draws from another column than the one that evaluation takes."""

import numpy as np
import pytest

from mcn_lightning.data.captions import parse_captions
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.dataset import NarratedVideoDataset
from mcn_lightning.data.sources.howto100m import LayoutVideos, VideoLayout
from mcn_lightning.errors import InputError

ENTRY = {"start": [0.0, 2.0], "end": [1.0, 3.0], "text": ["one", "two"], "more": [["a", "b", "c"], ["d"]]}


class Letters:
    max_words = 1

    def indices(self, text):
        return np.array([sum(map(ord, text))], np.int32)


def test_training_draws_one_and_evaluation_takes_text(tmp_path):
    layout = VideoLayout(tmp_path, tmp_path, modalities=("text",))
    source = LayoutVideos(["v"], {"v": parse_captions(ENTRY, "more")}, layout)
    clips = ClipConfig(n_pair=2, min_time=0.0, replacement=False)
    train = NarratedVideoDataset(source, clips, text=Letters(), seed=0, training=True)
    drawn = {}
    for epoch in range(40):
        batch = train[epoch, 0]
        for name, word in zip(batch.ids, batch.words[:, 0].tolist(), strict=True):
            drawn.setdefault(name, set()).add(chr(word))
        assert (train[epoch, 0].words == batch.words).all()
    assert drawn == {"v:0": {"a", "b", "c"}, "v:1": {"d"}}
    held_out = NarratedVideoDataset(source, clips, text=Letters(), seed=0, training=False)
    assert held_out[0, 0].words[:, 0].tolist() == [sum(map(ord, text)) for text in ENTRY["text"]]


def test_all_texts_reach_the_vocabulary():
    assert parse_captions(ENTRY, "more").all_texts() == ["one", "two", "a", "b", "c", "d"]
    assert parse_captions(ENTRY).all_texts() == ["one", "two"]


@pytest.mark.parametrize("column", [[["a"], []], [["a"], [3]], [["a"], 3], [["a"], None]])
def test_a_caption_without_choices_is_dropped(column):
    found = parse_captions(ENTRY | {"more": column}, "more")
    assert found.text == ("one",) and found.choices == (("a",),)
    assert found.dropped == {"without text in the column more": 1}


def test_too_few_choices_are_refused():
    with pytest.raises(InputError, match=r"as many rows as texts \(2\) in the column more, found 1"):
        parse_captions(ENTRY | {"more": [["a"]]}, "more")


def test_a_column_that_is_not_there():
    with pytest.raises(InputError, match="other"):
        parse_captions(ENTRY, "other")
