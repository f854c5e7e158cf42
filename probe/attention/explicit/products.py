"""Products of two tensors, however they are spelled (matmul, bmm, baddbmm, einsum), with their axes as letters."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MATMUL = frozenset(
    {torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__}
)
BADDBMM = frozenset({torch.baddbmm, torch.Tensor.baddbmm, torch.Tensor.baddbmm_})
PRODUCTS = MATMUL | BADDBMM | {torch.einsum}


@dataclass(frozen=True, eq=False, kw_only=True)
class Product:
    """A product of two tensors, ``beta * added + alpha * (a b)``.

    Attributes:
        a: The first tensor.
        b: The second tensor.
        axes: Letters of the axes of ``a``, ``b`` and the product, as in ``torch.einsum``.
        alpha: Factor of the product.
        added: What is added; None if nothing is.
        beta: Its factor.
    """

    a: Tensor
    b: Tensor
    axes: tuple[str, str, str]
    alpha: float = 1.0
    added: Tensor | None = None
    beta: float = 1.0

    def swapped(self) -> "Product":
        """Return the same product with its tensors named in the other order."""
        a, b, out = self.axes
        return Product(a=self.b, b=self.a, axes=(b, a, out), alpha=self.alpha, added=self.added, beta=self.beta)


def product_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product | None:
    """Read a product off a call; None if it is of other than two tensors, or of tensors with other than equal axes."""
    if function is torch.einsum:
        return _of_einsum(args)
    names = ("input", "batch1", "batch2") if function in BADDBMM else ("input", "other")
    values = dict(zip(names, args, strict=False)) | dict(kwargs)
    if function in BADDBMM:
        a, b, alpha, beta = values["batch1"], values["batch2"], values.get("alpha", 1), values.get("beta", 1)
        added = values["input"] if beta else None
        return Product(a=a, b=b, axes=_of_matmul(3), alpha=float(alpha), added=added, beta=float(beta))
    a, b = values["input"], values.get("other", values.get("mat2", values.get("tensor2")))
    if function is torch.Tensor.__rmatmul__:
        a, b = b, a
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.ndim != b.ndim or a.ndim < 3:
        return None
    return Product(a=a, b=b, axes=_of_matmul(a.ndim))


def _of_matmul(axes: int) -> tuple[str, str, str]:
    lead = string.ascii_uppercase[: axes - 2]
    return f"{lead}ij", f"{lead}jk", f"{lead}ik"


def _of_einsum(args: tuple[Any, ...]) -> Product | None:
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "->" not in equation:
        return None
    terms, out = equation.replace(" ", "").split("->")
    letters = [*terms.split(","), out]
    named = [len(term.replace("...", "")) for term in letters]
    more = [tensor.ndim - count for tensor, count in zip(operands, named, strict=False)]
    rest = "".join(letter for letter in string.ascii_letters if letter not in equation)
    if "..." in equation and (more[0] != more[1] or not all("..." in term for term in letters)):
        return None
    a, b, c = (term.replace("...", rest[: more[0]]) for term in letters)
    if any(len(set(term)) != len(term) for term in (a, b, c)):
        return None
    return Product(a=operands[0], b=operands[1], axes=(a, b, c))
