"""Whose a stem is does not depend on how little is kept of it."""

from collections.abc import Iterable

from hypothesis import example, given
from hypothesis import strategies as st

from emcfsys_engine.images.output_names import keys_of
from emcfsys_engine.images.stems import Owner, Stems

_TAKEN = st.tuples(
    st.sampled_from(["/in/a.tif", "/in/b.tif", "/in/c.tif"]),
    st.sampled_from([None, 0, 1]),
    st.integers(1, 2),
    st.sampled_from(["a", "A", "b", "a.overlay", "sub/a", "x" * 200]),
)


def _all_kept(
    taken: Iterable[tuple[str, int | None, int, str]],
) -> tuple[dict[Owner, str], dict[str, str], dict[str, Owner]]:
    """Return the same by tables that keep everything: stems, owners of keys, owners of stems."""
    stems: dict[Owner, str] = {}
    images: dict[str, str] = {}
    owners: dict[str, Owner] = {}
    for image, plane, version, stem in taken:
        stems[image, plane, version] = stem
        owners[stem] = (image, plane, version)
        images |= dict.fromkeys(keys_of(stem), image)
    return stems, images, owners


@given(st.lists(_TAKEN, max_size=8))
@example([(f"/in/{image}.tif", None, 1, stem) for image, stem in ("aa", "ab", "bb", "ba")])
def test_stems_are_those_of_tables_that_keep_everything(
    taken: list[tuple[str, int | None, int, str]],
) -> None:
    found = Stems()
    for image, plane, version, stem in taken:
        found.take(image, plane, version, stem)
    stems, images, owners = _all_kept(taken)
    assert dict(found.items()) == stems
    for image, plane, version, stem in taken:
        assert found.of(image, plane, version) == stems[image, plane, version]
        assert found.owner_of(stem) == owners[stem]
        mine = [one for i, _, v, one in taken if (i, v) == (image, version)]
        assert set(found.all_of(image, version)) == set(mine)
        newest = max(v for i, p, v, _ in taken if (i, p) == (image, plane))
        assert found.newest_of(image, plane) == newest
        for asker in ("/in/a.tif", "/in/z.tif"):
            free = all(images.get(key, asker) == asker for key in keys_of(stem))
            assert found.is_free(stem, asker) == free
