"""The config of a run. All defaults are defined here; a TOML file holds only the options that differ from them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, NonNegativeFloat, PositiveInt, PrivateAttr, model_validator

from pipeline.schema import Table, override, parse, read_toml

# Values outside these bounds are typing errors, or would fail later with a message of numpy or torch.
Share = Annotated[float, Field(ge=0, le=1)]
Chance = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Side = Annotated[int, Field(ge=8, le=1 << 14)]  # pixels
Channels = Annotated[int, Field(ge=1, le=1 << 14)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Factor = Annotated[float, Field(ge=0.01, le=100)]
Rate = Annotated[float, Field(gt=0, le=1e6)]


def _check_loss_weight(value: Any) -> Any:
    numbers = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(type(each) in (int, float) and 0 <= each <= 1e6 for each in numbers):
        raise ValueError(
            "expected a weight from 0 to 1e6, or two, such as [0.0, 0.5], of the first and the last update"
        )
    return value


LossWeight = Annotated[float | tuple[float, float], BeforeValidator(_check_loss_weight)]

LEAST_IMAGES = 2  # of a process and batch, with batch_size = "auto": batch norm of pooled features needs two


class Crops(Table):
    """Windows of training images that are too large for memory; each is read from the file when it is drawn."""

    size: Side = 768  # pixels, square; larger than the phases' crop, which is cut from it at a random position
    stride: Annotated[int, Field(ge=1, le=1 << 14)] = 512  # pixels from one window to the next


SIZE_FORMS = "{ longest = 768 }, { shortest = 512 }, { factor = 0.5 } and { exact = [256, 1600] } (height, width)"


class Size(Table):
    """The size at which the network sees images, whatever the size of their files: exactly one of these keys."""

    longest: Side | None = None  # pixels of the longer side; the other one follows, as it does for shortest
    shortest: Side | None = None  # pixels of the shorter side
    exact: tuple[Side, Side] | None = None  # height and width in pixels
    factor: Factor | None = None  # of both sides of the file

    @model_validator(mode="before")
    @classmethod
    def _refuse_number(cls, value: Any) -> Any:
        if not isinstance(value, dict | Size):
            raise ValueError(f"expected one of {SIZE_FORMS}")
        return value

    def model_post_init(self, _context: object) -> None:
        given = [key for key, value in self if value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "no key"
            raise ValueError(f"{found}: expected exactly one of {SIZE_FORMS}")


class Channel(Table):
    """A channel of the network's input; a text alone stands for its name."""

    name: str  # a channel of the card, by name or by number from 0; or a derived one, such as "ratio(nir, red)"
    window: tuple[float, float] | None = None  # values that are scaled to 0 and 255; default: as `data.window`
    percentiles: tuple[float, float] | None = None  # of the channel in each image, instead of a window

    @model_validator(mode="before")
    @classmethod
    def _accept_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def model_post_init(self, _context: object) -> None:
        _check_scaling(self.window, self.percentiles)


class Neighbours(Table):
    """Slices or frames beside each image that are channels too; a number or a list alone stands for the offsets."""

    # 2: the two before and the two after, -2 … 2. A list, such as [-4, -2, 0, 2, 4]: these, in ascending order.
    offsets: Annotated[int, Field(ge=0, le=100)] | tuple[Annotated[int, Field(ge=-1000, le=1000)], ...]
    border: Literal["repeat", "reflect"] = "repeat"  # beyond the ends of a series: the last slice, or mirrored ones

    @model_validator(mode="before")
    @classmethod
    def _accept_offsets(cls, value: Any) -> Any:
        return value if isinstance(value, dict | Neighbours) else {"offsets": value}

    def model_post_init(self, _context: object) -> None:
        offsets = self.each_offset
        if list(offsets) != sorted(set(offsets)) or 0 not in offsets:
            raise ValueError(
                f"offsets {list(offsets)}: expected ascending numbers with 0, the slice itself, such as [-2, 0, 2]"
            )

    @property
    def each_offset(self) -> tuple[int, ...]:
        """The offset of each slice, ascending; 0 is the slice itself."""
        return tuple(range(-self.offsets, self.offsets + 1)) if isinstance(self.offsets, int) else self.offsets


def _check_scaling(window: tuple[float, float] | None, percentiles: tuple[float, float] | None) -> None:
    """Raise ValueError for values that do not increase, and for both a window and percentiles."""
    if percentiles and not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"percentiles {list(percentiles)}: expected two increasing values from 0 to 100")
    if window and window[0] >= window[1]:
        raise ValueError(f"window {list(window)}: expected two increasing values, such as [-1000, 400]")
    if window and percentiles:
        raise ValueError("window and percentiles both set what is scaled to 0 and 255: set only one of them")


class Extra(Table):
    """Images beside the training set, with labels of the same classes, mixed into the training images."""

    competition: str | None = None  # a card's name, or the path of a card; default: the config's
    root: Path | None = None  # the folder of its files; default: data/<competition>
    images: str | None = None  # the folder of its images, in place of the card's files.train_images
    csv: str | None = None  # a table of its masks, in place of the card's labels; images without a row are left out
    ratio: Rate = 0.5  # extra images drawn per training image drawn
    phases: tuple[PositiveInt, ...] = (1,)  # numbers of the phases that use them


class Data(Table):
    """How images and masks are read."""

    root: Path | None = None  # default: data/<competition>
    percentiles: tuple[float, float] | None = None  # of each image, scaled to 0 and 255: evens out exposure
    window: tuple[float, float] | None = None  # values, in the files' own units, that are scaled to 0 and 255
    channels: tuple[Channel, ...] | None = None  # of the network's input, in order; None: all of the files, as they are
    neighbours: Neighbours | None = None  # slices or frames that are channels too: see `data.series`
    exif: bool = True  # apply the EXIF orientation; false: read images as they are stored
    # Pixels that are NaN or infinite: refuse the image, or set them to zero or to the mean of their channel's others.
    nodata: Literal["refuse", "zero", "mean"] = "refuse"
    nodata_values: tuple[float, ...] = ()  # of the files: pixels without a measurement, which count as NaN
    skip_bad: bool = False  # leave out images that cannot be read, and list them
    doctor: bool = True  # refuse to train if another dialect than the card's fits the masks clearly better
    # Instances: learn a second channel, the pixels within this distance of two objects, to separate touching objects.
    # In pixels of the file, whatever data.size is.
    boundary: Annotated[float, Field(gt=0, le=1000)] | None = None
    size: Size | None = None  # to which images are resized for training and prediction; None: as their files are
    crops: Crops | None = None  # for images too large to be read whole: train on windows of them, at data.size
    extra: tuple[Extra, ...] = ()  # more training images, such as those of an earlier competition; never validated on

    def model_post_init(self, _context: object) -> None:
        if self.uses_percentiles and self.crops:
            raise ValueError("percentiles need the whole image, which data.crops never reads: set data.window instead")
        if self.nodata == "mean" and self.crops:
            raise ValueError('nodata = "mean" needs the whole image, which data.crops never reads: set "zero"')
        if self.nodata_values and self.nodata == "refuse":
            raise ValueError('nodata_values are pixels to replace: set nodata = "zero" or "mean" as well')
        _check_scaling(self.window, self.percentiles)
        if self.channels is not None and not self.channels:
            raise ValueError("channels = [] leaves no channel: leave it out for all of them")

    @property
    def uses_percentiles(self) -> bool:
        """Whether percentiles of whole images scale any channel."""
        return bool(self.percentiles) or any(channel.percentiles for channel in self.channels or ())

    @property
    def needs_whole_image(self) -> str:
        """The option that needs the pixels of the whole image, if there is one."""
        return "percentiles" if self.uses_percentiles else 'nodata = "mean"' if self.nodata == "mean" else ""


class Folds(Table):
    """How training images are split into folds."""

    name: str | None = None  # folds/<name>.csv; default: the competition's name
    count: int = Field(default=5, ge=2, le=1000)  # default: the card's `folds` if it has few groups, else 5
    seed: Seed = 0
    balance: tuple[str, ...] = ()  # columns of the meta table whose values are balanced over the folds, such as "kind"
    # Balance likeness to the test images over the folds, so that each holds images of the kind that the test set has.
    like_test: bool = False
    grouped: bool = True  # keep groups and near-duplicates in one fold; false only to measure the effect of a leak
    # Columns whose values are held out whole, such as ["kind", "height"]: images with the same values are one kind, and
    # a fold has one kind or several small ones. The score is then that on kinds that no model was trained on.
    hold_out: tuple[str, ...] = ()
    # Numbers of the folds that are trained, scored and averaged for the test set; empty: all. FOLDS="0 1" sets it.
    only: tuple[Annotated[int, Field(ge=0)], ...] = ()

    def model_post_init(self, _context: object) -> None:
        for option in ("balance", "like_test"):
            if self.hold_out and getattr(self, option):
                raise ValueError(f"{option} and hold_out: a fold of whole kinds cannot be balanced: remove one of them")
        too_large = "count" in self.model_fields_set and any(number >= self.count for number in self.only)
        if len(set(self.only)) < len(self.only) or too_large:
            raise ValueError(
                f"only = {list(self.only)}: expected numbers from 0 to {self.count - 1}, each once, such as [0, 1]"
            )


class Model(Table):
    """An architecture and its encoder; an option that the architecture does not support is refused."""

    arch: str = "unet"  # a name in `models.ARCHITECTURES`
    # Any name that `python -m pipeline encoders` lists, with or without the tag of its weights, such as
    # "tu-resnet18.a2_in1k".
    encoder: str = "tu-tf_efficientnet_lite0"
    # Starting weights of the encoder: "imagenet" (of an installed package, or downloaded once), a file (.safetensors,
    # .pt, .pth) or "none", random; of the whole network: "run:<config>", of another config's fold, or "run:<file>", a
    # fold's best.safetensors.
    weights: str = "imagenet"
    # Of the images: 1 (grey), 3 (colour), or the number in the files. With data.channels, data.neighbours or a card's
    # files.channels it follows from these, and need not be set.
    in_channels: Channels = 3
    classes: Channels = 1
    # Height and width in pixels of the images of an encoder that takes one size only: it follows from the crop of the
    # phases, or from data.size = { exact = … } without a crop, and need not be set.
    img_size: Side | None = None
    decoder_channels: tuple[Channels, ...] = (256, 128, 64, 32, 16)  # one per decoder level, from coarse to fine
    attention: Literal["scse"] | None = None  # in the decoder: https://arxiv.org/abs/1803.02579
    hypercolumns: bool = False  # the head gets all levels of the decoder instead of the finest only
    deep_supervision: Weight = 0.0  # weight of the mean loss of the coarser levels' logits; 0: they have none
    image_head: Weight = 0.0  # weight of the log loss of a head that predicts whether a class is in the image; 0: none
    image_gate: bool = False  # multiply each pixel's probability by that of the image head
    dropout: float = Field(default=0.0, ge=0, lt=1)  # before the last layer
    # Of the encoder, in training: the chance that a block's branch is left out for an image (stochastic depth,
    # https://arxiv.org/abs/1603.09382), and that of dropout, which is refused for most encoders: they have it in their
    # classifier only. None: timm's default, which is 0 for most encoders.
    drop_path: Chance | None = None
    drop_rate: Chance | None = None
    # Keep fewer of the encoder's activations and compute them again in the backward pass: less memory, slower steps.
    grad_checkpointing: bool = False
    output_stride: Literal[8, 16] = 16  # of the coarsest features; dilation replaces further strides
    multi_grid: tuple[Channels, ...] | None = None  # rates of the last stage's units; cascade: (1, 2, 4)
    dilation_rates: tuple[Channels, ...] = (6, 12, 18)  # of the atrous branches at output stride 16; at 8 they double


GROUPS = ("OneOf", "SomeOf")  # transforms that choose among others


class Transform(Table):
    """A transform of albumentations, or one of `data.transforms`, and how often it is applied.

    Further keys are its arguments; a text such as "BORDER_REFLECT_101" stands for OpenCV's constant.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    p: Share = 0.5  # probability
    transforms: tuple["Transform", ...] = ()  # of OneOf and SomeOf: those that are chosen from

    @model_validator(mode="before")
    @classmethod
    def _make_tuples(cls, values: Any) -> Any:  # of lists: the library's ranges are tuples
        if not isinstance(values, dict):
            return values
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

    def model_post_init(self, _context: object) -> None:
        if self.name in GROUPS and not self.transforms:
            raise ValueError(f'{self.name} chooses among transforms: set transforms = [{{ name = "Blur" }}, …]')
        if self.name not in GROUPS and self.transforms:
            raise ValueError(f"{self.name} has no argument 'transforms', only {' and '.join(GROUPS)} have")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the transform."""
        return dict(self.model_extra or {})


class Phase(Table):
    """A part of the training with one loss; it starts from the best weights of the phase before."""

    # Name of each loss in `losses.LOSSES`, and its weight; or two, at the phase's first and last update, between which
    # it changes linearly.
    loss: dict[str, LossWeight]
    # Arguments of the losses, such as { lovasz = { variant = "elu" } }. dice, jaccard, tversky, focal_tversky and
    # lovasz take over = "image" or "batch" and empty = "count" or "ignore". Weights of classes are a list, or the name
    # of a method that computes them from the fold's training masks: see `losses.class_weights`.
    loss_options: dict[str, dict[str, float | bool | str | tuple[float, ...]]] | None = None
    epochs: Count
    lr: Rate  # the highest learning rate: after a linear warm-up, before a cosine decay
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of the phase's steps
    final_lr: float = Field(default=0.01, ge=0, le=1)  # share of lr at the last step
    # Times that an epoch draws each image; 0.1: an epoch is a tenth of the images, and the next one continues there.
    repeats: Count | Annotated[float, Field(gt=0, le=100_000)] = 1
    size: Size | None = None  # of this phase's training images; default: data.size, at which every phase is validated
    crop: Side | None = None  # pixels, square; default: whole images, which must be of one size
    # A strength, or a list of transforms, which follow the crop (`data.augment`); `make augment` prints the list that a
    # strength stands for.
    augment: Literal["none", "light", "medium", "strong"] | tuple[Transform, ...] = "light"
    scale: tuple[Factor, Factor] | None = None  # range of random resize factors; default: that of `augment`
    scale_p: Share | None = None  # probability of such a factor; default: 1 with `scale`, else that of `augment`
    # With another training image, after the augmentation: the probability of each; otherwise none.
    mix: dict[Literal["cutmix", "mosaic", "copy_paste", "mixup", "histogram", "fourier"], Share] = {}  # noqa: RUF012
    freeze_encoder: bool | Count = False  # true: in the whole phase; a number: in its first epochs
    # Epochs after these in which the encoder's layers are unfrozen step by step, the deepest first.
    unfreeze_epochs: Annotated[int, Field(ge=0, le=100_000)] = 0
    freeze_bn: bool = False  # keep the statistics of the encoder's batch norms; their weights and biases train
    encoder_lr: Factor = 1.0  # learning rate of the encoder, as a share of lr
    # Factor of the encoder's learning rate from each of its layers to the one before, such as 0.8: the layers nearest
    # to the image learn slowest.
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    cycles: Count = 1  # repetitions of warm-up and cosine decay, with restarts between them
    # Share of the phase's epochs, the last ones, whose weights are averaged; kept if the score is higher.
    swa: Share = 0.0
    # Number of best epochs that a greedy soup may average; kept if the score is higher; 0: no soup.
    soup: Annotated[int, Field(ge=0, le=1000)] = 0

    def model_post_init(self, _context: object) -> None:
        if self.augment in ("medium", "strong") and self.crop is None:
            raise ValueError(
                f"augment '{self.augment}' changes sizes, so a batch needs a crop: set it, such as crop = 256"
            )
        if self.scale and self.crop is None:
            raise ValueError(
                f"scale {list(self.scale)} changes sizes, so a batch needs a crop: set it, such as crop = 256"
            )
        if self.scale_p is not None and not self.scale and self.augment not in ("medium", "strong"):
            raise ValueError("scale_p has no effect without a range of factors: set scale, such as [0.7, 1.5]")
        if self.scale and self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {list(self.scale)}: expected the smaller factor first, such as [0.7, 1.5]")
        if self.epochs % self.cycles:
            raise ValueError(
                f"epochs = {self.epochs} is not divisible by cycles = {self.cycles}: set epochs = "
                f"{-(-self.epochs // self.cycles) * self.cycles}"
            )
        if sum(self.mix.values()) > 1 + 1e-9:
            raise ValueError(f"mix: probabilities sum to {sum(self.mix.values()):g}, expected 1 at most")
        self._check_freezing()
        if self.soup == 1:
            raise ValueError("soup = 1 is the best epoch itself: set 2 or more, or 0 for none")

    @property
    def freezing_epochs(self) -> int:
        """Number of the first epochs in which a part of the encoder is frozen, if it is not frozen in all of them."""
        return (0 if isinstance(self.freeze_encoder, bool) else self.freeze_encoder) + self.unfreeze_epochs

    @property
    def makes_soft(self) -> bool:
        """Whether its augmentation makes soft masks of masks of 0 and 1."""
        return "mixup" in self.mix

    @property
    def keeps_statistics(self) -> bool:
        """Whether the encoder's batch norms keep their statistics in the whole phase."""
        return self.freeze_bn or self.freeze_encoder is True

    def _check_freezing(self) -> None:
        if self.freeze_encoder is True:
            for option in ("unfreeze_epochs", "freeze_bn", "encoder_lr", "layer_decay"):
                if getattr(self, option) != Phase.model_fields[option].default:
                    raise ValueError(
                        f"{option} has no effect with freeze_encoder = true, which freezes the encoder in the whole "
                        f"phase: take it out, or set freeze_encoder to a number of epochs"
                    )
        if self.freezing_epochs >= self.epochs:
            raise ValueError(
                f"freeze_encoder = {int(self.freeze_encoder)} and unfreeze_epochs = {self.unfreeze_epochs} leave none "
                f"of {self.epochs} epochs for the whole encoder: lower them, or set freeze_encoder = true"
            )


class Pseudo(Table):
    """Test images with labels predicted by another config's models, mixed into the training images."""

    model_config = ConfigDict(populate_by_name=True)

    from_: str = Field(alias="from")  # the config whose models predict the labels
    weight: Rate = 0.5  # pseudo-labelled images drawn per training image drawn
    phases: tuple[PositiveInt, ...] = (1,)  # numbers of the phases that use them
    floor: Share = 0.85  # lowest expected score of a label, estimated from OOF predictions
    low: Share = 0.3  # probability below which a pixel's label is 0; between low and high it is void
    high: Share = 0.7  # probability from which a pixel's label is 1

    def model_post_init(self, _context: object) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"low = {self.low:g}, high = {self.high:g}: expected 0 < low <= high, such as 0.3 and 0.7")


class Teacher(Table):
    """Configs whose models' probabilities are part of the targets; a name or a list alone stands for `from`."""

    model_config = ConfigDict(populate_by_name=True)

    from_: tuple[str, ...] = Field(alias="from", min_length=1)  # their configs; of several, the mean is learned
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the probability; the label has the rest
    phases: tuple[PositiveInt, ...] = (1,)  # numbers of the phases that learn from them

    @model_validator(mode="before")
    @classmethod
    def _accept_names(cls, value: Any) -> Any:
        value = value if isinstance(value, dict | Teacher) else {"from": value}
        if isinstance(value, dict) and isinstance(value.get("from"), str):
            return {**value, "from": (value["from"],)}
        return value


class Train(Table):
    """How a fold is trained."""

    phases: tuple[Phase, ...] = Field(min_length=1)
    # Images per batch, over all processes. "auto": the largest power of two that fits into the GPU's memory, at most
    # 128, found once per run; without an NVIDIA GPU 16. The learning rate is not scaled.
    batch_size: Count | Literal["auto"] = 16
    accumulate: Count = 1  # batches per update: gradient accumulation
    # Data-loading processes; the number does not change the batches. None: cores - 1, at most 8, with a GPU; else 0.
    workers: int | None = Field(default=None, ge=0, le=1024)
    # Flips, symmetries and brightness of whole batches on the device, after the rest of the augmentation: for
    # a GPU that waits for data (the line "time: data" of each epoch).
    augment_on_device: bool = False
    # Batch statistics over all processes (torchrun). None: if a process has fewer than 16 images of a batch.
    sync_batch_norm: bool | None = None
    balance: str | None = None  # index column whose values are drawn equally often: "empty", or a meta column
    optimizer: str = "adamw"  # any of timm's, such as "sgd", "lion", "muon"
    optimizer_options: dict[str, int | float | bool | str | tuple[float, ...]] = {}  # noqa: RUF012 - its arguments
    weight_decay: Weight = 0.01  # none of norms, biases and position embeddings
    clip: Rate = 1.0  # highest gradient norm
    ema: float = Field(default=0.99, ge=0, lt=1)  # decay of the exponential moving average of weights; 0: no average
    patience: Count | None = None  # epochs without improvement after which a phase ends
    # Weights that a phase ends with: those of its best epoch, soup or SWA on the held-out fold, which makes that fold's
    # score slightly optimistic; or those of its last epoch (its SWA, if there is one), chosen by no score.
    select: Literal["best", "last"] = "best"
    # Held-out images that an epoch is scored on, at most: those of evenly spread coverage. None: all of the fold. The
    # prediction out of fold is of all in any case.
    validation_images: Count | None = None
    # On nuclei, half precision changes 1.2 of 10,000 mask pixels and Dice by .0001 (docs/studies/performance.md).
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"  # see `hardware.precision`
    pseudo: Pseudo | None = None
    teacher: Teacher | None = None  # knowledge distillation: see docs/training.md
    compile: bool = False  # run the network with torch.compile: minutes at the start of a phase, then faster steps
    # Log each epoch there too, beside metrics.jsonl: see docs/training.md.
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    # Wall-clock minutes of a fold's training. A phase that would take longer than its part of them, by its passes over
    # the images, has fewer epochs, and its learning rate falls to the end in those. The weights then depend on the
    # machine's speed. None: no limit.
    max_minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None
    profile: bool = False  # write a trace of the first 20 updates of each phase: runs/<config>/fold<k>/trace<n>.json

    def least_batch_size(self, processes: int = 1) -> int:
        """The batch size, or the smallest that "auto" may choose."""
        return LEAST_IMAGES * processes if self.batch_size == "auto" else self.batch_size

    def model_post_init(self, _context: object) -> None:
        count = len(self.phases)
        for key, table in {"pseudo": self.pseudo, "teacher": self.teacher}.items():
            unknown = [number for number in table.phases if number > count] if table else []
            if unknown:
                raise ValueError(f"{key}.phases: there is no phase {unknown[0]}: expected numbers from 1 to {count}")
        if self.select == "last" and (self.patience or any(phase.soup for phase in self.phases)):
            raise ValueError(
                'select = "last": the weights of the last epoch are chosen by no score, and patience and soup need '
                'scores: leave them out, or select = "best"'
            )
        if self.max_minutes and (self.select == "last" or any(phase.swa or phase.cycles > 1 for phase in self.phases)):
            raise ValueError(
                'max_minutes may end a phase early, and select = "last", swa and cycles > 1 need its number of epochs: '
                "leave them out, or max_minutes"
            )
        for number, phase in enumerate(self.phases):
            if self.patience and phase.cycles > 1 and self.patience < phase.epochs // phase.cycles:
                raise ValueError(
                    f"patience = {self.patience} would end a cycle of phases.{number} after its restart: set at least "
                    f"{phase.epochs // phase.cycles}, the epochs of a cycle, or leave patience out"
                )
            if self.patience and self.patience < phase.freezing_epochs:
                raise ValueError(
                    f"patience = {self.patience} could end phases.{number} before its whole encoder trains: set at "
                    f"least {phase.freezing_epochs}, the epochs with frozen layers, or leave patience out"
                )


class Tiles(Table):
    """Overlapping tiles of an image that is too large to be predicted whole."""

    size: Annotated[int, Field(ge=1, le=1 << 14)] = 512  # pixels, square
    stride: int = 384  # pixels from one tile to the next
    window: Literal["gaussian", "pyramid", "flat"] = "gaussian"  # blending weights of a tile's pixels
    # Tiles whose brightness (0 to 255) has a smaller standard deviation are not predicted, but empty; 0: predict all.
    background: NonNegativeFloat = 0.0

    def model_post_init(self, _context: object) -> None:
        if not 0 < self.stride <= self.size:
            wrong = "leaves gaps between tiles" if self.stride > 0 else "does not move the tiles"
            raise ValueError(
                f"stride = {self.stride} {wrong} of {self.size} pixels: expected 1 to {self.size}, such as "
                f"{max(1, self.size * 3 // 4)}"
            )

    @property
    def overlap(self) -> int:
        """Overlap of neighbouring tiles in pixels."""
        return self.size - self.stride


class Predict(Table):
    """How images are predicted."""

    views: tuple[str, ...] = ("identity", "flip_horizontal")  # see `inference.tta.parse_view`
    scale: Factor = 1.0  # of both sides of an image, after data.size: 1.2 predicts larger than trained
    batch_size: Count = 16
    output_stride: Literal[8, 16] | None = None  # of DeepLab; default: the model's
    backend: Literal["eager", "fuse_conv_bn", "compile"] = "fuse_conv_bn"  # see `inference.backends`
    tiles: Tiles | None = None  # for images too large to be predicted whole
    full: bool = False  # also predict the test set with a model trained on every image


class Ensemble(Table):
    """What `make ensemble` may choose."""

    # Whose share of pixels may set a threshold; (): thresholds are fixed probabilities. With "volume" or "test set",
    # the mask of an image may depend on other images, and batch-predict refuses such a choice.
    shares: tuple[Literal["image", "volume", "test set"], ...] = ("image", "volume", "test set")
    # A column of the card's files.train_meta and files.test_meta, such as the organ: each of its values with enough
    # images may have a threshold of its own, which batch-predict refuses; None: all have one.
    group: str | None = None


class Imported(Table):
    """Predictions of another tool, which `make import` wrote into runs/<name>/. There is no model."""

    test: str | None = None  # where those of the test set came from; None: the test images are hidden
    oof: str | None = None  # where those out of fold came from; None: there are none, so `weight` must be given
    weight: Annotated[float, Field(gt=0, lt=1)] | None = None  # in an ensemble, of 1; only without oof. WEIGHTS sets it


WITHOUT_MODEL = {
    "phases": [{"loss": {"bce": 1.0}, "epochs": 1, "lr": 1.0}]
}  # the table `train` of imported predictions


class Config(Table):
    """All options of a run."""

    _file: str = PrivateAttr("")

    name: str  # the file's name
    competition: str  # a card's name, or the path of a card
    seed: Seed = 0
    data: Data = Data()
    folds: Folds = Folds()
    model: Model = Model()
    train: Train
    predict: Predict = Predict()
    ensemble: Ensemble = Ensemble()
    imported: Imported | None = None  # predictions of another tool: model, train and predict have no effect then

    @model_validator(mode="before")
    @classmethod
    def _without_model(cls, tables: Any) -> Any:
        """Drop the tables about a model from imported predictions: SET gives them to all members of an ensemble."""
        if not isinstance(tables, dict) or tables.get("imported") is None:
            return tables
        kept = {key: value for key, value in tables.items() if key not in ("model", "train", "predict")}
        return {**kept, "train": WITHOUT_MODEL}

    def model_post_init(self, context: object) -> None:
        super().model_post_init(context)
        for number, phase in enumerate(self.train.phases):
            if phase.mix and self.data.boundary and (self.data.size or phase.size):
                raise ValueError(
                    f"train.phases.{number}.mix adds boundaries in pixels of the resized image, but data.boundary is "
                    f"in pixels of the file: leave out mix, data.boundary, or the size"
                )
            if phase.makes_soft and self.data.boundary:
                raise ValueError(
                    f"train.phases.{number}.mix.mixup makes soft masks, in which data.boundary has no objects to "
                    f"separate: remove one of them"
                )
        if self.train.compile and self.model.grad_checkpointing:
            raise ValueError(
                "train.compile and model.grad_checkpointing: torch.compile plans what is kept by itself: remove one"
            )
        if self.train.teacher and self.data.crops:
            raise ValueError(
                "train.teacher reads the probabilities of whole images, which data.crops never does: remove one of them"
            )
        if self.train.teacher and self.data.boundary and any(phase.mix for phase in self.train.phases):
            raise ValueError(
                "train.phases.mix adds boundaries between objects of masks of 0 and 1, which train.teacher makes soft: "
                "remove mix, data.boundary or train.teacher"
            )
        for number, extra in enumerate(self.data.extra):
            if unknown := [each for each in extra.phases if each > len(self.train.phases)]:
                raise ValueError(
                    f"data.extra.{number}.phases: there is no phase {unknown[0]}: expected numbers from 1 to "
                    f"{len(self.train.phases)}"
                )
        if self.predict.tiles and (option := self.data.needs_whole_image):
            instead = "data.window" if option == "percentiles" else '"zero"'
            raise ValueError(f"data.{option} needs the whole image, which predict.tiles never reads: set {instead}")

    @property
    def file(self) -> str:
        """The file the config was read from, for messages; its name if it was not read from a file."""
        return self._file or self.name

    def __eq__(self, other: object) -> bool:
        """Configs are equal if their options are, whichever files they were read from."""
        return isinstance(other, Config) and vars(self) == vars(other)

    __hash__ = None  # a phase's losses are a dict, which cannot be hashed


@contextmanager
def place(cfg: Config, key: str = "") -> Iterator[None]:
    """Put the config's file and a key in front of the message of an error that the block raises.

    Args:
        key: dotted, such as "predict.views"; empty if the message already begins with the key.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: if the block raises one; of the same class.
    """
    try:
        yield
    except MISTAKES as error:
        kind = next(each for each in MISTAKES if isinstance(error, each))
        raise kind(f"{cfg.file}: {key + ': ' if key else ''}{error}") from error


MISTAKES = (FileNotFoundError, ConnectionError, ValueError)


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a config.

    Args:
        overrides: `dotted.key=value` pairs that replace values of the file.

    Raises:
        FileNotFoundError, ValueError: with the file, the key and what to write instead.
    """
    path = Path(path)
    tables = override(read_toml(path), overrides)
    cfg = parse(Config, {"name": path.stem, **tables}, str(path))
    cfg._file = str(path)
    return cfg
