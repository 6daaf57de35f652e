"""The objective of the generators of one pass, with or without a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from facke_core.config import arguments
from facke_core.errors import ConfigError, did_you_mean
from facke_core.nn.discriminators import MultiScalePatchDiscriminator
from facke_core.training import recipe as recipes
from facke_core.training.swapping import SwapObjective
from facke_gan.perceptual import Lite0, PerceptualLoss
from facke_gan.projected import ProjectedDiscriminator

if TYPE_CHECKING:
    from facke_core import IdentityEncoder, Loss, Method, Recipe
    from facke_core.objective import Forward

__all__: list[str] = []


def adversarial(
    method: Method,
    encoder: IdentityEncoder,
    recipe: Recipe,
    *,
    forward: Forward | None = None,
    terms: Mapping[str, Callable[..., Loss]] | None = None,
) -> SwapObjective:
    """Make the objective of a generator, with the recipe's terms.

    ``recipe.discriminator`` names its ``kind``: ``patch`` (the default) or ``projected``; what else
    is in it are the arguments of that class.

    Args:
        method: the method that is trained.
        encoder: the encoder that conditions and judges.
        recipe: the settings.
        forward: the generator phase; default: one pass with the target and the identity.
        terms: the method's own loss terms.

    Raises:
        ConfigError: an unknown kind or argument of the discriminator, or an unknown term.
    """
    modules: dict[str, Any] = {"generator": method.generator, "identity_encoder": encoder}
    if recipe.discriminator_loss:
        kinds = {"patch": MultiScalePatchDiscriminator, "projected": ProjectedDiscriminator}
        settings = {"kind": "patch", **recipe.discriminator}
        kind = settings.pop("kind")
        build = kinds.get(kind) if isinstance(kind, str) else None
        if build is None:
            raise ConfigError(
                f"discriminator.kind: expected one of {', '.join(map(repr, kinds))}, got {kind!r}."
                f"{did_you_mean(str(kind), kinds)}"
            )
        modules["discriminator"] = build(**arguments(build, settings, where="discriminator"))
    if "perceptual" in recipe.loss:
        modules["perceptual"] = Lite0()
    own = {"perceptual": PerceptualLoss, **(terms or {})}
    return SwapObjective(
        modules,
        generator_terms=recipes.terms(recipe.loss, own),
        discriminator_terms=recipes.terms(recipe.discriminator_loss, where="discriminator_loss"),
        discriminator_every=recipe.discriminator_every,
        **({"forward": forward} if forward else {}),
    )
