"""Words beside the weights: a classifier's own, or those that a text network embeds."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs.config_simclr import SimCLRConfig
from src_py.run import torchvision_compat  # noqa: F401  (must precede torchvision)
from src_py.run.checkpoints import save_checkpoint
from src_py.run.errors import UserError
from src_py.run.pretrained import load_backbone, pretrained_model
from src_py.run.stored_models import contrastive_content, load_vocabulary
from src_py.run.text_words import OWN_WORDS, PROMPT, read_words
from src_py.run.vocabulary import Vocabulary, imagenet_words
from tests.small_networks import SIZE, SMALL, random_weights, settings_of, use_small_networks

import torchvision  # isort: skip


def test_words_are_kept_beside_the_weights(tmp_path):
    file, pretext = tmp_path / "weights.pth", tmp_path / "pretext.pt"
    random_weights("test_convnext.r160_in1k", file)
    config = SimCLRConfig(init=f"timm:test_convnext.r160_in1k@{file}")
    model, vocabulary = pretrained_model(config, settings_of())
    save_checkpoint(pretext, contrastive_content(model, vocabulary))
    again = load_vocabulary(pretext)
    assert again.words == imagenet_words() and len(set(again.words)) == 1000
    torch.testing.assert_close(again.weight, vocabulary.weight)
    torch.testing.assert_close(again.bias, vocabulary.bias)

    save_checkpoint(pretext, contrastive_content(model))
    assert load_vocabulary(pretext) is None


def test_weights_that_are_trained_further_have_no_words(tmp_path):
    file = tmp_path / "weights.pth"
    random_weights("test_convnext.r160_in1k", file)
    config = SimCLRConfig(init=f"timm:test_convnext.r160_in1k@{file}", fine_tune=True)
    assert pretrained_model(config, settings_of())[1] is None


def test_a_resnets_file_has_words_where_its_name_is_told(tmp_path):
    file = tmp_path / "weights.pth"
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    torch.save(network.state_dict(), file)
    assert load_backbone(str(file), 3, SIZE).vocabulary is None
    backbone, report, vocabulary = load_backbone(f"resnet18@{file}", 3, SIZE)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        told = vocabulary.logits(backbone(images))
        torch.testing.assert_close(told, network(images), rtol=1e-4, atol=1e-4)
    assert (report.words, report.unexpected) == (1000, [])


def test_a_file_of_words_is_read_line_by_line(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("\ufeffoak  tree\n\n beech \r\noak tree\n", encoding="utf-8")
    assert read_words(file) == ("oak tree", "beech")
    for content, expected in ((b"one\n", "has 1 words"), (b"\xff\xfe\xff", "not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=expected):
            read_words(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_words(tmp_path / "none.txt")
    assert len(read_words(OWN_WORDS)) == len(OWN_WORDS.read_text(encoding="utf-8").splitlines())


class Text(torch.nn.Module):
    """In the place of open_clip's networks: a word's embedding is made of its letters."""

    logit_scale = torch.tensor(2.0)
    logit_bias = torch.tensor([-3.0])

    def encode_text(self, tokens, normalize):
        return torch.nn.functional.normalize(tokens, dim=1) if normalize else tokens


def letters(prompts):
    return torch.tensor([[float(p.count(chr(c))) for c in range(32, 128)] for p in prompts])


@pytest.fixture
def open_clip(monkeypatch, tmp_path):
    """A stand-in for the package, and a file for --init siglip2 that holds a text network."""
    use_small_networks(monkeypatch)
    loaded = []

    def create_model(name, pretrained):
        loaded.append((name, pretrained))
        return Text()

    module = SimpleNamespace(create_model=create_model, get_tokenizer=lambda name: letters)
    monkeypatch.setitem(sys.modules, "open_clip", module)
    file = tmp_path / "both.pth"
    state = random_weights(SMALL["siglip2"], file).state_dict()
    torch.save(state | {"text.token_embedding.weight": torch.ones(1)}, file)
    return SimpleNamespace(loaded=loaded, file=file)


def test_words_of_a_file_are_compared_by_angle(tmp_path, open_clip):
    words = tmp_path / "words.txt"
    words.write_text("cat\ndog\n", encoding="utf-8")
    config = SimCLRConfig(init=f"siglip2@{open_clip.file}", words=words)
    _, vocabulary = pretrained_model(config, settings_of(160))
    assert open_clip.loaded == [("ViT-B-16-SigLIP2", str(open_clip.file))]
    features = 7 * letters([PROMPT.format("dog")])
    angle = torch.cosine_similarity(features, letters([PROMPT.format(w) for w in ("cat", "dog")]))
    torch.testing.assert_close(vocabulary.logits(features)[0], np.e**2 * angle - 3)
    assert vocabulary.words == ("cat", "dog")


def test_without_a_file_everyday_words_are_taken(open_clip):
    config = SimCLRConfig(init=f"siglip2@{open_clip.file}")
    assert pretrained_model(config, settings_of(160))[1].words == read_words(OWN_WORDS)


def test_words_that_cannot_be_had_are_an_error_only_where_asked_for(
    tmp_path, capsys, monkeypatch, open_clip
):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    config = SimCLRConfig(init=f"siglip2@{open_clip.file}")
    assert pretrained_model(config, settings_of(160))[1] is None
    assert "no names will be suggested: words for siglip2@" in capsys.readouterr().out
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        pretrained_model(replace(config, words=OWN_WORDS), settings_of(160))


def test_a_file_without_the_text_network_is_told(open_clip):
    random_weights(SMALL["siglip2"], open_clip.file)
    config = SimCLRConfig(init=f"siglip2@{open_clip.file}", words=OWN_WORDS)
    with pytest.raises(UserError, match="holds no text network"):
        pretrained_model(config, settings_of(160))


def test_words_need_weights_that_know_text():
    with pytest.raises(UserError, match="--words: needs weights that know text"):
        SimCLRConfig(words=OWN_WORDS)
    config = SimCLRConfig(init="resnet18", words=OWN_WORDS)
    with pytest.raises(UserError, match="know no text; choose one of siglip2, clip"):
        pretrained_model(config, settings_of())


def test_logits_are_a_linear_layers():
    vocabulary = Vocabulary(("a", "b"), torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([0, 1.0]))
    features = torch.tensor([[3.0, 4.0]])
    assert vocabulary.logits(features).tolist() == [[3, 9]]
    at_one = replace(vocabulary, normalized=True).logits(features)
    torch.testing.assert_close(at_one, torch.tensor([[0.6, 2.6]]))
