"""What the suites of single options share: a project in which pytest runs inside pytest."""

from contextlib import suppress

from inner import path_of_pytester, run_in_project  # noqa: F401 (both are fixtures)

# pytester forgets what an inner run loaded, and what scikit-image needs of numpy loads only once.
with suppress(ImportError):
    from skimage.metrics import structural_similarity  # noqa: F401
