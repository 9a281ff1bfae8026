"""The competition card: what Kaggle fixed. A new competition is a new file in `competitions/`."""

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from pipeline.metrics import METRICS
from pipeline.rle import Dialect
from pipeline.schema import Table, did_you_mean, parse, read_toml


class Files(Table):
    """Where things lie, relative to the data root."""

    train_images: str
    test_images: str
    sample_submission: str = "sample_submission.csv"
    train_csv: str | None = None  # one row per image: id and RLE
    train_masks: str | None = None  # or a folder of mask images, named as the images are
    train_meta: str | None = None  # more columns about the training images, by the same id
    suffix: str = ".png"  # image file = id + suffix; empty where ids already end in one
    mask_suffix: str = ".png"


class Columns(Table):
    """The names of the CSVs' columns."""

    id: str
    rle: str
    group: str | None = None  # images that share its value never part: patient, video, mosaic


class Leaderboard(Table):
    """How the test set is split into what the public board shows and what decides."""

    images: PositiveInt | None = None  # public and private together; default: rows of the sample submission
    public_share: float = Field(default=0.3, gt=0, lt=1)


class Competition(Table):
    """One card."""

    name: str
    title: str
    url: str | None = None
    files: Files
    columns: Columns
    classes: tuple[str, ...] = Field(min_length=1)
    dialect: Dialect = Dialect()
    metric: str
    leaderboard: Leaderboard = Leaderboard()
    generated: Literal["demo"] | None = None  # made by `data/demo.py`, not downloaded

    def model_post_init(self, _context: object) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric '{self.metric}'. {did_you_mean(self.metric, METRICS)}")
        if len(self.classes) > 1:
            raise ValueError(f"{len(self.classes)} classes ({', '.join(self.classes)}): only one is supported so far")
        if (self.files.train_csv is None) == (self.files.train_masks is None):
            raise ValueError("give files.train_csv (RLE) or files.train_masks (mask images), and not both")


def known() -> list[str]:
    """The names of the cards that ship."""
    folder = resources.files("pipeline.competitions")
    return sorted(card.name.removesuffix(".toml") for card in folder.iterdir() if card.name.endswith(".toml"))


def load(name: str) -> Competition:
    """The card `name`, or the card in the file `name` when that ends in `.toml`.

    Raises:
        ValueError: for a name that no card has, or a card with a mistake in it.
    """
    if name.endswith(".toml"):
        path = Path(name)
    else:
        path = Path(str(resources.files("pipeline.competitions"))) / f"{name}.toml"
        if not path.is_file():
            raise ValueError(
                f"unknown competition '{name}'. {did_you_mean(name, known())} "
                f'A card of your own goes by its path: competition = "cards/{name}.toml".'
            )
    return parse(Competition, read_toml(path), str(path))
