"""Networks of tokens as functions of the tokens' embeddings, which gradients can be taken with respect to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError


class OfEmbeddings(nn.Module):
    """A network of tokens as a function of what its embedding gives for them: (B, T, d) to its output.

    Args:
        model: A network whose first argument is a batch of tokens (B, T), which it gives to an `nn.Embedding` as they
            are; the first that it calls with them is the one, on the first batch and on all others.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # In a tuple, so that it is no child of two.
        self._embedding: tuple[nn.Embedding, ...] = ()

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> Tensor:
        """The embeddings of tokens, (B, T) to (B, T, d): one forward pass of the network, whose output is dropped.

        Raises:
            GradlabError: When the network cannot run on them, or calls no embedding with the tokens as they are.
        """
        found: list[Tensor] = []

        def keep(module: nn.Embedding, args: tuple[Any, ...], output: Tensor) -> None:
            # The numbers are compared in the first pass alone, since that waits for the device.
            given = not found and args and isinstance(args[0], Tensor) and args[0].shape == tokens.shape
            if given and (self._embedding or args[0] is tokens or torch.equal(args[0], tokens)):
                found.append(output.clone())
                self._embedding = (module,)

        embeddings = self._embedding or [m for m in self.model.modules() if isinstance(m, nn.Embedding)]
        hooks = [module.register_forward_hook(keep) for module in embeddings]
        try:
            self.model(tokens)
        except GradlabError:
            raise
        except Exception as error:  # a user's network may raise any exception
            shape, reason = tuple(tokens.shape), str(error).split("\n")[0] or type(error).__name__
            raise GradlabError(
                f"{type(self.model).__name__} cannot run on tokens of shape {shape}: {reason}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            raise GradlabError(
                f"{type(self.model).__name__} gives its tokens to no nn.Embedding as they "
                "are, so there is no gradient with respect to their embeddings"
            )
        return found[0]

    def forward(self, embeddings: Tensor) -> Any:
        """Run the network on embeddings (B, T, d) in the place of those of tokens."""
        (embedding,) = self._embedding  # found by `embed`
        tokens = torch.zeros(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        hook = embedding.register_forward_hook(lambda module, args, output: embeddings)
        try:
            return self.model(tokens)
        finally:
            hook.remove()
