"""Suggested names: the right word, for every cluster of its own, and none where none is clear."""

import numpy as np
import pytest
import torch

from src_py.clusters import suggestions
from src_py.clusters.suggestions import Suggestion, suggest_names
from src_py.run.vocabulary import Vocabulary

WORDS = ("plant", "rose", "oak", "cat", "dog")


@pytest.fixture
def vocabulary():
    """Features are the words' logits."""
    return Vocabulary(WORDS, torch.eye(len(WORDS)), torch.zeros(len(WORDS)))


def features_of(*logits, images=20):
    """As many images of each cluster, around its logits."""
    random = np.random.default_rng(0)
    rows = np.repeat(np.array(logits, np.float32), images, axis=0)
    assigned = np.repeat(np.arange(len(logits)), images)
    return rows + random.normal(0, 0.1, rows.shape).astype(np.float32), assigned


def words_of(suggested):
    return [[suggestion.word for suggestion in cluster] for cluster in suggested]


def test_each_cluster_gets_its_word(vocabulary):
    features, assigned = features_of([0, 0, 0, 9, 0], [0, 0, 0, 0, 9])
    suggested = suggest_names(features, assigned, vocabulary, clusters=2)
    assert words_of(suggested) == [["cat"], ["dog"]]
    assert all(0.9 < cluster[0].score <= 1 for cluster in suggested)


def test_a_word_for_all_counts_less_than_one_for_the_cluster(vocabulary):
    """Every image is a plant first, and only then a rose or an oak."""
    features, assigned = features_of([6, 5, 0, 0, 0], [6, 0, 5, 0, 0])
    suggested = suggest_names(features, assigned, vocabulary, clusters=2)
    assert words_of(suggested) == [["rose", "plant"], ["oak", "plant"]]
    scores = [suggestion.score for suggestion in suggested[0]]
    assert scores == sorted(scores, reverse=True)


def test_a_sure_word_stays_although_all_share_it(vocabulary):
    features, assigned = features_of([20, 1, 0, 0, 0], [20, 0, 1, 0, 0])
    suggested = suggest_names(features, assigned, vocabulary, clusters=2)
    assert [cluster[0].word for cluster in suggested] == ["plant", "plant"]


def test_the_score_by_its_definition(vocabulary):
    features, assigned = features_of([3, 2, 1, 0, 0], [0, 1, 2, 3, 0])
    logits = features.astype(np.float64)
    told = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    worth = told[assigned == 1].mean(axis=0) - told.mean(axis=0) / 2
    expected = np.exp(worth) / np.exp(worth).sum()
    found = suggest_names(features, assigned, vocabulary, clusters=2, count=5)[1]
    for word, score in found:
        assert score == pytest.approx(expected[WORDS.index(word)], abs=1e-5)
    assert found[0].word == WORDS[expected.argmax()]


def test_where_no_word_is_clear_none_is_told():
    words = tuple(f"word {number}" for number in range(50))
    vocabulary = Vocabulary(words, torch.eye(50), torch.zeros(50))
    features, assigned = np.zeros((30, 50), np.float32), np.arange(30) % 3
    assert suggest_names(features, assigned, vocabulary, clusters=3) == [(), (), ()]


def test_an_empty_cluster_has_no_name_and_unassigned_images_count_for_all(vocabulary):
    features, assigned = features_of([6, 5, 0, 0, 0], [6, 0, 5, 0, 0])
    suggested = suggest_names(features, np.where(assigned == 1, -1, 0), vocabulary, clusters=2)
    assert words_of(suggested) == [["rose", "plant"], []]


def test_images_count_by_their_probability(vocabulary):
    features, _ = features_of([0, 0, 0, 9, 0], [0, 0, 0, 0, 9], images=10)
    together = np.zeros(20, np.int64)
    sure = np.repeat([0.01, 1.0], 10)
    assert suggest_names(features, together, vocabulary, 1, sure)[0][0].word == "dog"
    assert suggest_names(features, together, vocabulary, 1, sure[::-1].copy())[0][0].word == "cat"


def test_parts_give_what_the_whole_gives(vocabulary, monkeypatch):
    features, assigned = features_of([3, 2, 1, 0, 0], [0, 1, 2, 3, 0])
    whole = suggest_names(torch.tensor(features), assigned, vocabulary, clusters=2)
    monkeypatch.setattr(suggestions, "BATCH", 7)
    for one, other in zip(
        whole, suggest_names(features, assigned, vocabulary, clusters=2), strict=True
    ):
        assert words_of([one]) == words_of([other])
        assert [s.score for s in one] == pytest.approx([s.score for s in other], abs=1e-6)
    assert isinstance(whole[0][0], Suggestion)
