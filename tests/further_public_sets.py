"""Further small folders in the layouts of public data sets: volumes, several masks for an image, other formats.

Each function writes the files of one set below a folder, named and nested as that set has them.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.public_sets import TEST, TRAIN, VALID, blobs, cells, colours_of, grey, lines, slug, split, write, write_text
from tests.test_card_draft_layouts import write_csv

FURTHER: dict[str, Callable[[Path], None]] = {}
NIFTI: set[str] = set()  # layouts with volumes, which need a package to be written
PLANE = (32, 32)  # height and width of a slice
DEPTH = 4  # slices of a volume
CASES = 5  # volumes


def layout(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """Add a layout to FURTHER by its name."""
    FURTHER[function.__name__] = function
    return function


def nifti(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """As `layout`, of a set with volumes."""
    NIFTI.add(function.__name__)
    return layout(function)


def volume(number: int, classes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The grey image and the labels (H, W, slices) of a volume."""
    slices = [blobs(100 * number + z, classes, PLANE) for z in range(DEPTH)]
    return np.stack([grey(each) for each, _ in slices], axis=-1), np.stack([each for _, each in slices], axis=-1)


def write_volume(path: Path, pixels: np.ndarray) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), path)


def white(labels: np.ndarray) -> np.ndarray:
    return (labels > 0).astype(np.uint8) * 255


# ------------------------------------------------------------------------------------------------- volumes


@nifti
def nnunet(root: Path) -> None:
    """Two sequences for each case, and the names of the labels in a JSON."""
    base = root / "Dataset021_Brain"
    for number in range(CASES):
        image, labels = volume(number, 2)
        for sequence in range(2):
            write_volume(base / f"imagesTr/Brain_{number:03}_{sequence:04}.nii.gz", image // (1 + sequence))
        write_volume(base / f"labelsTr/Brain_{number:03}.nii.gz", labels)
    for sequence in range(2):
        write_volume(base / f"imagesTs/Brain_090_{sequence:04}.nii.gz", volume(90)[0])
    labels = {"background": 0, "edema": 1, "tumour": 2}
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": labels,
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    write_text(base / "dataset.json", json.dumps(content))


@nifti
def decathlon(root: Path) -> None:
    """Hidden files beside the volumes, and a JSON with names of labels and lists of files."""
    base = root / "Task04_Hippocampus"
    for number in range(CASES):
        image, labels = volume(number, 2)
        write_volume(base / f"imagesTr/hippocampus_{number:03}.nii.gz", image)
        write_volume(base / f"labelsTr/hippocampus_{number:03}.nii.gz", labels)
        write_text(base / f"imagesTr/._hippocampus_{number:03}.nii.gz")
    write_volume(base / "imagesTs/hippocampus_090.nii.gz", volume(90)[0])
    files = [{"image": "./imagesTr/hippocampus_000.nii.gz", "label": "./labelsTr/hippocampus_000.nii.gz"}]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    content = {
        "modality": {"0": "MRI"},
        "labels": labels,
        "training": files,
        "test": ["./imagesTs/hippocampus_090.nii.gz"],
    }
    write_text(base / "dataset.json", json.dumps(content))


@nifti
def brats(root: Path) -> None:
    """Four sequences and the labels 1, 2 and 4 in a folder for each patient."""
    for number in range(CASES):
        image, labels = volume(number, 3)
        start = f"BraTS2021_Training_Data/BraTS2021_{number:05}/BraTS2021_{number:05}"
        for place, sequence in enumerate(("flair", "t1", "t1ce", "t2")):
            write_volume(root / f"{start}_{sequence}.nii.gz", image.astype(np.int16) * (4 + place))
        write_volume(root / f"{start}_seg.nii.gz", np.array([0, 1, 2, 4], np.uint8)[labels])


@nifti
def kidneys(root: Path) -> None:
    for number in range(CASES):
        image, labels = volume(number, 2)
        write_volume(root / f"data/case_{number:05}/imaging.nii.gz", image.astype(np.int16) * 10 - 1000)
        write_volume(root / f"data/case_{number:05}/segmentation.nii.gz", labels)
    write_volume(root / "data/case_00210/imaging.nii.gz", volume(90)[0])
    write_text(root / "data/kits.json", json.dumps([{"case_id": "case_00000", "gender": "male"}]))


@nifti
def hearts(root: Path) -> None:
    """Two times of each patient with labels, and all times in one file."""
    for number in range(1, CASES + 1):
        start = f"training/patient{number:03}/patient{number:03}"
        times = [volume(2 * number + place, 3) for place in range(2)]
        for frame, (image, labels) in zip((1, 9 + number), times, strict=True):
            write_volume(root / f"{start}_frame{frame:02}.nii.gz", image)
            write_volume(root / f"{start}_frame{frame:02}_gt.nii.gz", labels)
        write_volume(root / f"{start}_4d.nii.gz", np.stack([image for image, _ in times], axis=-1))
        write_text(root / f"training/patient{number:03}/Info.cfg", "ED: 1\nES: 12\n")


@nifti
def abdomens(root: Path) -> None:
    """Names of images and labels differ in the word before the number."""
    for number in range(1, CASES + 1):
        image, labels = volume(number, 3)
        write_volume(root / f"RawData/Training/img/img{number:04}.nii.gz", image.astype(np.int16))
        write_volume(root / f"RawData/Training/label/label{number:04}.nii.gz", labels)
    write_volume(root / "RawData/Testing/img/img0061.nii.gz", volume(90)[0].astype(np.int16))


@nifti
def amos(root: Path) -> None:
    """Training, validation and test volumes, the first two with labels."""
    for part, start, labelled in (("Tr", 0, True), ("Va", 20, True), ("Ts", 40, False)):
        for number in range(start, start + CASES):
            image, labels = volume(number, 3)
            write_volume(root / f"amos22/images{part}/amos_{number:04}.nii.gz", image.astype(np.int16))
            if labelled:
                write_volume(root / f"amos22/labels{part}/amos_{number:04}.nii.gz", labels)
    names = {"0": "background", "1": "spleen", "2": "right kidney", "3": "left kidney"}
    write_text(root / "amos22/dataset.json", json.dumps({"labels": names}))


@nifti
def covid_challenge(root: Path) -> None:
    """A validation part without labels is to be predicted."""
    for part, number, _ in split(("Train", CASES), ("Validation", 2)):
        image, labels = volume(number + 50 * (part == "Validation"))
        start = f"COVID-19-20_v2/{part}/volume-covid19-A-{number + 3 + 600 * (part == 'Validation'):04}"
        write_volume(root / f"{start}_ct.nii.gz", image.astype(np.int16) * 10 - 1000)
        if part == "Train":
            write_volume(root / f"{start}_seg.nii.gz", labels)


@nifti
def livers(root: Path) -> None:
    """Volumes in folders of batches, whose names do not repeat."""
    for number in range(2 * CASES):
        image, labels = volume(number, 2)
        start = f"Training Batch {1 + number // CASES}"
        write_volume(root / f"{start}/volume-{number}.nii", image.astype(np.int16))
        write_volume(root / f"{start}/segmentation-{number}.nii", labels)


@nifti
def echoes(root: Path) -> None:
    """Images of two views and two times of each patient, and films beside them."""
    for number in range(1, CASES + 1):
        start = f"database_nifti/patient{number:04}/patient{number:04}"
        for place, view in enumerate(("2CH", "4CH")):
            for time, name in enumerate(("ED", "ES")):
                image, labels = blobs(100 * number + 2 * place + time, 3, PLANE)
                write_volume(root / f"{start}_{view}_{name}.nii.gz", grey(image))
                write_volume(root / f"{start}_{view}_{name}_gt.nii.gz", labels)
        write_text(root / f"database_nifti/patient{number:04}/Info_2CH.cfg", "ED: 1\n")


# ------------------------------------------------------------------------------------------------ eyes, organs, chests


@layout
def glaucoma(root: Path) -> None:
    """0 is the cup, 128 the disc and 255 the background; folders of findings, with another name for the masks."""
    for number in range(TRAIN):
        image, labels = blobs(number, 2)
        kind, name = ("Glaucoma", "g") if number % 3 == 0 else ("Non-Glaucoma", "n")
        name = f"{kind}/{name}{number:04}"
        write(root / f"Training400/{name}.jpg", image)
        write(root / f"Annotation-Training400/Disc_Cup_Masks/{name}.bmp", np.array([255, 128, 0], np.uint8)[labels])
    for number in range(TEST):
        write(root / f"Test400/T{number + 1:04}.jpg", blobs(500 + number)[0])


@layout
def lesions(root: Path) -> None:
    """A folder of masks for each kind of lesion, numbered, with its letters in the names of the masks."""
    for part, number, seed in split(("a. Training Set", TRAIN), ("b. Testing Set", TEST)):
        image, labels = blobs(seed, 3)
        name = f"IDRiD_{number + 1 + 54 * part.startswith('b'):02}"
        write(root / f"A. Segmentation/1. Original Images/{part}/{name}.jpg", image)
        start = f"A. Segmentation/2. All Segmentation Groundtruths/{part}"
        kinds = (("1. Microaneurysms", "MA"), ("2. Haemorrhages", "HE"), ("5. Optic Disc", "OD"))
        for value, (folder, letters) in enumerate(kinds, start=1):
            mask = labels == value
            if mask.any():
                write(
                    root / f"{start}/{folder}/{name}_{letters}.tif",
                    np.dstack([mask * 255, mask * 0, mask * 0]).astype("u1"),
                )
    write_text(root / "A. Segmentation/LICENSE.txt")


@layout
def chest_organs(root: Path) -> None:
    """A folder of masks for each organ, with the same names as the images; two organs have a side."""
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        name = f"JPCLN{number + 1:03}"
        write(root / f"Images/{name}.png", grey(image))
        for value, organ in enumerate(("heart", "left lung", "right lung"), start=1):
            write(root / f"Masks/{organ}/{name}.png", (labels == value).astype(np.uint8) * 255)


@layout
def skin_attributes(root: Path) -> None:
    """Masks of the attributes of a lesion in one folder, named by image and attribute."""
    for part, _, seed in split(("Training", TRAIN), ("Test", TEST)):
        image, labels = blobs(seed, 2)
        name = f"ISIC_{seed:07}"
        write(root / f"ISIC2018_Task1-2_{part}_Input/{name}.jpg", image)
        if part == "Training":
            for value, attribute in enumerate(("globules", "milia_like_cyst"), start=1):
                path = f"ISIC2018_Task2_Training_GroundTruth_v3/{name}_attribute_{attribute}.png"
                write(root / path, (labels == value).astype(np.uint8) * 255)


@layout
def roofs_of_sites(root: Path) -> None:
    """Folders of sites with images and masks; names are hexadecimal, and some are in several sites."""
    names = [f"4affb1a8764{number}" for number in range(8)]
    for site in "ABC":
        for number, name in enumerate(names):
            image, labels = blobs(100 * ord(site) + number)
            write(root / f"site{site}/images/{name}.png", image)
            write(root / f"site{site}/masks/{name}.png", labels * 255)


@layout
def cells_with_an_unlabeled_part(root: Path) -> None:
    """The word label in the names of a folder of images, and of photographs without labels."""
    for number in range(TRAIN):
        image, labels = cells(number)
        write(root / f"Training-labeled/images/cell_{number:05}.png", image)
        write(root / f"Training-labeled/labels/cell_{number:05}_label.tiff", labels.astype(np.uint16))
    for number in range(TEST):
        write(root / f"Tuning/images/cell_{number:05}.png", cells(500 + number)[0])
        write(root / f"release-part1/unlabeled_cell_{number:05}.png", cells(600 + number)[0])


@nifti
def spines(root: Path) -> None:
    """Images are slices in a folder of each series, masks are volumes."""
    for number in range(CASES):
        image, labels = volume(number)
        for z in range(DEPTH):
            write(root / f"train_images/1.2.{number}/{z + 1}.png", image[..., z])
        write_volume(root / f"segmentations/1.2.{number}.nii", labels)


@layout
def polyps_of_two_kinds(root: Path) -> None:
    """Colours of two classes as JPEG, and a sample submission of both."""
    rows = [("Id", "Expected")]
    for part, _, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 2)
        write(root / f"{part}/{part}/{seed:05}.jpeg", image)
        if part == "train":
            colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[labels]
            write(root / f"train_gt/train_gt/{seed:05}.jpeg", colours)
        else:
            rows += [(f"{seed:05}_{kind}", "") for kind in range(2)]
    write_csv(root / "sample_submission.csv", rows)


@layout
def instruments(root: Path) -> None:
    names = []
    for number in range(TRAIN):
        image, labels = blobs(number)
        names.append(f"ckcu{slug(number, 20)}")
        write(root / f"kvasir-instrument/images/{names[-1]}.jpg", image)
        write(root / f"kvasir-instrument/masks/{names[-1]}.png", white(labels))
    write_text(root / "kvasir-instrument/train.txt", "\n".join(names[:8]))
    write_text(root / "kvasir-instrument/test.txt", "\n".join(names[8:]))
    write_text(root / "kvasir-instrument/bboxes.json", "{}")


@layout
def thyroids(root: Path) -> None:
    """Folders of training and validation images together, and of test images, with JPEG masks."""
    for part, number, seed in split(("trainval", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        write(root / f"Thyroid Dataset/tn3k/{part}-image/{number:04}.jpg", grey(image))
        write(root / f"Thyroid Dataset/tn3k/{part}-mask/{number:04}.jpg", white(labels))
    write_text(root / "Thyroid Dataset/tn3k/tn3k-trainval-fold0.json", "{}")


@layout
def chest(root: Path) -> None:
    """A folder of masks for each organ, in both folds of a division."""
    for number in range(1, 2 * TRAIN + 1):
        image, labels = blobs(number, 3)
        name = f"JPC{'LN' if number % 2 else 'NN'}{number:03}"
        write(root / f"All247images/{name}.png", grey(image))
        for value, organ in enumerate(("heart", "left lung", "right lung"), start=1):
            fold = "fold1" if number % 2 else "fold2"
            write(root / f"scratch/{fold}/masks/{organ}/{name}.gif", white(labels == value))


@layout
def glands(root: Path) -> None:
    """All parts in one folder, told by the names; objects have numbers; a table of grades."""
    rows = []
    for part, number, seed in split(("train", TRAIN), ("testA", TEST), ("testB", TEST)):
        image, labels = cells(seed)
        name = f"{part}_{number + 1}"
        write(root / f"Warwick QU Dataset (Released 2016_07_08)/{name}.bmp", image)
        write(root / f"Warwick QU Dataset (Released 2016_07_08)/{name}_anno.bmp", labels)
        rows.append((name, str(number % 7), " benign", " adenoma"))
    header = ("name", " patient ID", " grade (GlaS)", " grade (Sirinukunwattana et al. 2015)")
    write_csv(root / "Warwick QU Dataset (Released 2016_07_08)/Grade.csv", [header, *rows])


@layout
def gallbladders(root: Path) -> None:
    """Frames in folders of clips, with label images, colours and watersheds."""
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        video, clip = 1 + number // 6, 80 * (1 + number // 3)
        start = f"video{video:02}/video{video:02}_{clip:05}/frame_{clip + number % 3}_endo"
        write(root / f"{start}.png", image)
        ids = np.array([50, 11, 21, 13], np.uint8)[labels]
        write(root / f"{start}_mask.png", np.repeat(ids[..., None], 3, axis=2))
        colours = [(127, 127, 127), (210, 140, 140), (255, 114, 114), (231, 70, 156)]
        write(root / f"{start}_color_mask.png", colours_of(labels, colours))
        write(root / f"{start}_watershed_mask.png", np.repeat((ids % 7)[..., None], 3, axis=2))


# ------------------------------------------------------------------------------------------------- cells and plants


@layout
def breast_slides(root: Path) -> None:
    """A folder of images and one of masks for each slide, with the same numbers."""
    for number in range(TRAIN):
        image, labels = blobs(number)
        slide, name = number // 4 + 1, f"{number // 4 + 1:02}_{number % 4 + 1}.png"
        write(root / f"TNBC_NucleiSegmentation/Slide_{slide:02}/{name}", image)
        write(root / f"TNBC_NucleiSegmentation/GT_{slide:02}/{name}", white(labels))


@layout
def organs_of_two(root: Path) -> None:
    """Folders of organs, each with many kinds of masks, distances and overlays."""
    for number in range(TRAIN):
        image, labels = cells(number)
        organ = ("human bladder", "human brain", "mouse liver")[number % 3]
        name = f"{organ.replace(' ', '_')}_{number // 3 + 1:02}"
        write(root / f"{organ}/tissue images/{name}.png", image)
        write(root / f"{organ}/label masks/{name}.tif", labels.astype(np.uint16))
        write(root / f"{organ}/label masks modify/{name}.tif", labels.astype(np.uint16))
        write(root / f"{organ}/mask binary/{name}.png", white(labels))
        write(root / f"{organ}/distance maps/{name}.png", grey(image))
        write(root / f"{organ}/overlay/{name}.png", image)
        write(root / f"{organ}/vague areas/mask binary/{name}.png", white(labels == 1))
        write_text(root / f"{organ}/Imagej_zips/{name}.zip")


@layout
def leaf_counts(root: Path) -> None:
    """Leaves with numbers, the plant, and the centres of leaves, in folders of experiments."""
    for number in range(2 * TRAIN):
        image, labels = cells(number)
        start = f"CVPPP2017_LSC_training/training/A{1 + number // TRAIN}/plant{number + 1:03}"
        write(root / f"{start}_rgb.png", image)
        write(root / f"{start}_label.png", labels)
        write(root / f"{start}_fg.png", white(labels))
        centres = np.zeros_like(labels)
        centres[::14, ::14] = 255
        write(root / f"{start}_centers.png", centres)


# ------------------------------------------------------------------------------------------------- earth


@layout
def disasters(root: Path) -> None:
    """Each place before and after, with label images of both, and outlines in JSON."""
    for part, number, seed in split(("train", 6), ("test", TEST)):
        for time, when in enumerate(("pre", "post")):
            image, labels = blobs(seed + 500 * time, 1 if when == "pre" else 3)
            name = f"{('guatemala-volcano', 'santa-rosa-wildfire')[number % 2]}_{number:08}_{when}_disaster"
            write(root / f"{part}/images/{name}.png", image)
            write(root / f"{part}/targets/{name}_target.png", labels)
            write_text(root / f"{part}/labels/{name}.json", json.dumps({"features": {"lng_lat": [], "xy": []}}))


@layout
def towns(root: Path) -> None:
    """Folders of images and labels for each town; lists of the parts."""
    for number in range(TRAIN):
        image, labels = blobs(number, 4)
        town = ("aachen", "accra", "adelaide", "kyoto")[number % 4]
        write(root / f"OpenEarthMap/OpenEarthMap_wo_xBD/{town}/images/{town}_{number // 4 + 1}.tif", image)
        write(root / f"OpenEarthMap/OpenEarthMap_wo_xBD/{town}/labels/{town}_{number // 4 + 1}.tif", labels)
    for part in ("train", "val", "test"):
        write_text(root / f"OpenEarthMap/OpenEarthMap_wo_xBD/{part}.txt", "aachen_1.tif\n")


@layout
def buildings(root: Path) -> None:
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed)
        write(root / f"{part}/image/{seed + number}.tif", image)
        write(root / f"{part}/label/{seed + number}.tif", white(labels))


@layout
def changes(root: Path) -> None:
    """Two images of each place, before and after, and the mask of what changed."""
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed)
        before = np.where(labels[..., None] > 0, 90, image).astype(np.uint8)
        write(root / f"{part}/A/{part}_{number + 1}.png", before)
        write(root / f"{part}/B/{part}_{number + 1}.png", image)
        write(root / f"{part}/label/{part}_{number + 1}.png", white(labels))


@layout
def provinces(root: Path) -> None:
    """Colour masks whose names end in a word; black is unlabelled."""
    colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        name = f"GF2_PMS{1 + number % 2}__L1A{number * 37 + 647767:010}-MSS{1 + number % 2}"
        write(root / f"Large-scale Classification_5classes/image_RGB/{name}.tif", image)
        write(
            root / f"Large-scale Classification_5classes/label_5classes/{name}_label.tif", colours_of(labels, colours)
        )


@layout
def floods(root: Path) -> None:
    """Radar and optical images, and masks with -1 where nothing was seen, named by what they are."""
    base = root / "v1.1/data/flood_events/HandLabeled"
    for number in range(TRAIN):
        image, labels = blobs(number)
        name = f"{('Bolivia', 'Ghana', 'India')[number % 3]}_{103272 + 17 * number}"
        mask = labels.astype(np.int16)
        mask[:3] = -1
        for kind, pixels in (
            ("S1", grey(image).astype(np.float32)),
            ("S2", image),
            ("JRCWater", labels),
            ("Label", mask),
        ):
            write(base / f"{kind}Hand/{name}_{kind}Hand.tif", pixels.astype(np.int32) if kind == "Label" else pixels)


@layout
def aerial_objects(root: Path) -> None:
    """Objects and classes in colours, in a folder of masks below that of the images' part."""
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 2)
        write(root / f"{part}/images/images/P{number:04}.png", image)
        if part != "test":
            for kind, colours in (
                ("Semantic", [(0, 0, 0), (0, 0, 63), (0, 127, 127)]),
                ("Instance", [(0, 0, 0), (1, 0, 0), (2, 0, 0)]),
            ):
                ending = "color_RGB" if kind == "Semantic" else "id_RGB"
                path = root / f"{part}/{kind}_masks/images/P{number:04}_instance_{ending}.png"
                write(path, colours_of(labels, colours))


@layout
def drone_scenes(root: Path) -> None:
    """Label images and pictures of them; sequences in the names."""
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        name = f"{1 + number // 4:06}_{1 + number % 4:03}"
        write(root / f"aeroscapes/JPEGImages/{name}.jpg", image)
        write(root / f"aeroscapes/SegmentationClass/{name}.png", labels)
        colours = [(0, 0, 0), (192, 128, 128), (0, 128, 0), (128, 128, 128)]
        write(root / f"aeroscapes/Visualizations/{name}.png", colours_of(labels, colours))
    write_text(root / "aeroscapes/ImageSets/trn.txt", "000001_001\n")


@layout
def roads(root: Path) -> None:
    """Masks of lines beside images, in tiles with the coordinates of their corners."""
    for number in range(TRAIN):
        image, labels = lines(number)
        name = f"scene{1 + number // 4}_{512 * (number % 4)}_0_{512 * (number % 4) + 512}_512"
        write(root / f"tiles/images/{name}.png", image)
        write(root / f"tiles/masks/{name}.png", white(labels))


# ------------------------------------------------------------------------------------------------- not read


@layout
def prostates(root: Path) -> None:
    for number in range(CASES):
        for name in (f"Case{number:02}", f"Case{number:02}_segmentation"):
            write_text(root / f"training_data/{name}.mhd", "ObjectType = Image\n")
            write_text(root / f"training_data/{name}.raw")


@layout
def tissues(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val", "test"):
        np.savez(root / f"{part}.npz", X=np.zeros((2, 8, 8, 2)), y=np.zeros((2, 8, 8, 2)))


@layout
def nuclei_stacks(root: Path) -> None:
    """All images of a fold in one array, and six channels of masks."""
    for fold in (1, 2, 3):
        pixels = [blobs(10 * fold + number, 2, PLANE) for number in range(6)]
        base = root / f"Fold {fold}"
        write(base / f"images/fold{fold}/images.npy", np.stack([image for image, _ in pixels]).astype(np.float64))
        write(base / f"images/fold{fold}/types.npy", np.array(["Breast", "Colon", "Breast", "Colon", "Skin", "Skin"]))
        write(base / f"masks/fold{fold}/masks.npy", np.eye(6)[np.stack([labels for _, labels in pixels])])


@layout
def nuclei_outlines(root: Path) -> None:
    base = root / "MoNuSeg 2018 Training Data"
    for number in range(TRAIN):
        name = f"TCGA-A7-A13E-01Z-00-DX{number + 1}"
        write(base / f"Tissue Images/{name}.tif", cells(number)[0])
        vertices = '<Vertices><Vertex X="1.5" Y="2.5" Z="0"/></Vertices>'
        write_text(base / f"Annotations/{name}.xml", f"<Annotations><Region>{vertices}</Region></Annotations>")


@layout
def colon_nuclei(root: Path) -> None:
    """Labels as MATLAB files, and pictures of them."""
    for part, number, seed in split(("Train", TRAIN), ("Test", TEST)):
        image, _ = cells(seed)
        write(root / f"CoNSeP/{part}/Images/{part.lower()}_{number + 1}.png", image)
        write(root / f"CoNSeP/{part}/Overlay/{part.lower()}_{number + 1}.png", image)
        write_text(root / f"CoNSeP/{part}/Labels/{part.lower()}_{number + 1}.mat")


@layout
def membranes(root: Path) -> None:
    """All slices in one TIFF."""
    from PIL import Image

    root.mkdir(parents=True, exist_ok=True)
    slices = [blobs(number) for number in range(6)]
    stacks = {"train-volume": [grey(each) for each, _ in slices], "train-labels": [white(each) for _, each in slices]}
    for name, pages in {**stacks, "test-volume": stacks["train-volume"]}.items():
        first, *others = map(Image.fromarray, pages)
        first.save(root / f"{name}.tif", save_all=True, append_images=others)


@layout
def roofs(root: Path) -> None:
    base = root / "AOI_2_Vegas_Train"
    for number in range(TRAIN):
        write(base / f"RGB-PanSharpen/RGB-PanSharpen_AOI_2_Vegas_img{number}.tif", blobs(number)[0])
        polygon = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [0, 1], [1, 1]]]}}
        content = {"type": "FeatureCollection", "features": [polygon]}
        write_text(base / f"geojson/buildings/buildings_AOI_2_Vegas_img{number}.geojson", json.dumps(content))
    write_csv(base / "summaryData/AOI_2_Vegas_Train_Building_Solutions.csv", [("ImageId", "BuildingId"), ("img0", "1")])


@layout
def landslides(root: Path) -> None:
    for number in range(1, TRAIN + 1):
        write_text(root / f"TrainData/img/image_{number}.h5")
        write_text(root / f"TrainData/mask/mask_{number}.h5")


@layout
def satellite_outlines(root: Path) -> None:
    """A table of outlines of classes, relative to a grid."""
    rows = []
    for number in range(TRAIN):
        name = f"60{10 + 10 * (number // 3)}_{number % 3}_{number % 5}"
        write(root / f"three_band/{name}.tif", blobs(number)[0])
        polygon = "MULTIPOLYGON (((0.005 -0.002, 0.006 -0.002, 0.006 -0.003, 0.005 -0.002)))"
        rows += [(name, "1", polygon), (name, "2", "MULTIPOLYGON EMPTY")]
    write_csv(root / "train_wkt_v4.csv", [("ImageId", "ClassType", "MultipolygonWKT"), *rows])
    write_csv(root / "grid_sizes.csv", [("", "Xmax", "Ymin"), ("6010_0_0", "0.009", "-0.009")])
    write_csv(
        root / "sample_submission.csv",
        [("ImageId", "ClassType", "MultipolygonWKT"), ("6020_9_9", "1", "MULTIPOLYGON EMPTY")],
    )


# ----------------------------------------------------------------------------- words and values that mislead


@layout
def camouflaged_animals(root: Path) -> None:
    """Pictures of a background without an animal, and masks of objects, their edges, and instances."""
    for part, number, seed in split(("Train", TRAIN), ("Test", TEST)):
        image, labels = blobs(seed)
        kind = "NonCAM-5-Background-8-Sky" if number % 4 == 3 else "CAM-1-Aquatic-13-Pipefish"
        name, base = f"COD10K-{kind}-{number + 1}", root / f"COD10K-v3/{part}"
        write(base / f"Image/{name}.jpg", image)
        edges = labels - labels * np.roll(labels, 1, 0) * np.roll(labels, -1, 0)
        for folder, mask in (("GT_Object", labels), ("GT_Edge", edges), ("GT_Instance", labels)):
            write(base / f"{folder}/{name}.png", mask * 255)


@nifti
def organ_files(root: Path) -> None:
    """A folder for each patient, with a volume for each organ in a folder below."""
    for number in range(CASES):
        image, labels = volume(number, 3)
        folder = root / f"Totalsegmentator_dataset_v201/s{number:04}"
        write_volume(folder / "ct.nii.gz", image.astype(np.int16))
        for value, organ in enumerate(("kidney_left", "kidney_right", "liver"), start=1):
            write_volume(folder / f"segmentations/{organ}.nii.gz", (labels == value).astype(np.uint8))


@nifti
def tumours_beside_the_middle(root: Path) -> None:
    """A label that no middle slice of a volume has."""
    for number in range(CASES):
        slices = [blobs(100 * number + z, 2 if z == DEPTH - 1 else 1, PLANE) for z in range(DEPTH)]
        image = np.stack([grey(each) for each, _ in slices], axis=-1)
        write_volume(root / f"imagesTr/liver_{number}.nii.gz", image.astype(np.int16))
        write_volume(root / f"labelsTr/liver_{number}.nii.gz", np.stack([each for _, each in slices], axis=-1))


@layout
def plasma_cells(root: Path) -> None:
    """A numbered mask for each cell of an image, with values of two classes."""
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = cells(seed)
        write(root / f"{part}/x/{number + 100}.bmp", image)
        for cell in range(1, labels.max() + 1) if part == "train" else ():
            mask = (labels == cell).astype(np.uint8) * (20 if cell % 2 else 40)
            write(root / f"train/y/{number + 100}_{cell}.bmp", mask)


@layout
def surgical_organs(root: Path) -> None:
    """Folders of organs and operations, with images and masks named by a word and a number."""
    for number in range(TRAIN):
        image, labels = blobs(number)
        folder = root / f"{('colon', 'liver', 'spleen')[number % 3]}/{2 + number % 2:02}"
        write(folder / f"image{20 + number // 6:02}.png", image)
        write(folder / f"mask{20 + number // 6:02}.png", labels * 255)
