"""Recipe files + the site's file + ``key=value`` overrides → one validated ``Config``, or one error naming every wrong
key."""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from s2d_core.config.checks import check
from s2d_core.config.schema import Config
from s2d_core.config.stages import ArmConfig
from s2d_core.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

RECIPES = Path(__file__).parent / "recipes"
SITE = "S2D_SITE"  # names a YAML file: where and how runs of this machine or cluster are executed
SITE_KEYS = ("store", "launch", "tracking", "training", "rollouts", "verifier")  # how and where, not what


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_config(recipe: str, overrides: Iterable[str] = ()) -> Config:
    """Compose and validate.

    recipe: name of a shipped recipe or path of a YAML file; its ``extends`` key names what it builds on, one
        recipe or a list of them, of which later ones win (``data/...``: parts, of problems alone).
    overrides: ``dotted.key=value`` strings, values in YAML.
    Between the two comes the file that S2D_SITE names, if it does: what a worker says of the place it runs in.
    Raises ConfigError naming each wrong key, its value and what is allowed.
    """
    try:
        merged = _overridden(OmegaConf.merge(_recipe(recipe, seen=()), _site()), overrides)  # type: ignore[arg-type]
        if missing := sorted(OmegaConf.missing_keys(merged)):
            raise ConfigError(f"recipe {recipe!r} leaves {', '.join(missing)} to you: give each as key=value")
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"recipe {recipe!r}: {error}") from error
    config = validate(Config, values)
    check(config)
    return config


def with_arms(config: Config, arms: Mapping[str, ArmConfig]) -> Config:
    """``config`` and further arms. Raises ConfigError where ``load_config`` would, and for a name that is taken."""
    if taken := [name for name in arms if name in config.arms]:
        raise ConfigError(f"arms = {taken}: the recipe has arms of these names; choose others")
    extended = config.model_copy(update={"arms": {**config.arms, **arms}})
    check(extended)
    return extended


def validate(model: type[M], values: Any, prefix: str = "") -> M:
    """``values`` as ``model``; raises ConfigError with one line for each wrong key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, detail, prefix) for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _recipe(name: str, seen: tuple[str, ...]) -> DictConfig:
    if name in seen:
        raise ConfigError(f"recipes extend each other in a circle: {' → '.join((*seen, name))}")
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"recipe = {name!r}: no such recipe; allowed: {', '.join(recipe_names())}, or the path of a YAML file"
        )
    loaded = _mapping(path, "recipe")
    parents = loaded.pop("extends", [])
    names = [parents] if isinstance(parents, str) else parents
    return OmegaConf.merge(*(_recipe(parent, (*seen, name)) for parent in names), loaded)  # type: ignore[return-value]


def _site() -> DictConfig:
    """The site's file; empty where there is none."""
    if not (name := os.environ.get(SITE)):
        return OmegaConf.create()
    if not (path := Path(name)).is_file():
        raise ConfigError(f"{SITE} = {name!r}: no such file; correct the variable, or unset it")
    loaded = _mapping(path, SITE)
    if wrong := [str(key) for key in loaded if key not in SITE_KEYS]:
        raise ConfigError(f"{SITE} {path}: {', '.join(wrong)}: not for a site to say; allowed: {', '.join(SITE_KEYS)}")
    return loaded


def _mapping(path: Path, what: str) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # PyYAML's and OmegaConf's errors have no common base
        raise ConfigError(f"{what} {path}: not valid YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{what} {path}: must be a mapping of configuration keys")
    return loaded


def _overridden(recipe: DictConfig, overrides: Iterable[str]) -> DictConfig:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {override!r}: must read key=value, for example stages.opd.steps=100")
        try:
            recipe.merge_with_dotlist([override])
        except (IndexError, TypeError, ValueError) as error:
            raise ConfigError(f"override {override!r}: no such place in the recipe: {error}") from error
    return recipe


def _explain(model: type[BaseModel], detail: Any, prefix: str) -> str:
    location = [part for part in detail["loc"] if part != "function-after"]
    key = ".".join(str(part) for part in ([prefix, *location] if prefix else location)) or "configuration"
    if detail["type"] == "extra_forbidden":
        allowed = _allowed_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{key} = {detail['input']!r}: unknown key.{hint} Allowed: {', '.join(allowed)}"
    if detail["type"] == "missing":
        return f"{key}: missing; this key is required"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    shown = repr(detail["input"])
    return f"{key} = {shown if len(shown) <= 80 else shown[:77] + '...'}: {message}"


def _allowed_keys(model: type[BaseModel], path: list[Any]) -> list[str]:
    """Field names of the sub-model at ``path``; dictionaries and tuples are looked through."""
    current: Any = model
    for part in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            if part not in current.model_fields:
                return []
            current = current.model_fields[part].annotation
        else:  # an index or a dictionary key: step into the element type
            current = _model_within(current)
            continue
        if _model_within(current) is not None and not _is_container(current):
            current = _model_within(current)
    found = _model_within(current)
    return sorted(found.model_fields) if found else []


def _is_container(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in (dict, list, tuple)


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if (found := _model_within(argument)) is not None:
            return found
    return None
