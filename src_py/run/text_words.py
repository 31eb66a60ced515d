"""Words as a text network embeds them, for weights that learnt images and text together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from configs.weights import WEIGHTS, TextTower
from src_py.run.addresses import at_home
from src_py.run.errors import UserError, first_line
from src_py.run.init_option import InitOption
from src_py.run.vocabulary import Vocabulary
from src_py.run.weight_files import read_tensors

OWN_WORDS = Path(__file__).parents[2] / "configs" / "words.txt"
PROMPT = "a photo of a {}"  # as CLIP's authors found better than the bare word
BATCH = 64  # words
FEWEST_WORDS = 2
PACKAGE = "open_clip_torch"


def text_vocabulary(option: InitOption, file: Path | None) -> Vocabulary | None:
    """The words of a file, or everyday ones, where the features of `option` are compared with text.

    Args:
        file: one word or phrase a line; None for configs/words.txt, which is no necessity: where
            its words cannot be embedded, a line says so.

    Raises:
        UserError: when the weights know no text, or the words of `file` cannot be embedded.
    """
    text = require_text(option)
    words = read_words(file or OWN_WORDS)
    try:
        return _embed(option, text, words)
    except UserError as error:
        if file is not None:
            raise
        print(f"init: no names will be suggested: {error}", flush=True)
        return None


def require_text(option: InitOption) -> TextTower:
    """
    Raises:
        UserError: when the weights know no text.
    """
    text = None if option.entry is None else option.entry.text
    if text is None:
        known = ", ".join(name for name, entry in WEIGHTS.items() if entry.text)
        raise UserError(
            f"--words: the weights --init {option.typed} know no text; choose one of {known}"
        )
    return text


def read_words(path: Path) -> tuple[str, ...]:
    """The lines of a file of words, none twice.

    Raises:
        UserError: when it is missing, no text, or of fewer than two words.
    """
    try:
        lines = at_home(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"--words {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--words {path}: is not UTF-8 text") from None
    words = tuple(dict.fromkeys(word for line in lines if (word := " ".join(line.split()))))
    if len(words) < FEWEST_WORDS:
        raise UserError(
            f"--words {path}: has {len(words)} words, one a line; at least 2 are needed"
        )
    return words


def _embed(option: InitOption, text: TextTower, words: Sequence[str]) -> Vocabulary:
    """
    Raises:
        UserError: when open_clip or the text network's weights are missing.
    """
    from src_py.run import torchvision_compat  # noqa: F401  (open_clip imports torchvision)

    try:
        import open_clip
    except ImportError:
        raise UserError(f"words for {option.typed} need a package: pip install {PACKAGE}") from None
    try:
        model = _text_model(open_clip, option, text)
        tokenize = open_clip.get_tokenizer(text.model)
    except UserError:
        raise
    except ImportError as error:  # transformers, which cuts text into SigLIP's tokens
        raise UserError(
            f"words for {option.typed} need a package: pip install {error.name}"
        ) from None
    except Exception as error:  # what a hub's client raises offline differs from version to version
        raise UserError(
            f"the text network {text.model} ({text.weights}) cannot be loaded ({first_line(error)})"
        ) from None
    prompts = [PROMPT.format(word) for word in words]
    with torch.no_grad():
        embedded = torch.cat(
            [
                model.encode_text(tokenize(prompts[first : first + BATCH]), normalize=True)
                for first in range(0, len(prompts), BATCH)
            ]
        )  # (W, D), of length 1
        scale = model.logit_scale.exp()
        bias = torch.zeros(len(words)) if model.logit_bias is None else model.logit_bias
    weight = (embedded * scale).float()
    return Vocabulary(tuple(words), weight, bias.expand(len(words)).float().clone(), True)


def _text_model(open_clip: Any, option: InitOption, text: TextTower) -> Any:
    """open_clip's network of images and text, from the file of --init where that holds both."""
    if option.file is None:
        print(
            f"init: text network {text.model} ({text.weights}), {text.licence}, "
            f"{text.megabytes} MB, downloaded once",
            flush=True,
        )
        return open_clip.create_model(text.model, pretrained=text.weights).eval()
    names = read_tensors(option.typed, option.file)
    if not any(name.endswith("token_embedding.weight") for name in names):
        raise UserError(f"{option.file} holds no text network; open_clip's file of both does")
    return open_clip.create_model(text.model, pretrained=str(option.file)).eval()
