"""Functions of the notebooks on images: tables by hand, and the contents of the figures."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from pipeline import config, stages
from pipeline.notebook_support.images import draw_images, draw_samples, list_findings, list_sizes
from pipeline.report import plots
from pipeline.report.overlays import PANELS, PREDICTED, TRUE
from pipeline.report.report_data import Picture
from tests.reports import make_images, make_report_data

CAMVID = 11  # classes, more than any card here has


@pytest.fixture
def cfg(tiny):
    return config.load("configs/tiny.toml")


def panels(figure):
    """The axes that show an image, for each titled row."""
    return {row.get_suptitle(): [axes for axes in row.axes if axes.images] for row in figure.subfigs}


def outlines(axes, colour):
    """The corners of all outlines of one colour, (P, 2) x and y, of each mask."""
    found = [lines for lines in axes.collections if np.allclose(lines.get_edgecolor()[0], to_rgba(colour))]
    return [np.concatenate([path.vertices for path in lines.get_paths()]) for lines in found]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


# ---------------------------------------------------------------------------------------------- data


def test_list_sizes_counts_train_and_test_and_includes_sizes_only_in_test(cfg):
    odd = min(Path("tiny/test/images").iterdir())
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(odd)
    table = list_sizes(stages.make_context(cfg))
    assert table.to_numpy().tolist() == [[36, 44, 18, 4], [20, 30, 0, 1]]
    assert list(table) == ["height", "width", "train", "test"]


def test_list_findings_has_a_row_for_each_finding_of_the_doctor(cfg):
    table = list_findings(cfg)
    assert list(table) == ["level", "check", "message"]
    assert table.to_records(index=False).tolist() == [tuple(finding) for finding in stages.doctor(cfg).findings]
    assert table.set_index("check").loc["sample's rows", "message"] == "5 rows of 5 images"


def test_samples_are_empty_images_and_images_by_coverage_quarter(cfg):
    # Of 18 images 6 are empty; of the 12 others 3 are in the lowest quarter, 3 in the highest, 6 between.
    rows = panels(draw_samples(stages.make_context(cfg)))
    assert {name: len(row) for name, row in rows.items()} == {
        "empty": 6,
        "small masks": 3,
        "medium masks": 6,
        "large masks": 3,
    }
    titles = {name: [re.split(r"\s+", axes.get_title()) for axes in row] for name, row in rows.items()}
    assert len({image_id for row in titles.values() for image_id, _ in row}) == 18
    shares = {name: [float(share.rstrip("%")) for _, share in row] for name, row in titles.items()}
    assert set(shares["empty"]) == {0}
    assert 0 < min(shares["small masks"]) <= max(shares["small masks"]) <= min(shares["medium masks"])
    assert max(shares["medium masks"]) <= min(shares["large masks"])


@pytest.mark.slow
def test_an_outline_surrounds_the_bright_object(cfg):
    figure = draw_samples(stages.make_context(cfg))
    for name, row in panels(figure).items():
        for axes in row:
            ys, xs = np.nonzero(np.asarray(axes.images[0].get_array()) >= 140)  # discs are; noise ends at 119
            if name == "empty":
                assert (len(ys), len(axes.collections)) == (0, 0)
                continue
            (corners,) = outlines(axes, TRUE)
            assert np.abs(corners.min(axis=0) - (xs.min(), ys.min())).max() <= 0.5
            assert np.abs(corners.max(axis=0) - (xs.max(), ys.max())).max() <= 0.5
    assert legend(figure) == ["true"]


def test_an_empty_row_of_samples_is_omitted(cfg):
    context = stages.make_context(cfg)
    filled = context._replace(index=context.index[context.index["coverage"] > 0])
    assert list(panels(draw_samples(filled))) == ["small masks", "medium masks", "large masks"]


# ---------------------------------------------------------------------------------------------- errors


def test_images_are_drawn_in_order_with_titles_and_an_empty_table_is_omitted():
    images = make_images()
    figure = draw_images(make_report_data(), {"last": images[::-1], "none": images[:0], "two": images[3:5]})
    rows = panels(figure)
    assert {name: len(row) for name, row in rows.items()} == {"last": PANELS, "two": 2}
    # Scores are 0.9 + 0.05 · sin(2.3 · number): 0.929 and 0.911.
    assert [axes.get_title() for axes in rows["two"]] == ["image003  0.93", "image004  0.91"]
    assert legend(figure) == ["true", "predicted"]


def test_target_is_blue_prediction_is_orange_and_each_object_has_an_outline():
    objects, nothing = np.zeros((2, 8, 10), np.uint8)
    objects[1:4, 1:4], objects[1:4, 4:7] = 1, 2  # they touch
    picture = Picture(np.zeros((8, 10, 1), np.uint8), objects, nothing, nothing)
    (axes,) = panels(draw_images(make_report_data(picture=lambda _: picture), {"one": make_images()[:1]}))["one"]
    first, second = outlines(axes, TRUE)
    assert first.max(axis=0).tolist() == [3.5, 3.5]
    assert second.min(axis=0).tolist() == [3.5, 0.5]
    assert not outlines(axes, PREDICTED)


@pytest.mark.parametrize("classes", [1, 3, 4, CAMVID, 30])
def test_coverage_is_drawn_for_any_number_of_classes(classes):
    rng = np.random.default_rng(0)
    coverages = {f"class {number}": rng.uniform(0, 0.5, 5) for number in range(classes)}
    (axes,) = plots.coverage_ecdf(coverages).axes
    lines = {line.get_label(): line.get_xdata() for line in axes.lines}
    assert list(lines) == list(coverages)
    assert all(set(coverage) <= set(lines[name]) for name, coverage in coverages.items())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(coverages)


def test_line_styles_are_distinct_for_the_classes_of_camvid():
    assert len(set(plots.LINE_STYLES[:CAMVID])) == CAMVID
