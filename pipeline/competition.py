"""The competition card: a TOML file with what Kaggle defines (files, columns, classes, dialect, metric).

A new competition is a new file in `competitions/`, or a file of your own.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PositiveInt, model_validator

from pipeline.metrics import METRICS, format_metric, metric_kind, metric_names, parse_metric
from pipeline.quoting import listed, quoted, shortened
from pipeline.rle import Dialect
from pipeline.schema import Table, did_you_mean, parse, read_toml


def _refuse_pattern_without_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if not groups:
        raise ValueError("expected a group, as in '([^/]+)/image.png', whose match is the id")
    return pattern


DRAFTED_SAMPLE = "drafted_sample_submission.csv"  # `make card` writes it, where the files have no sample submission
Pattern = Annotated[str, AfterValidator(_refuse_pattern_without_group)]  # a regular expression with a group


class Files(Table):
    """The files of a competition, relative to the data root."""

    train_images: str
    test_images: str
    sample_submission: str = "sample_submission.csv"
    train_csv: str | None = None  # a table of ids and RLE texts
    train_masks: str | None = None  # or a folder of mask images with the names of the images
    train_polygons: str | None = None  # or a JSON per line: an image's id and its objects' outlines
    train_coco: str | None = None  # or a COCO JSON file: polygons or runs, one category per class
    train_meta: str | None = None  # a table of further columns of the training images, with the same ids
    test_meta: str | None = None  # the same of the test images; on hidden test data it may come with the images
    suffix: str = ".png"  # image file = id + suffix; empty if ids already have one
    mask_suffix: str = ".png"
    # Instead of the suffixes, for files in nested folders: a regular expression that must match the whole path below
    # the folder. Its groups, joined by "_", are the id.
    pattern: Pattern | None = None
    mask_pattern: Pattern | None = None
    # Where each class has mask images of its own: their paths below the folder train_masks, as "heart/{id}.png". A
    # class without a file has an empty mask.
    mask_paths: dict[str, str] = Field(default_factory=dict)
    # Several files of an id, one channel each: their paths below the folder, as in "{id}/band_08.npy"; or, with
    # `channel_path`, the text that replaces {channel} in it.
    channels: tuple[str, ...] = ()
    channel_path: str | None = None  # as in "{id}/band_{channel}.npy"
    # Slices that are no images of their own: a regular expression for the names of the files in the image's folder,
    # whose group is the slice's number; or the page (from 0) of the image's file that the labels are of.
    slice_pattern: Pattern | None = None
    frame: Annotated[int, Field(ge=0)] | None = None
    # Ids of the training table without images of their own: the start of such ids, and of those whose images they have.
    shared_images: dict[str, str] = Field(default_factory=dict)

    def model_post_init(self, _context: object) -> None:
        """Check keys that depend on each other.

        Raises:
            ValueError: for channels and mask_paths without {id}, channel_path without {channel}, repeated names, and
                for a slice_pattern beside frame.
        """
        for key, paths, example in (
            ("channels", self.channel_paths, "{id}/red.tif"),
            ("mask_paths", self.mask_paths.values(), "heart/{id}.png"),
        ):
            if without := [path for path in paths if "{id}" not in path]:
                raise ValueError(f"{key}: '{shortened(without[0])}': expected {{id}}, as in '{example}'")
        if self.channel_path is not None and (not self.channels or "{channel}" not in self.channel_path):
            raise ValueError("channel_path = '{id}/band_{channel}.npy' needs {channel}, and the list channels")
        if self.channels and self.pattern:
            raise ValueError("channels name the files of each id: leave out pattern")
        if twice := [name for name in self.channel_names if self.channel_names.count(name) > 1]:
            raise ValueError(f"channels: '{shortened(twice[0])}' is repeated")
        if self.slice_pattern and self.frame is not None:
            raise ValueError("set slice_pattern (slices are files) or frame (they are pages of a file), not both")
        if self.shared_images and not self.train_csv:
            raise ValueError("shared_images is for ids of a training table: set train_csv, or leave it out")
        if self.mask_paths and (self.mask_pattern or not self.train_masks):
            raise ValueError("mask_paths are below the folder train_masks: set it, and leave out mask_pattern")
        if len(set(self.mask_paths.values())) < len(self.mask_paths):
            raise ValueError("mask_paths: two classes have the same path: for files of several classes, masks.values")

    @property
    def channel_paths(self) -> tuple[str, ...]:
        """The path of each channel below the folder, with {id}; empty if an image is one file."""
        if self.channel_path is None:
            return self.channels
        return tuple(self.channel_path.replace("{channel}", name) for name in self.channels)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The name of each channel; of a path the file's, or else the folder's, without {id} and the extension."""
        return self.channels if self.channel_path is not None else tuple(map(_channel_name, self.channels))


def _channel_name(path: str) -> str:
    """What tells a channel's files from those of the others.

    >>> _channel_name("{id}/band_08.npy"), _channel_name("{id}_red.tif"), _channel_name("B04/{id}.tif")
    ('band_08', 'red', 'B04')
    """
    folder, _, name = path.rpartition("/")
    stem = (name.rpartition(".")[0] or name).replace("{id}", "").strip("_-. ")
    return stem or folder.rpartition("/")[2] or path


class Columns(Table):
    """The names of a CSV's columns."""

    model_config = ConfigDict(populate_by_name=True)

    id: str  # of the image; with `id_separator`, of the image and the class, as in x.jpg_1
    rle: str
    label: str | None = Field(default=None, alias="class")  # the column of the class, if there is one
    id_separator: str | None = None  # between image and class in the id column
    # If the objects of an image share one row: the words of each object in the rle column.
    packed_objects: str | None = None
    copied: tuple[str, ...] = ()  # further columns of the sample between id and rle, which a submission repeats
    group: str | None = None  # images with the same value stay in one fold: patient, video, mosaic
    meta_id: str | None = None  # of the image in the meta tables; default: `id`

    def model_post_init(self, _context: object) -> None:
        """Check keys that depend on each other.

        Raises:
            ValueError: if class and id_separator are both set, or packed_objects lacks a word.
        """
        if self.label and self.id_separator:
            raise ValueError(
                f"class = '{self.label}' and id_separator = '{self.id_separator}': set one of them, not both"
            )
        if self.packed_objects and not {"{confidence}", "{mask}"} <= set(self.packed_objects.split()):
            raise ValueError(
                f"packed_objects = '{self.packed_objects}': expected the words {{confidence}} and {{mask}} in it"
            )

    @property
    def header(self) -> list[str]:
        """All columns of a submission, in order."""
        return [*self.keys, *self.copied, self.rle]

    @property
    def keys(self) -> list[str]:
        """The columns with a row's image and class."""
        return [self.id, self.label] if self.label else [self.id]


Value = int | tuple[int, int, int]


class Masks(Table):
    """The meaning of the pixel values of mask images; by default 0 and 1, or 0 and 255, and no other value."""

    values: dict[str, Value] | None = None  # of each class: grey value, palette index or colour
    objects: bool = False  # of instances: each value (grey, palette index or colour) but 0 is an object
    void: Value | None = None  # pixels that losses and metrics ignore
    background: Value | None = None  # with values: no class; default: 0, if classes may overlap and none is 0
    above: float | None = Field(default=None, ge=0)  # one class: larger grey values are mask, as after JPEG compression
    soft: bool = False  # one class: values are fractions of the white of 8 or 16 bits, or floats from 0 to 1


class Leaderboard(Table):
    """The split of the test set into the public and the private leaderboard."""

    images: PositiveInt | None = None  # public and private together; default: those of the sample submission
    public_share: float = Field(default=0.3, gt=0, lt=1)


class Competition(Table):
    """A competition card."""

    name: str
    title: str
    url: str | None = None
    files: Files
    columns: Columns  # of the submission, its sample and solution
    train_columns: tuple[Columns, ...] = ()  # of the training CSV if they differ; the first whose columns all exist
    classes: tuple[str, ...] = Field(min_length=1)  # as the CSVs call them
    exclusive: bool = False  # one class per pixel; otherwise one mask per class, which may overlap
    instances: bool = False  # one row per object, without overlap; an image without any has one empty row
    several_rows: bool = False  # whether a training mask is the union of several rows or mask images
    # Several rows or mask images of an image, or planes of a .npy, are each an annotator's mask. Their mean is a soft
    # target; with "majority" a pixel is masked if more than half of them mask it, with "union" if one does.
    annotators: Literal["mean", "majority", "union"] | None = None
    images_without_rows: Literal["refuse", "empty", "ignore"] = "refuse"  # training images without a row or mask
    size: tuple[PositiveInt, PositiveInt] | None = None  # height and width of submitted masks; default: the image's
    masks: Masks = Masks()
    dialect: Dialect = Dialect()
    metric: str  # a name, "mean_f_beta(beta=2)", or a table of name and parameters, which becomes such a string
    group_pattern: Pattern | None = None  # instead of columns.group: ids with the same matched groups stay in one fold
    ignore_class: str | None = None  # class of rows or outlines whose pixels losses and metrics ignore
    volume_pattern: Pattern | None = None  # of ids of slices, or frames: the volume, or video, and the slice's number
    folds: Annotated[int, Field(ge=2)] | None = None  # default of the config's folds.count, where groups are few
    leaderboard: Leaderboard = Leaderboard()
    # Written by the stage `data`, not downloaded.
    generated: (
        Literal["demo", "camvid_demo", "defects_demo", "instances_demo", "large_demo", "volumes_demo", "bands_demo"]
        | None
    ) = None
    unverified: tuple[str, ...] = ()  # facts on this card that were not checked: check them before you rely on them

    @model_validator(mode="before")
    @classmethod
    def _name_metric(cls, tables: Any) -> Any:
        match tables:
            case {"metric": str(text)}:
                name, parameters = parse_metric(text) if "(" in text else (text, {})
                return {**tables, "metric": canonical_metric({"name": name, **parameters})}
            case {"metric": dict(table)}:
                return {**tables, "metric": canonical_metric(table)}
        return tables

    def model_post_init(self, _context: object) -> None:
        """Check keys that depend on each other.

        Raises:
            ValueError: if they contradict each other, with the keys and what to set.
        """
        known = metric_names(*(("objects", "ranked objects") if self.instances else ("pixels", "volumes")))
        if (metric_kind(self.metric) in ("objects", "ranked objects")) != self.instances:
            raise ValueError(
                f"metric '{self.metric}' with instances = {str(self.instances).lower()}: expected one of "
                f"{', '.join(known)}"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {listed(self.classes)}: one of them is repeated")
        files = self.files
        labels = [files.train_csv, files.train_masks, files.train_polygons, files.train_coco]
        if sum(each is not None for each in labels) != 1:
            raise ValueError(
                "set one of files.train_csv (RLE), files.train_masks (mask images), files.train_polygons (outlines) "
                "and files.train_coco (COCO's JSON)"
            )
        for columns in (self.columns, *self.train_columns):
            if len(self.classes) > 1 and not (columns.label or columns.id_separator):
                raise ValueError(
                    f"{len(self.classes)} classes ({listed(self.classes)}), but no column holds a row's class: "
                    f"set columns.class (a column of its own) or columns.id_separator (such as '_' in x.jpg_1)"
                )
        if self.scores_volumes and not self.volume_pattern:
            raise ValueError(
                f"metric '{self.metric}': a metric of volumes ({', '.join(metric_names('volumes'))}) needs "
                f"volume_pattern, with two groups, the volume and the slice's number"
            )
        if self.volume_pattern and re.compile(self.volume_pattern).groups != 2:
            raise ValueError(
                f"volume_pattern = '{shortened(self.volume_pattern)}': expected two groups, the volume and the slice's "
                f"number, as in '(.+)_slice_(\\d+)'"
            )
        if self.group_pattern and self.group_column:
            raise ValueError("set columns.group or group_pattern, not both")
        if self.instances and len(self.classes) > 1:
            raise ValueError(f"instances of several classes ({listed(self.classes)}) are not supported")
        self._check_packed_objects()
        self._check_masks()

    def _check_packed_objects(self) -> None:
        if bool(self.columns.packed_objects) != (metric_kind(self.metric) == "ranked objects"):
            raise ValueError(
                f"metric '{self.metric}': one that ranks objects ({', '.join(metric_names('ranked objects'))}) needs "
                "columns.packed_objects, where their confidences stand, as in '0 {confidence} {mask}'; "
                "another must have none"
            )
        if self.columns.packed_objects and self.dialect.form != "coco":
            raise ValueError(
                "columns.packed_objects separates objects by blanks: set a dialect without blanks, form = 'coco'"
            )

    def _check_masks(self) -> None:
        named = set(self.masks.values or ())
        if self.masks.values and named != set(self.classes):
            raise ValueError(
                f"masks.values names {listed(sorted(named))}, classes are {listed(self.classes)}: give each one's"
            )
        self._check_values()
        self._check_mask_paths()
        if self.files.train_masks and len(self.classes) > 1 and not (self.masks.values or self.files.mask_paths):
            raise ValueError(
                "mask images of several classes: set masks.values, the value of each class, or files.mask_paths, the "
                "files of each class"
            )
        if self.masks.void is not None and not self.files.train_masks:
            raise ValueError(
                "masks.void is a value of mask images (files.train_masks): set ignore_class, a class of rows, instead"
            )
        if self.masks.void in (0, (0, 0, 0)) and not self.masks.values:
            raise ValueError("masks.void = 0 is the background: set masks.values, the value of each class")
        if self.exclusive and (len(self.classes) < 2 or not self.files.train_masks):
            raise ValueError("exclusive needs two classes or more, and mask images (files.train_masks)")
        if self.exclusive and (self.several_rows or self.images_without_rows == "empty"):
            raise ValueError(
                'several_rows, and images_without_rows = "empty", are of masks that may overlap or be empty: '
                "with exclusive = true "
                "each pixel has a class, and each image one mask image"
            )
        self._check_objects()
        self._check_soft()
        if (self.masks.void is not None or self.ignore_class) and self.scores_volumes:
            raise ValueError(
                f"metric '{self.metric}': masks.void and ignore_class are not supported for a metric of volumes"
            )

    def _check_mask_paths(self) -> None:
        """Check the files of each class: each shows one class, as 0 and 1, or values above `masks.above`."""
        paths, masks = self.files.mask_paths, self.masks
        if not paths:
            return
        if set(paths) != set(self.classes):
            raise ValueError(
                f"files.mask_paths names {listed(sorted(paths))}, classes are {listed(self.classes)}: give each one's"
            )
        others = {
            "exclusive": self.exclusive,
            "instances": self.instances,
            "several_rows": self.several_rows,
            "annotators": self.annotators,
            "masks.values": masks.values,
            "masks.soft": masks.soft,
        }
        if found := [key for key, value in others.items() if value]:
            raise ValueError(
                f"files.mask_paths, the files of each class, and {found[0]} contradict each other: leave "
                f"out one of them"
            )

    def _check_objects(self) -> None:
        """Check the keys of mask images of objects."""
        masks = self.masks
        if masks.objects and not (self.instances and self.files.train_masks):
            raise ValueError(
                "masks.objects needs instances = true and mask images (files.train_masks); for one mask of all "
                "objects: masks.above = 0"
            )
        if masks.objects and (masks.values or masks.above is not None or self.several_rows):
            raise ValueError(
                "masks.objects: each value is an object, in one label image for each image: leave out masks.values, "
                "masks.above and several_rows"
            )
        if self.instances and self.files.train_masks and not (masks.objects or self.files.mask_pattern):
            raise ValueError(
                "instances from mask images: set masks.objects = true (label images, each value an object), or "
                "files.mask_pattern (a file for each object)"
            )

    def _check_soft(self) -> None:
        """Check the keys of soft masks and of annotators."""
        kinds = {"exclusive": self.exclusive, "instances": self.instances, "several_rows": self.several_rows}
        values = {"masks.values": self.masks.values is not None, "masks.above": self.masks.above is not None}
        votes = {f'annotators = "{self.annotators}"': self.annotators in ("majority", "union")}
        for key, is_set, others in (
            ("annotators", self.annotators, kinds),
            ("masks.soft", self.masks.soft, kinds | values | votes),
        ):
            if is_set and (found := [other for other, is_set in others.items() if is_set]):
                raise ValueError(f"{key} and {found[0]} contradict each other: leave out one of them")
        if self.masks.soft and (not self.files.train_masks or len(self.classes) > 1):
            raise ValueError(
                "masks.soft needs mask images (files.train_masks) of one class; for several, give each annotator's rows"
            )
        if self.annotators and not (self.files.train_csv or self.files.train_masks):
            raise ValueError("annotators needs files.train_csv or files.train_masks: outlines and COCO are of one each")

    def _check_values(self) -> None:
        masks = self.masks
        named = [*(masks.values or {}).values(), *(each for each in (masks.void, masks.background) if each is not None)]
        if twice := [value for value in named if named.count(value) > 1]:
            raise ValueError(f"[masks]: {twice[0]} has two meanings: set different values, void and background")
        if masks.background is not None and (self.exclusive or not masks.values):
            raise ValueError("masks.background needs masks.values, of classes that are not exclusive")
        has_one_class = len(self.classes) == 1 or self.files.mask_paths
        if masks.above is not None and (masks.values or not has_one_class or not self.files.train_masks):
            raise ValueError("masks.above needs mask images of one class each, without masks.values")

    def volume_of(self, image_id: str) -> str | None:
        """The volume, or video, of an image by its id; None if it is no slice of one."""
        found = re.fullmatch(self.volume_pattern, image_id) if self.volume_pattern else None
        return found[1] if found else None

    @property
    def scores_volumes(self) -> bool:
        """Whether the metric scores volumes, each a stack of slices."""
        return metric_kind(self.metric) == "volumes"

    @property
    def has_object_rows(self) -> bool:
        """Whether each row of a submission is one object."""
        return self.instances and not self.columns.packed_objects

    @property
    def training_layouts(self) -> tuple[Columns, ...]:
        """The column layouts that the training CSV may have."""
        return self.train_columns or (self.columns,)

    @property
    def group_column(self) -> str | None:
        """The column of the training tables whose equal values stay in one fold."""
        return next((each.group for each in (self.columns, *self.train_columns) if each.group), None)

    @property
    def meta_id(self) -> str:
        """The column of the meta tables that has the images' ids."""
        return self.columns.meta_id or self.columns.id


def canonical_metric(table: Mapping[str, Any]) -> str:
    """The canonical text of a metric, from a card's table of its name and parameters.

    Raises:
        ValueError: if the name is unknown, or a parameter is unknown, missing or invalid.
    """
    if "name" not in table:
        raise ValueError('metric.name is missing: expected a table such as { name = "mean_f_beta", beta = 2.0 }')
    name, values = str(table["name"]), {key: value for key, value in table.items() if key != "name"}
    names = metric_names()
    if name not in names:
        raise ValueError(f"unknown metric '{shortened(name)}'. {did_you_mean(name, names)}")
    parameters = METRICS[name].parameters if name in METRICS else {}
    for key in values:
        if key not in parameters:
            raise ValueError(f"metric '{name}' takes no '{shortened(key)}'. {_describe_owner(key, parameters)}")
    for key, parameter in parameters.items():
        if key not in values and parameter.default is None:
            raise ValueError(f"metric '{name}' needs {key}, {parameter.expected}: {{ name = \"{name}\", {key} = … }}")
        if key in values and not parameter.is_valid(values[key]):
            raise ValueError(f"metric '{name}': {key} = {quoted(values[key])}: expected {parameter.expected}")
    return format_metric(name, values)


def _describe_owner(key: str, parameters: Iterable[str]) -> str:
    """Which metrics take a parameter that this one does not take."""
    if owners := [name for name, spec in METRICS.items() if key in spec.parameters]:
        return f"{', '.join(owners)} can have it; this one: {', '.join(parameters) or 'no parameters'}."
    return did_you_mean(key, parameters) if parameters else "It has no parameters."


def known_cards() -> list[str]:
    """The names of the included cards."""
    folder = resources.files("pipeline.competitions")
    return sorted(card.name.removesuffix(".toml") for card in folder.iterdir() if card.name.endswith(".toml"))


def card_path(name: str) -> Path:
    """The file of a card.

    Args:
        name: of an included card, or the path of a file that ends in `.toml`.

    Raises:
        ValueError: if there is no card of this name.
    """
    if name.endswith(".toml"):
        return Path(name)
    if name not in known_cards():
        raise ValueError(
            f"unknown competition {quoted(shortened(name, 30))}. {did_you_mean(name, known_cards())} "
            f'To use a card of your own, give its path, such as "cards/mine.toml".'
        )
    return Path(str(resources.files("pipeline.competitions"))) / f"{name}.toml"


def load(name: str) -> Competition:
    """Load a card.

    Args:
        name: of an included card, or the path of a file that ends in `.toml`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if there is no card of this name, or the card is not valid.
    """
    path = card_path(name)
    return parse(Competition, read_toml(path), str(path))
