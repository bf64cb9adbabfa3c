"""What each flow would run, and the one error for what it cannot; command lines say the same as the flows' forms."""

import shlex
from pathlib import Path

import pytest

from flows import prepare
from flows.ablations import ablations
from flows.allocation import allocation
from flows.arguments import FLOWS, parse
from flows.evaluate import evaluate
from flows.experiment import command_line
from flows.sparse_to_dense import sparse_to_dense
from flows.tune import tune
from s2d_core.config.compose import load_config
from s2d_core.config.stages import ArmConfig
from s2d_core.errors import CheckpointError, ConfigError, S2DError
from s2d_core.store import Store, write_json

ALL = (sparse_to_dense, ablations, tune, allocation, evaluate)
NO_FORM_ON_A_COMMAND_LINE = {"ablations": {"extra_arms"}}


def prepared(*words: str):  # type: ignore[no-untyped-def]
    """What a command line would run."""
    name, arguments = parse(words)
    parameters = vars(arguments)
    assert parameters.pop("dry_run") is False
    return getattr(prepare, name)(**parameters)


@pytest.mark.parametrize("flow", ALL, ids=lambda flow: flow.name)
def test_a_command_line_has_the_flow_s_parameters_and_its_defaults(flow) -> None:  # type: ignore[no-untyped-def]
    name, arguments = parse([flow.name])
    assert name == flow.name
    form = {key: field.get("default") for key, field in flow.parameters.properties.items()}
    for key in NO_FORM_ON_A_COMMAND_LINE.get(flow.name, set()):
        form.pop(key)
    assert vars(arguments) == form


def test_words_without_a_flow_s_name_are_the_first_flow_s() -> None:
    assert parse(["--recipe", "smoke"])[0] == parse([])[0] == "sparse_to_dense"
    assert list(FLOWS) == [flow.name for flow in ALL]


@pytest.mark.parametrize("flow", ALL, ids=lambda flow: flow.name)
def test_the_command_a_report_shows_runs_the_same_again(flow) -> None:  # type: ignore[no-untyped-def]
    _, arguments = parse([flow.name, "--recipe", "smoke", "--set", "stages.opd.steps=2"])
    parameters = {key: value for key, value in vars(arguments).items() if key != "dry_run"}
    words = command_line(flow.name, **parameters).split()
    assert words[:3] == ["python", "-m", "flows"]
    assert parse(words[3:]) == (flow.name, arguments)


def test_ablations_are_all_the_recipe_s_arms_and_demo_its_default_ones() -> None:
    config = load_config("small_world")
    assert list(prepared("ablations").plan.arms) == list(config.arms)
    assert list(prepared().plan.arms) == list(config.default_arms or ())


def test_an_arm_of_one_s_own_runs_beside_the_others_and_shares_their_stages() -> None:
    own = {"short": ArmConfig.model_validate({"stages": [{"stage": "teacher_rl"}, {"stage": "opd"}]})}
    alone = prepare.ablations("smoke", ["full"], [0], [])
    both = prepare.ablations("smoke", ["full"], [0], [], own)
    assert list(both.plan.arms) == ["full", "short"]
    names = [spec.name for f, spec in both.plan.specs.items() if f not in alone.plan.specs]
    assert sorted(names) == ["evaluate", "opd"]


def test_the_form_of_ablations_knows_what_an_arm_is_made_of() -> None:
    definitions = ablations.parameters.definitions
    assert {"teacher_rl", "warmup", "opd", "student_rl"} <= set(definitions["ArmStage"]["properties"]["stage"]["enum"])
    assert ablations.parameters.properties["extra_arms"]["additionalProperties"]["$ref"] == "#/definitions/ArmConfig"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["ablations", "--arms", "nope"], "nope"),
        (["--expect", "full > fool=holds"], "full > fool"),
        (["ablations", "--arms", "full", "--expect", "full > direct_grpo=holds"], "lacks direct_grpo"),
        (["ablations", "--seeds", "0", "0"], r"seeds = \[0, 0\]"),
        (["tune", "--arms", "nope"], "nope"),
        (["tune", "--factors", "0"], "factors"),
        (["tune", "--trials", "1"], "trials = 1"),
        (["tune", "--seeds", "1", "1"], r"seeds = \[1, 1\]"),
        (["allocation", "--shares", "0.5", "1.5"], r"shares = \[1.5\]"),
        (["allocation", "--shares", "-0.1"], r"shares = \[-0.1\]"),
        (["allocation", "--shares", "nan"], r"shares = \[nan\]"),
        (["allocation", "--shares", "0.5", "0.5"], "shares"),
        (["allocation", "--seeds", "2", "2"], r"seeds = \[2, 2\]"),
        (["allocation", "--upstream", "nope"], "nope"),
        (["allocation", "--label-counts", "1000"], r"label_counts = \[1000\]"),
        (["evaluate"], "at least one"),
        (["evaluate", "--arms", "nope"], "nope"),
        (["evaluate", "--checkpoints", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_what_cannot_be_run_is_one_error_naming_it(words: list[str], named: str) -> None:
    with pytest.raises(S2DError, match=named) as caught:
        prepared(*words, "--recipe", "smoke")
    assert len(str(caught.value).splitlines()) == 1


def test_expectations_are_read_from_the_command_line_and_shown_in_the_report_s_command() -> None:
    expect = {"full > direct_grpo": "does not hold"}
    _, arguments = parse(["--expect", "full > direct_grpo=does not hold"])
    assert arguments.expect == expect
    words = shlex.split(command_line("sparse_to_dense", recipe="smoke", expect=expect))
    assert parse(words[3:])[1].expect == expect


@pytest.mark.parametrize("word", ["full > direct_grpo", "full > direct_grpo=maybe", "=holds"])
def test_an_expectation_that_names_no_verdict_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--expect", word])
    assert "does not hold" in capsys.readouterr().err


def test_an_extra_arm_cannot_take_the_name_of_another() -> None:
    own = {"full": ArmConfig.model_validate({"stages": [{"stage": "student_rl"}]})}
    with pytest.raises(ConfigError, match="full"):
        prepare.ablations("smoke", None, [0], [], own)


def test_an_arm_that_is_not_finished_cannot_be_evaluated(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'direct_grpo', seed 3: not finished .*student_rl-"):
        prepared(
            "evaluate", "--recipe", "smoke", "--arms", "direct_grpo", "--seeds", "3", "--set", f"store={tmp_path / 's'}"
        )
    assert not (tmp_path / "s").exists()


def test_a_store_of_another_version_is_one_error_naming_it_and_loses_nothing(tmp_path: Path) -> None:
    from tasks.planning import reasons

    found = prepared("ablations", "--recipe", "smoke", "--arms", "direct_grpo", "--set", f"store={tmp_path}")
    spec = next(iter(found.plan.specs.values()))
    manifest = Store(tmp_path).begin(spec) / "manifest.json"
    write_json(manifest, {"format": 999, "result": {"of": "the future"}})
    before = manifest.read_bytes()
    with pytest.raises(CheckpointError, match="999") as caught:
        reasons(found.plan, Store(tmp_path))
    assert str(manifest) in str(caught.value)
    assert manifest.read_bytes() == before
