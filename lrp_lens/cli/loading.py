"""The model that a command names."""

import warnings
from typing import Any

import torch

from lrp_lens.demo import load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import load_model


def loaded(name: str | None, device: str | None = None, dtype: str | None = None) -> Any:
    """The demo model, or what `load_model` takes; libraries' warnings are silenced.

    Raises:
        InputError: it cannot be loaded, and why.
    """
    options: dict[str, Any] = {"device": device}
    if dtype is not None:
        options["dtype"] = getattr(torch, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return load_demo_model(**options) if name is None else load_model(name, **options)
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            what = "demo model" if name is None else f"model {name!r}"
            raise InputError(f"Cannot load the {what}: {reason}") from error
