"""What every part of the configuration is made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def later(default: Any, **constraints: Any) -> Any:
    """A field younger than finished results: at its default it is left out of what is written, and of fingerprints."""
    return Field(default, exclude_if=lambda value: value == default, **constraints)
