"""Transformers of our own: a GPT of tokens and a ViT of images, from the same blocks."""

from gradlab.models.transformer.architecture import TransformerArchitecture
from gradlab.models.transformer.family import FAMILIES
from gradlab.models.transformer.gpt import GPT
from gradlab.models.transformer.style import Style
from gradlab.models.transformer.vit import ViT

__all__ = ["FAMILIES", "GPT", "Style", "TransformerArchitecture", "ViT"]
