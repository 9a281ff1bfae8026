"""The fingerprint in words, as a table to print."""

from collections.abc import Mapping

from pipeline.planning.fingerprint import Fingerprint, Quantiles


def fingerprint_rows(found: Fingerprint) -> list[dict[str, str]]:
    """A row for each thing that was measured: its name, and its value in words."""
    rows = {
        "images": f"{found.images:,} training, {found.test_images:,} test; {found.decoded} decoded",
        "groups": f"{found.groups:,}, the largest of {found.largest_group:,} images",
        "near-duplicates": "not searched" if found.near_duplicates is None else f"pairs: {found.near_duplicates:,}",
        "sizes": f"{found.sizes} in the training set",
        "shorter side": _quantiles(found.shorter),
        "longer side": _quantiles(found.longer),
        "shorter side, test": _quantiles(found.test_shorter),
        "longer side, test": _quantiles(found.test_longer),
        "values": f"{found.dtype}, {_range(found.values)}; masked pixels {_range(found.masked_values)}",
        "lowest, per image": _quantiles(found.lowest),
        "highest, per image": _quantiles(found.highest),
        "channels": f"{found.channels}, equal in {found.equal_channels:.0%} of the images",
        "not finite": f"{found.nonfinite:.0%} of the images",
        "empty": f"{found.empty:.1%} of the images",
        "coverage": _quantiles(found.coverage),
        **{
            f"class {each.name}": f"in {each.images:.1%} of the images, {each.pixels:.2%} of the pixels"
            for each in found.classes
        },
        "objects, per image": _quantiles(found.objects),
        "object diameter": _quantiles(found.diameter),
        "object extent": _quantiles(found.extent),
        "mask thickness": _quantiles(found.thickness),
        "touching": "no instances" if found.touching is None else f"{found.touching:.0%} of the objects",
        "neighbours": _neighbours(found),
        "symmetries": _symmetries(found),
        "test against train": _shift(found),
        **{f"column {name}": count_words(counts) for name, counts in found.columns},
    }
    return [{"measured": name, "value": value} for name, value in rows.items()]


def count_words(counts: Mapping[str, int]) -> str:
    """How many images have each value, such as "stained (107), fluorescence (540)"."""
    return ", ".join(f"{value} ({count:,})" for value, count in counts.items())


def _range(values: tuple[float, float] | None) -> str:
    return "none" if values is None else f"{values[0]:.4g} to {values[1]:.4g}"


def _quantiles(found: Quantiles | None) -> str:
    if found is None:
        return "none"
    if found.smallest == found.largest:
        return f"{found.median:.4g}"
    middle = f"{found.median:.4g} (median), {found.q10:.4g} to {found.q90:.4g} (10 % to 90 %)"
    return f"{middle}, {found.smallest:.4g} to {found.largest:.4g} (all)"


def _neighbours(found: Fingerprint) -> str:
    near = found.neighbours
    if near is None:
        return "no series of slices"
    overlap = "" if near.overlap is None else f", masks overlap by {near.overlap:.2f} (Dice)"
    return f"{near.series} series of {near.slices:.4g} slices (median), correlation {near.correlation:.2f}{overlap}"


def _symmetries(found: Fingerprint) -> str:
    if found.symmetries is None:
        return f"not known: {found.symmetries_of}, too few"
    return f"{', '.join(found.symmetries) or 'none'} (of {found.symmetries_of})"


def _shift(found: Fingerprint) -> str:
    if found.shift is None:
        return "not compared: too few independent images"
    differ = f"differ: {', '.join(found.shift.differences)}" if found.shift.differ else "no difference found"
    return f"AUC {found.shift.auc:.2f}, {differ}"
