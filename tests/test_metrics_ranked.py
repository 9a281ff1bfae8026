"""Average precision of objects ranked by confidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import precision_recall_curve

from pipeline.metrics import RankedObjects, average_precision, rank_objects


def image(confidences, hits, true):
    return RankedObjects(np.array(confidences, dtype=float), np.array(hits, dtype=bool), true)


IMAGES = st.lists(
    st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.booleans()), max_size=5).flatmap(
        lambda objects: st.builds(
            image,
            st.just([confidence for confidence, _ in objects]),
            st.just([hit for _, hit in objects]),
            st.integers(sum(hit for _, hit in objects), sum(hit for _, hit in objects) + 2),
        )
    ),
    min_size=1,
    max_size=5,
).filter(lambda images: sum(each.num_true for each in images) > 0)


def by_definition(images):
    """Area under the precision-recall curve over all confidences, with non-increasing precision."""
    objects = [pair for each in images for pair in zip(each.confidences, each.true_positive, strict=True)]
    true = sum(each.num_true for each in images)
    points = []
    for least in sorted({confidence for confidence, _ in objects}, reverse=True):
        kept = [hit for confidence, hit in objects if confidence >= least]
        points.append((sum(kept) / true, sum(kept) / len(kept)))
    area, last = 0.0, 0.0
    for recall, _ in points:
        area += (recall - last) * max(precision for other, precision in points if other >= recall)
        last = recall
    return area


def test_average_precision_of_a_hit_a_miss_and_a_hit_by_hand():
    # precision 1, 1/2, 2/3 at recall 1/4, 1/4, 2/4: from recall 1/4 on, the maximum precision is 2/3.
    images = [image([0.9, 0.8], [True, False], 3), image([0.7], [True], 1)]
    assert average_precision(images) == pytest.approx(1 / 4 * 1 + 1 / 4 * 2 / 3)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(IMAGES)
def test_average_precision_equals_its_definition(images):
    assert average_precision(images) == pytest.approx(by_definition(images))


@settings(max_examples=100, deadline=None)
@given(IMAGES, st.randoms())
def test_average_precision_does_not_depend_on_image_order_or_confidence_scale(images, random):
    shuffled = random.sample(images, len(images))
    scaled = [each._replace(confidences=each.confidences**3 / 2) for each in shuffled]
    assert average_precision(scaled) == pytest.approx(average_precision(images))


@settings(max_examples=100, deadline=None)
@given(IMAGES)
def test_without_missed_objects_average_precision_is_at_least_scikit_learns(images):
    # scikit-learn's recall is relative to the predicted objects, and its precision is not made non-increasing.
    images = [each._replace(num_true=int(each.true_positive.sum())) for each in images]
    if not any(each.num_true for each in images):
        return
    hits, confidences = (
        np.concatenate([getattr(each, part) for each in images]) for part in ("true_positive", "confidences")
    )
    precision, recall, _ = precision_recall_curve(hits, confidences)
    ours = average_precision(images)
    assert ours >= -np.sum(np.diff(recall) * precision[:-1]) - 1e-12
    assert ours == pytest.approx(-np.sum(np.diff(recall) * np.maximum.accumulate(precision[:-1])))


def test_a_perfect_prediction_scores_1_and_an_empty_one_0():
    assert average_precision([image([0.9, 0.1], [True, True], 2)]) == 1
    assert average_precision([image([0.9, 0.1], [False, False], 2)]) == 0
    assert average_precision([image([], [], 2)]) == 0


def test_without_true_objects_average_precision_is_nan():
    assert np.isnan(average_precision([image([0.9], [False], 0)]))


# Which objects are hits.


def test_the_most_confident_prediction_matches_the_true_object():
    iou = np.array([[0.7], [0.9]])  # two predictions of one true object
    assert rank_objects(iou, np.array([0.8, 0.6]), 0.6).true_positive.tolist() == [True, False]
    assert rank_objects(iou, np.array([0.6, 0.8]), 0.6).true_positive.tolist() == [False, True]


def test_a_second_prediction_matches_an_unmatched_object_only():
    iou = np.array([[0.9, 0.7], [0.8, 0.1]])  # the first takes its best, and the second has no other
    assert rank_objects(iou, np.array([0.9, 0.5]), 0.6).true_positive.tolist() == [True, False]
    assert rank_objects(iou[:, ::-1], np.array([0.5, 0.9]), 0.6).true_positive.tolist() == [True, True]


def test_an_iou_equal_to_the_threshold_is_not_a_hit():
    assert rank_objects(np.array([[0.6]]), np.array([1.0]), 0.6).true_positive.tolist() == [False]
    assert rank_objects(np.array([[0.6001]]), np.array([1.0]), 0.6).true_positive.tolist() == [True]


def test_an_image_without_true_objects_has_no_hits():
    assert rank_objects(np.zeros((2, 0)), np.array([0.5, 0.6]), 0.6) == (
        pytest.approx([0.5, 0.6]),
        pytest.approx([0, 0]),
        0,
    )


IOU = 0.6001  # no box of whole pixels has exactly this IoU, which is a hit for COCO only


def boxes(rng, count):
    """Left, top, width, height."""
    return np.concatenate([rng.integers(0, 20, (count, 2)), rng.integers(8, 16, (count, 2))], axis=1).astype(float)


def iou_of(one, other):
    """Of each box with each, (N, M)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum((one[:, :2] + one[:, 2:])[:, None], (other[:, :2] + other[:, 2:])[None])
    shared = (high - low).clip(0).prod(axis=2)
    return shared / (one[:, 2:].prod(axis=1)[:, None] + other[:, 2:].prod(axis=1) - shared)


def of_coco(images, threshold):
    """COCO's own average precision at an IoU, of (boxes, confidences, true boxes) each."""
    coco, found = COCO(), []
    coco.dataset = {"images": [], "annotations": [], "categories": [{"id": 1}], "info": {}}
    for number, (ours, confidences, true) in enumerate(images, start=1):
        coco.dataset["images"].append({"id": number})
        for box in true.tolist():
            place = len(coco.dataset["annotations"]) + 1
            area = box[2] * box[3]
            coco.dataset["annotations"].append(
                {"id": place, "image_id": number, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0}
            )
        pairs = zip(ours.tolist(), confidences.tolist(), strict=True)
        found += [{"image_id": number, "category_id": 1, "bbox": box, "score": score} for box, score in pairs]
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.params.iouThrs = np.array([threshold])
    evaluation.evaluate()
    evaluation.accumulate()
    return float(evaluation.eval["precision"][0, :, 0, 0, -1].mean())


@pytest.mark.parametrize("seed", range(10))
def test_average_precision_equals_that_of_coco_up_to_its_101_points(seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(6):
        true = boxes(rng, rng.integers(1, 6))
        near = true + rng.integers(-2, 3, true.shape)
        ours = np.concatenate([near, boxes(rng, 3)])
        images.append((ours, rng.uniform(size=len(ours)), true))
    ranked = [rank_objects(iou_of(ours, true), confidences, IOU) for ours, confidences, true in images]
    # COCO takes the mean of 101 points of a curve that falls from 1 to 0 at most: the area differs by less than 1/100.
    assert average_precision(ranked) == pytest.approx(of_coco(images, IOU), abs=0.01)


def test_an_iou_equal_to_the_threshold_is_a_hit_for_coco_only():
    true, ours = np.array([[0.0, 0, 4, 4]]), np.array([[0.0, 0, 4, 2]])
    assert iou_of(ours, true).tolist() == [[0.5]]
    assert of_coco([(ours, np.ones(1), true)], 0.5) == pytest.approx(1)
    assert average_precision([rank_objects(iou_of(ours, true), np.ones(1), 0.5)]) == 0
