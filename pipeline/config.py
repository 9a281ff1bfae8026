"""The config: what we chose. Every default lives here; a TOML file holds only what differs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveInt, PrivateAttr

from pipeline.schema import Table, override, parse, read_toml

# Values beyond these bounds are typing mistakes, or fail later with a message of numpy or torch.
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Side = Annotated[int, Field(ge=8, le=1 << 14)]  # pixels
Channels = Annotated[int, Field(ge=1, le=1 << 14)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Factor = Annotated[float, Field(ge=0.01, le=100)]
Rate = Annotated[float, Field(gt=0, le=1e6)]


class Crops(Table):
    """Training images too large to be held whole: windows of them, read from the file when they are drawn."""

    size: Side = 768  # pixels, square; more than the phases' crop, which is cut from it at random
    stride: Annotated[int, Field(ge=1, le=1 << 14)] = 512  # pixels from a window to the next


class Data(Table):
    root: Path | None = None  # default: data/<competition>
    percentiles: tuple[float, float] | None = None  # of each image, stretched to 0 and 255: evens out exposure
    window: tuple[float, float] | None = None  # values, in the files' own units, that become 0 and 255
    exif: bool = True  # turn images as their files say they are seen (EXIF); false: read them as they are stored
    # Pixels that are no finite number (NaN, infinite): the image is refused, or they become black, or the mean of the
    # others in their channel.
    nodata: Literal["refuse", "zero", "mean"] = "refuse"
    skip_bad: bool = False  # leave out images that cannot be read, and list them
    doctor: bool = True  # refuse to train on masks that another dialect than the card's fits clearly better
    # Of instances: a second channel to learn, the pixels within so many of two objects, which parts those that touch.
    boundary: Annotated[float, Field(gt=0, le=1000)] | None = None

    crops: Crops | None = None  # of images too large to be read whole: their windows are what training draws

    def model_post_init(self, _context: object) -> None:
        if self.percentiles and self.crops:
            raise ValueError("percentiles are of a whole image, which data.crops never reads: give data.window instead")
        if self.nodata == "mean" and self.crops:
            raise ValueError('nodata = "mean" is of a whole image, which data.crops never reads: set "zero"')
        if self.percentiles and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles {list(self.percentiles)}: expected two that rise, from 0 to 100")
        if self.window and self.window[0] >= self.window[1]:
            raise ValueError(f"window {list(self.window)}: expected two values that rise, such as [-1000, 400]")
        if self.window and self.percentiles:
            raise ValueError("window and percentiles both say what becomes 0 and 255: give one of them")


class Folds(Table):
    name: str | None = None  # folds/<name>.csv; default: the competition's name
    count: int = Field(default=5, ge=2, le=1000)
    seed: Seed = 0
    balance: tuple[str, ...] = ()  # columns of the meta table whose values are spread evenly too, such as "kind"
    grouped: bool = True  # keep groups and near-duplicates together; False only to measure what a leak is worth


class Model(Table):
    """An architecture on an encoder; an option that the architecture does not know is refused."""

    arch: str = "unet"  # a name in `models.ARCHITECTURES`
    encoder: str = "tu-resnet34"  # any name that `python -m pipeline encoders` lists
    weights: str = "none"  # "none", "imagenet" (needs the network once), or a file: .safetensors, .pt, .pth
    in_channels: Channels = 3  # of the images: 1 (grey), 3 (colour), or as many as the files have
    classes: Channels = 1
    decoder_channels: tuple[Channels, ...] = (256, 128, 64, 32, 16)  # one per encoder level, deep to fine
    attention: Literal["scse"] | None = None  # in the decoder: https://arxiv.org/abs/1803.02579
    hypercolumns: bool = False  # the head sees all levels of the decoder, not the finest alone
    deep_supervision: Weight = 0.0  # weight of the coarser levels' mean loss; 0: they have no scores
    image_head: Weight = 0.0  # weight of the log loss of "is anything here"; 0: no such head
    image_gate: bool = False  # whether the probability of the image head multiplies each pixel's
    dropout: float = Field(default=0.0, ge=0, lt=1)  # before the scores
    output_stride: Literal[8, 16] = 16  # of the coarsest features, where strides are replaced by dilation
    multi_grid: tuple[Channels, ...] | None = None  # rates of the last stage's units; cascade: (1, 2, 4)
    dilation_rates: tuple[Channels, ...] = (6, 12, 18)  # of the atrous branches at output stride 16; at 8 they double


class Phase(Table):
    """A stretch of training with one loss; it starts from the best weights of the phase before."""

    loss: dict[str, Weight]  # weight of each loss of `losses.LOSSES`
    # Arguments of those losses where they differ from the defaults, as in { lovasz = { variant = "elu" } }. Of dice,
    # jaccard, tversky, focal_tversky and lovasz: over = "image" or "batch", empty = "count" or "ignore".
    loss_options: dict[str, dict[str, float | bool | str]] | None = None
    epochs: Count
    lr: Rate  # the highest; warm-up leads to it and a cosine leads away
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of the phase's steps
    final_lr: float = Field(default=0.01, ge=0, le=1)  # share of lr at the last step
    repeats: Count = 1  # how often an epoch draws each image
    crop: Side | None = None  # pixels, square; default: whole images, which must be of one size
    augment: Literal["none", "light", "medium", "strong"] = "light"
    scale: tuple[Factor, Factor] | None = None  # factors of a random size; default: the strength's own
    mix: dict[Literal["cutmix", "mosaic", "copy_paste"], Share] = {}  # noqa: RUF012 - chance of each, the rest as it is
    freeze_encoder: bool = False
    cycles: Count = 1  # warm-up and cosine, this often: a restart between them
    swa: Share = 0.0  # share of the epochs, the last ones, whose weights are averaged and tried
    # Best epochs whose weights are averaged, as long as it helps, and tried; 0: none.
    soup: Annotated[int, Field(ge=0, le=1000)] = 0

    def model_post_init(self, _context: object) -> None:
        if self.augment in ("medium", "strong") and self.crop is None:
            raise ValueError(f"augment '{self.augment}' changes sizes, so a batch needs a crop: set crop = 256, say")
        if self.scale and self.crop is None:
            raise ValueError(f"scale {list(self.scale)} changes sizes, so a batch needs a crop: set crop = 256, say")
        if self.scale and self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {list(self.scale)}: expected the smaller factor first, such as [0.7, 1.5]")
        if self.epochs % self.cycles:
            raise ValueError(
                f"epochs = {self.epochs} are not divisible by cycles = {self.cycles}: set epochs = "
                f"{-(-self.epochs // self.cycles) * self.cycles}"
            )
        if sum(self.mix.values()) > 1 + 1e-9:
            raise ValueError(f"mix: chances sum to {sum(self.mix.values()):g}, expected 1 at most")
        if self.soup == 1:
            raise ValueError("soup = 1 is the best epoch itself: set 2 or more, or 0 for none")


class Pseudo(Table):
    """Test images with labels that another config's models gave them, mixed into the training images."""

    model_config = ConfigDict(populate_by_name=True)

    from_: str = Field(alias="from")  # the config whose models label
    weight: Rate = 0.5  # pseudo images drawn per training image drawn
    phases: tuple[PositiveInt, ...] = (1,)  # numbers of the phases that draw them
    floor: Share = 0.85  # least score that a label may be expected to have, by OOF
    low: Share = 0.3  # below it a pixel's label is 0, between low and high void,
    high: Share = 0.7  # and from high on 1

    def model_post_init(self, _context: object) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"low = {self.low:g}, high = {self.high:g}: expected 0 < low <= high, such as 0.3 and 0.7")


class Train(Table):
    phases: tuple[Phase, ...] = Field(min_length=1)
    batch_size: Count = 16  # images per process and step
    accumulate: Count = 1  # batches per update
    workers: int = Field(default=0, ge=0, le=1024)  # data-loading processes; any number gives the same batches
    balance: str | None = None  # draw the values of this index column equally often: "empty", or a meta column
    weight_decay: Weight = 0.01
    clip: Rate = 1.0  # highest gradient norm
    ema: float = Field(default=0.99, ge=0, lt=1)  # decay per update of the averaged weights; 0: no average
    patience: Count | None = None  # epochs without a better score after which a phase ends
    # Half precision draws 1.2 of 10,000 pixels of nuclei otherwise, at the same Dice but for .0001 (docs/results.md).
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    pseudo: Pseudo | None = None
    compile: bool = False  # the network through torch.compile: minutes at the start of a phase, steps sooner after
    tensorboard: bool = False

    def model_post_init(self, _context: object) -> None:
        count = len(self.phases)
        strangers = [number for number in self.pseudo.phases if number > count] if self.pseudo else []
        if strangers:
            raise ValueError(f"pseudo.phases: there is no phase {strangers[0]}: expected numbers from 1 to {count}")
        for number, phase in enumerate(self.phases):
            if self.patience and phase.cycles > 1 and self.patience < phase.epochs // phase.cycles:
                raise ValueError(
                    f"patience = {self.patience} would end a cycle of phases.{number} after its restart: set at least "
                    f"{phase.epochs // phase.cycles}, the epochs of a cycle, or leave patience out"
                )


class Tiles(Table):
    """How an image is cut that is too large to be predicted whole."""

    size: Annotated[int, Field(ge=1, le=1 << 14)] = 512  # pixels, square
    stride: int = 384  # pixels from a tile to the next
    window: Literal["gaussian", "pyramid", "flat"] = "gaussian"  # weights of a tile's pixels
    # A tile whose brightness (0 to 255) has a smaller standard deviation is empty, and not predicted; 0: all are.
    background: NonNegativeFloat = 0.0

    def model_post_init(self, _context: object) -> None:
        if not 0 < self.stride <= self.size:
            wrong = "leaves gaps between tiles" if self.stride > 0 else "moves no tile on"
            raise ValueError(
                f"stride = {self.stride} {wrong} of {self.size} pixels: expected 1 to {self.size}, such as "
                f"{max(1, self.size * 3 // 4)}"
            )

    @property
    def overlap(self) -> int:
        """Pixels that neighbouring tiles share."""
        return self.size - self.stride


class Predict(Table):
    views: tuple[str, ...] = ("identity", "flip_horizontal")  # names of `symmetries.SYMMETRIES`
    batch_size: Count = 16
    output_stride: Literal[8, 16] | None = None  # of DeepLab, where it should differ from the model's
    backend: Literal["eager", "fuse_conv_bn", "compile"] = "fuse_conv_bn"  # see `inference.backends`
    tiles: Tiles | None = None  # of images too large to be predicted whole
    full: bool = False  # a model trained on every image predicts the test set beside those of the folds


class Config(Table):
    _file: str = PrivateAttr("")

    name: str  # the file's name
    competition: str  # a card's name, or the path of a card
    seed: Seed = 0
    data: Data = Data()
    folds: Folds = Folds()
    model: Model = Model()
    train: Train
    predict: Predict = Predict()

    def model_post_init(self, context: object) -> None:
        super().model_post_init(context)
        whole = {"percentiles": self.data.percentiles, 'nodata = "mean"': self.data.nodata == "mean"}
        wrong = [key for key, value in whole.items() if value]
        if self.predict.tiles and wrong:
            instead = "data.window" if wrong[0] == "percentiles" else '"zero"'
            raise ValueError(f"data.{wrong[0]} is of a whole image, which predict.tiles never reads: give {instead}")

    @property
    def file(self) -> str:
        """The file that it was read from, for messages; of a config that was not, its name."""
        return self._file or self.name

    def __eq__(self, other: object) -> bool:
        """By what is set, whatever file it was read from."""
        return isinstance(other, Config) and vars(self) == vars(other)

    __hash__ = None  # a phase's losses are a dict


@contextmanager
def place(cfg: Config, key: str = "") -> Iterator[None]:
    """Name the config's file, and a key of it, in front of what is wrong with the key's value.

    Args:
        key: dotted, as in "predict.views"; empty where the message begins with the key.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: where the block raises one, of the same kind.
    """
    try:
        yield
    except MISTAKES as error:
        kind = next(each for each in MISTAKES if isinstance(error, each))
        raise kind(f"{cfg.file}: {key + ': ' if key else ''}{error}") from error


MISTAKES = (FileNotFoundError, ConnectionError, ValueError)


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config; `overrides` are `dotted.key=value` pairs.

    Raises:
        FileNotFoundError, ValueError: one line with the file, the key and what to write instead.
    """
    path = Path(path)
    tables = override(read_toml(path), overrides)
    cfg = parse(Config, {"name": path.stem, **tables}, str(path))
    cfg._file = str(path)
    return cfg
