"""Flows for people who use Prefect's UI: help texts where its form reads them, wrong values refused in one line."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from prefect import get_run_logger
from prefect.states import Failed, State
from pydantic.fields import FieldInfo

from s2d_core.errors import S2DError

Parameters = ParamSpec("Parameters")
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


def refusing(function: Callable[Parameters, State[Any]]) -> Callable[Parameters, State[Any]]:
    """An error that says what to do ends the flow run as it stands; a traceback would only hide it."""

    @functools.wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> State[Any]:
        try:
            return function(*args, **kwargs)
        except S2DError as error:
            get_run_logger().error("%s", error)
            return Failed(message=str(error), data=error)

    return run
