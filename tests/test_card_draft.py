"""A drafted card: what it finds in the files of the sixteen competitions, and in folders of other forms."""

import pytest

from pipeline import competition
from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from pipeline.card_draft.text import to_toml
from tests.card_drafts import compare
from tests.miniatures import LAYOUTS, write_miniature

MIN_SHARE = 0.9  # of all keys of all cards


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory):
    """The folder of each competition, without its solution, which Kaggle does not publish."""
    folders = {}
    for slug in LAYOUTS:
        folders[slug] = tmp_path_factory.mktemp("mini")
        write_miniature(slug, folders[slug])
        (folders[slug] / "solution.csv").unlink()
    return folders


def compared(miniatures, *, with_metric):
    """Every key of every card, by the competition's name."""
    found = {}
    for slug, root in miniatures.items():
        name = slug.partition(",")[0]
        card = competition.load(name)
        draft = draft_card(list_files(root), name, card.metric if with_metric else "")
        found[slug] = list(compare(draft, card, root))
    return found


@pytest.mark.parametrize("with_metric", [True, False])
def test_nine_of_ten_keys_are_those_of_the_cards_by_hand_and_the_wrong_ones_are_marked(miniatures, with_metric):
    """Left out are the keys of `UNSEEN` in tests/card_drafts.py, which no file shows."""
    found = compared(miniatures, with_metric=with_metric)
    keys = [key for each in found.values() for key in each]
    share = sum(key.is_equal for key in keys) / len(keys)
    print(f"{sum(key.is_equal for key in keys)} of {len(keys)} keys: {share:.1%}")
    wrong = {slug: [key for key in each if not key.is_equal] for slug, each in found.items()}
    assert not [(slug, key.name) for slug, each in wrong.items() for key in each if not key.is_marked]
    assert share >= MIN_SHARE, {slug: [key.name for key in each] for slug, each in wrong.items() if each}


@pytest.mark.parametrize("slug", LAYOUTS)
@pytest.mark.parametrize("with_metric", [True, False])
def test_a_drafted_text_loads_as_the_card_that_it_describes(miniatures, tmp_path, slug, with_metric):
    name = slug.partition(",")[0]
    draft = draft_card(list_files(miniatures[slug]), name, competition.load(name).metric if with_metric else "")
    path = tmp_path / "card.toml"
    path.write_text(to_toml(draft, "a note"))
    card = competition.load(str(path))
    assert card.name == name
    assert card.columns.id == draft.value("columns.id")
    assert all(key.name in path.read_text() for key in draft.unsure)
