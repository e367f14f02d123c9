"""The gallery: a recipe for every figure of the papers, and what rebuilds them."""

from gradlab.gallery.readme import readme
from gradlab.gallery.recipe import NotAtHand, Recipe
from gradlab.gallery.recipes import RECIPES, find_recipes
from gradlab.gallery.render import render

__all__ = ["RECIPES", "NotAtHand", "Recipe", "find_recipes", "readme", "render"]
