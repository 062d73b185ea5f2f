"""What the tables name can be loaded, and is what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from psdp.architectures import ACTIVATIONS, ARCHITECTURES, NORMS
from psdp.config import Config, ModelConfig
from psdp.nn.models import LanguageModel, language_model
from psdp.nn.models.decoder import DecoderModel
from psdp.nn.parts import FeedForward, Norm, feed_forward_of, norm_of


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_a_model_of_language(name: str) -> None:
    assert ARCHITECTURES[name].name == name
    assert issubclass(language_model(name), LanguageModel)
    table = language_model(name).table(Config().resolved(), vocab_size=11)
    assert table.size > 11


def test_the_default_is_the_decoder() -> None:
    assert language_model(ModelConfig().architecture) is DecoderModel


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_is_one(name: str) -> None:
    assert issubclass(norm_of(replace(ModelConfig(), norm=name)), Norm)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_its_network(name: str) -> None:
    assert issubclass(feed_forward_of(replace(ModelConfig(), activation=name)), FeedForward)
