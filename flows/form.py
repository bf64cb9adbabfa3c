"""The run form in Prefect's UI: help texts where the form reads them."""

import inspect
from collections.abc import Callable
from typing import Annotated, TypeVar, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

Function = TypeVar("Function", bound=Callable[..., object])


def documented(function: Function) -> Function:
    """Add the parameters' ``Field(description=...)`` to the docstring, as ``Args:``.

    Prefect draws the form from the docstring and from default values; what ``Annotated`` says it leaves out.
    """
    texts = {
        name: extra.description
        for name, hint in get_type_hints(function, include_extras=True).items()
        if get_origin(hint) is Annotated
        for extra in get_args(hint)
        if isinstance(extra, FieldInfo)
    }
    lines = [f"    {name}: {text}" for name, text in texts.items()]
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
    return function
