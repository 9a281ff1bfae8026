"""Average precision of objects ranked by confidence.

The oracle `by_tensorflow` follows utils/per_image_evaluation.py and utils/metrics.py of TensorFlow's object detection
API, which evaluates Open Images, in plain loops.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import precision_recall_curve

from pipeline.metrics import RankedObjects, average_precision, mean_average_precision, pairwise_iou, rank_objects


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


def test_a_prediction_matches_the_true_object_of_its_highest_iou_or_none():
    iou = np.array([[0.9, 0.7], [0.8, 0.7]])  # both have the first as their best, though the second is enough
    assert rank_objects(iou, np.array([0.9, 0.5]), 0.6).true_positive.tolist() == [True, False]
    assert rank_objects(iou, np.array([0.5, 0.9]), 0.6).true_positive.tolist() == [False, True]
    assert rank_objects(np.array([[0.9, 0.7], [0.6, 0.7]]), np.array([0.9, 0.5]), 0.6).true_positive.all()


def test_an_iou_equal_to_the_threshold_is_a_hit():
    assert rank_objects(np.array([[0.6]]), np.array([1.0]), 0.6).true_positive.tolist() == [True]
    assert rank_objects(np.array([[0.5999]]), np.array([1.0]), 0.6).true_positive.tolist() == [False]


@pytest.mark.parametrize("twentieths", range(10, 20))
def test_an_iou_of_whole_pixels_equals_its_threshold(twentieths):
    # The quotient of two whole numbers is rounded to the same float as the decimal that the card has.
    shared, union = np.array([[3 * twentieths]]), np.array([60])
    iou = pairwise_iou(shared, union, shared[0])
    assert rank_objects(iou, np.ones(1), float(f"0.{5 * twentieths}")).true_positive.tolist() == [True]


def test_an_image_without_true_objects_has_no_hits():
    assert rank_objects(np.zeros((2, 0)), np.array([0.5, 0.6]), 0.6) == (
        pytest.approx([0.5, 0.6]),
        pytest.approx([0, 0]),
        0,
    )


def boxes(rng, count, side=20):
    """Left, top, width, height."""
    return np.concatenate([rng.integers(0, side, (count, 2)), rng.integers(8, 16, (count, 2))], axis=1).astype(float)


def apart(rng, count):
    """Boxes that do not overlap, in cells of 16×16."""
    cells = rng.choice(9, count, replace=False)
    return boxes(rng, count, side=1) + np.stack([cells % 3, cells // 3, 0 * cells, 0 * cells], axis=1) * 16.0


def iou_of(one, other):
    """Of each box with each, (N, M)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum((one[:, :2] + one[:, 2:])[:, None], (other[:, :2] + other[:, 2:])[None])
    shared = (high - low).clip(0).prod(axis=2)
    return shared / (one[:, 2:].prod(axis=1)[:, None] + other[:, 2:].prod(axis=1) - shared)


def scene(rng, true_boxes):
    """Predicted boxes, their confidences and the true boxes of six images: near ones, and others."""
    images = []
    for _ in range(6):
        true = true_boxes(rng, rng.integers(1, 6))
        near = true[rng.integers(0, len(true), 2 * len(true))]
        ours = np.concatenate([near + rng.integers(-2, 3, near.shape), boxes(rng, 3)])
        images.append((ours, rng.uniform(size=len(ours)), true))
    return images


def by_tensorflow(images, threshold):
    """The area under the curve, one object after the other, for images of IoUs and distinct confidences."""
    objects, num_true = [], 0
    for iou, confidences in images:
        num_true += len(iou[0])
        is_detected = [False] * len(iou[0])
        for confidence, row in sorted(zip(confidences, iou, strict=True), reverse=True):
            best = 0
            for number, value in enumerate(row):
                if value > row[best]:
                    best = number
            is_hit = row[best] >= threshold and not is_detected[best]
            is_detected[best] = is_detected[best] or is_hit
            objects.append((confidence, is_hit))
    precision, recall, hits = [0.0], [0.0], 0
    for number, (_, is_hit) in enumerate(sorted(objects, reverse=True), start=1):
        hits += is_hit
        precision.append(hits / number)
        recall.append(hits / num_true)
    precision.append(0.0)
    recall.append(1.0)
    for place in reversed(range(len(precision) - 1)):
        precision[place] = max(precision[place], precision[place + 1])
    return sum((recall[n] - recall[n - 1]) * precision[n] for n in range(1, len(recall)) if recall[n] != recall[n - 1])


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.75])
def test_average_precision_of_60_scenes_equals_that_of_tensorflows_evaluator(threshold):
    for seed in range(60):
        images = scene(np.random.default_rng(seed), boxes)
        pairs = [(iou_of(ours, true), confidences) for ours, confidences, true in images]
        expected = by_tensorflow([(iou.tolist(), confidences.tolist()) for iou, confidences in pairs], threshold)
        assert mean_average_precision(pairs, [threshold]) == pytest.approx(expected, abs=1e-12)


def test_the_60_scenes_have_equal_ious_and_true_objects_that_compete():
    # Otherwise the test above would pass with another rule too.
    equal, compete = 0, 0
    for seed in range(60):
        for ours, _, true in scene(np.random.default_rng(seed), boxes):
            iou = iou_of(ours, true)
            equal += int((iou == 0.6).sum())
            compete += int(((iou >= 0.6).sum(axis=1) > 1).sum())
    assert equal > 0
    assert compete > 10


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
    # Where true objects do not overlap, COCO's rule for a second match has no effect.
    images = scene(np.random.default_rng(seed), apart)
    ranked = [rank_objects(iou_of(ours, true), confidences, 0.6) for ours, confidences, true in images]
    # COCO takes the mean of 101 points of a curve that falls from 1 to 0 at most: the area differs by less than 1/100.
    assert average_precision(ranked) == pytest.approx(of_coco(images, 0.6), abs=0.01)


def test_an_iou_equal_to_the_threshold_is_a_hit_for_coco_too():
    true, ours = np.array([[0.0, 0, 4, 4]]), np.array([[0.0, 0, 4, 2]])
    assert iou_of(ours, true).tolist() == [[0.5]]
    assert of_coco([(ours, np.ones(1), true)], 0.5) == pytest.approx(1)
    assert average_precision([rank_objects(iou_of(ours, true), np.ones(1), 0.5)]) == 1


def test_coco_lets_a_second_prediction_match_the_next_best_true_object():
    # Two true boxes that overlap by 9 of 11 columns, and a box found twice: here the second is a false positive.
    true, ours = np.array([[0.0, 0, 10, 10], [1, 0, 10, 10]]), np.array([[0.0, 0, 10, 10]] * 2)
    images = [(ours, np.array([0.9, 0.8]), true)]
    assert of_coco(images, 0.6) == pytest.approx(1)
    assert average_precision([rank_objects(iou_of(ours, true), images[0][1], 0.6)]) == 0.5
