"""Libraries that were built anew without another version."""

import pytest

from upgrade import unraised


@pytest.fixture
def trees(tmp_path):
    """Return two trees, and what puts a module into one of them."""

    def put(tree, library, module, code):
        path = tree / "lib" / library / "ebin" / f"{module}.beam"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(code)

    return tmp_path / "root", tmp_path / "tree", put


def test_only_a_library_of_the_same_version_with_other_code_is_named(trees):
    root, tree, put = trees
    for folder in (root, tree):
        put(folder, "same-1.0.0", "same", b"code")
    put(root, "raised-1.0.0", "raised", b"old")
    put(tree, "raised-1.1.0", "raised", b"new")
    put(root, "changed-1.0.0", "changed", b"old")
    put(tree, "changed-1.0.0", "changed", b"new")
    put(root, "grown-1.0.0", "grown", b"code")
    put(tree, "grown-1.0.0", "grown", b"code")
    put(tree, "grown-1.0.0", "added", b"code")
    assert unraised.libraries(root, tree) == ("changed-1.0.0", "grown-1.0.0")


def test_a_library_that_was_linked_from_the_other_tree_is_the_same(trees):
    root, tree, put = trees
    put(tree, "linked-1.0.0", "linked", b"code")
    ebin = root / "lib" / "linked-1.0.0" / "ebin"
    ebin.mkdir(parents=True)
    (ebin / "linked.beam").hardlink_to(tree / "lib" / "linked-1.0.0" / "ebin" / "linked.beam")
    assert unraised.libraries(root, tree) == ()
