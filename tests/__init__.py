from tests import type_checks  # noqa: F401  (pyproject.toml names it, and jaxtyping imports the package only)
