"""What the name of a transformer may say besides its family and depth."""

from gradlab.models.grammar import Option
from gradlab.models.transformer.style import ACTIVATIONS, NORMS, SCALES
from gradlab.models.transformer.weights import INITS

WIDTH = Option("width", "width=", says="the width is a whole number, at least 1", whole=True, low=1)
HEADS = Option("heads", "heads=", says="heads is a whole number that divides the width", whole=True, low=1)
NORM = Option("norm", "norm=", NORMS, says=f"the norm is {', '.join(NORMS)}")
RMS = Option("rms", words=("rms",))
SCALE = Option("scale", "scale=", SCALES, says=f"the scale is {', '.join(SCALES)}", default="one")
ACT = Option("activation", "act=", ACTIVATIONS, says=f"act is {', '.join(ACTIVATIONS)}", default="gelu")
SHORTCUT = Option("shortcut", "shortcut=", ("none",), says="shortcut is none, or left out")
INIT = Option("init", "init=", INITS, says=f"init is {' or '.join(INITS)}")
VOCABULARY = Option("vocabulary", "vocab=", says="vocab is a number of tokens, at least 2", whole=True, low=2)
CONTEXT = Option("context", "context=", says="the context is a number of tokens, at least 2", whole=True, low=2)
UNTIED = Option("untied", words=("untied",))
PATCH = Option("patch", "patch=", says="patch is a number of pixels that divides the image", whole=True, low=1)

COMMON = (WIDTH, HEADS, NORM, RMS, SCALE, ACT, SHORTCUT)
OF_GPT = (*COMMON, INIT, VOCABULARY, CONTEXT, UNTIED)
OF_VIT = (*COMMON, PATCH)
