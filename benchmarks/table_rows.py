"""The rows of Facke's tables: recipes, what makes them small, the paper's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from facke_core.training.recipe import Recipe

Three = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model of a table."""

    name: str
    recipe: str
    begin: str = ""
    """The run whose weights the training begins with."""
    lr: str = ""
    paper: Three
    """As printed, in the order of :data:`COLUMNS`."""

    @property
    def paper_mean(self) -> Three:
        """The means that the printed values are, if the published scripts made them."""
        recon, loss, retrieval = (round(value * BATCH, 3) for value in self.paper)
        return recon, loss, retrieval

    @property
    def run(self) -> str:
        """The folder in RUNS."""
        return f"{self.recipe}-lr{self.lr}" if self.lr else self.recipe


COLUMNS = ("Recon Loss", "ID Loss", "ID Retrieval")
BATCH = 32
"""By which the paper's values are too small: its scripts add the means of batches and divide by the
number of images."""
PRETRAINED = "ddpm-256"
_ILVR = (0.043, 0.031, 0.029)
"""One row of Table 1, and all of Table 3."""
TABLES: dict[str, tuple[Row, ...]] = {
    "1": (
        Row(name="SimSwap", recipe="simswap-224", paper=(0.006, 0.008, 0.012)),
        Row(name="CVAE", recipe="cvae-id", paper=(0.007, 0.005, 0.020)),
        Row(name="SimSwap-IG", recipe="simswap-224-ig", paper=(0.007, 0.008, 0.016)),
        Row(name="CVAE-GAN-IG", recipe="cvae-gan-ig", paper=(0.006, 0.010, 0.018)),
        Row(name="ILVR", recipe=PRETRAINED, paper=_ILVR),
    ),
    "2": (
        Row(name="wFM", recipe="simswap-224", paper=(0.006, 0.008, 0.012)),
        Row(name="oFM", recipe="simswap-224-ofm", paper=(0.005, 0.008, 0.012)),
        Row(name="nFM", recipe="simswap-224-nfm", paper=(0.008, 0.005, 0.013)),
        Row(name="w-barFM", recipe="simswap-224-wbfm", paper=(0.006, 0.007, 0.012)),
        Row(name="IG-wFM", recipe="simswap-224-ig", paper=(0.007, 0.008, 0.016)),
        Row(name="IG-oFM", recipe="simswap-224-ig-ofm", paper=(0.006, 0.006, 0.016)),
        Row(name="IG-nFM", recipe="simswap-224-ig-nfm", paper=(0.009, 0.006, 0.016)),
        Row(name="IG-w-barFM", recipe="simswap-224-ig-wbfm", paper=(0.006, 0.006, 0.016)),
    ),
    "3": (
        Row(name="pretrained", recipe=PRETRAINED, paper=_ILVR),
        *(
            Row(
                name=f"fine-tuned {lr}",
                recipe="ddpm-finetune",
                begin=PRETRAINED,
                lr=lr,
                paper=_ILVR,
            )
            for lr in ("1e-4", "5e-5", "1e-5", "5e-6")
        ),
    ),
}
STAGES = (
    "generator.patch=2",
    "generator.stem_kernel=3",
    "generator.padding=zeros",
    "generator.num_id_blocks=4",
)
NARROW = ("discriminator.width=24", "discriminator.num_scales=1")
SIMSWAP = (*STAGES, *NARROW, "generator.channels=[48,96,192]")
CVAE = (
    *STAGES,
    "generator.channels=[48,96,192,192]",
    "generator.condition=vector",
    "generator.heads=linear",
    "generator.noise=gaussian",
    "generator.log_var_range=[-12,8]",
)
UNET = (
    "generator.patch=2",
    "generator.model_channels=32",
    "generator.channel_mult=[2,2,4,6]",
    "generator.attention_resolutions=[]",
    "generator.num_head_channels=32",
    "generator.resblock_updown=false",
)
SHORT = ("batch_size=8", "ema=0.995", "log_every=50", "save_every=200", "probe.every=0")


def small(recipe: str, size: int) -> tuple[str, ...]:
    """What makes a recipe small."""
    networks = {"simswap": SIMSWAP, "cvae": CVAE, "cvae-gan": (*CVAE, *NARROW), "ddpm": UNET}
    family = max((name for name in networks if recipe.startswith(name)), key=len)
    return (*SHORT, *networks[family], f"generator.image_size={size}", f"alignment.size={size}")


def sampler(recipe: Recipe, short: bool) -> dict[str, Any]:
    """ILVR as in the paper's benchmark, N = 32 at 256 pixels; the short form takes few steps."""
    if recipe.method != "ilvr":
        return {}
    fast = {"solver": "dpmpp", "steps": 20} if short else {"solver": "ddpm", "steps": 100}
    size = int(recipe.alignment["size"])
    return {"variant": "facke", "start": 1.0, "until": 0.2, "factor": max(2, size // 8), **fast}
