import json
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_core.data.ledger import LabelLedger
from s2d_core.errors import DataError, LabelBudgetError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stage" / "labels.jsonl"


def test_labels_are_distinct_problems_and_looks_are_all_of_them(path):
    ledger = LabelLedger(path, budget=10)
    ledger.charge("teacher_rl", ["a", "b"], step=1)
    ledger.charge("teacher_rl", ["b", "c"], step=2)
    ledger.charge("student_rl", ["a"], step=1)
    assert (ledger.labels, ledger.looks) == (3, 5)


def test_a_reopened_ledger_remembers_and_charging_the_same_step_again_changes_nothing(path):
    LabelLedger(path, budget=10).charge("teacher_rl", ["a", "b"], step=1)
    before = path.read_bytes()
    ledger = LabelLedger(path, budget=10)
    ledger.charge("teacher_rl", ["b", "a"], step=1)
    assert (ledger.labels, ledger.looks) == (2, 2)
    assert path.read_bytes() == before


def test_other_problems_at_a_step_charged_before_are_new_looks(path):
    ledger = LabelLedger(path, budget=10)
    ledger.charge("teacher_rl", ["a", "b"], step=1)
    ledger.charge("teacher_rl", ["b", "c"], step=1)
    assert (ledger.labels, ledger.looks) == (3, 3)


def test_going_over_the_budget_is_refused_before_anything_is_recorded(path):
    ledger = LabelLedger(path, budget=2)
    ledger.charge("teacher_rl", ["a", "b"], step=1)
    before = path.read_bytes()
    with pytest.raises(LabelBudgetError, match=r"needs 3 distinct labels, over the budget of 2 \(2 are spent\)"):
        ledger.charge("student_rl", ["b", "c"], step=1)
    assert path.read_bytes() == before
    assert (ledger.labels, ledger.looks) == (2, 2)
    ledger.charge("student_rl", ["a", "b"], step=2)
    assert (ledger.labels, ledger.looks) == (2, 4)


def test_evaluation_problems_cannot_be_charged(path):
    ledger = LabelLedger(path, budget=10, forbidden={"t1", "t2"})
    with pytest.raises(LabelBudgetError, match=r"1 of the problems are evaluation problems \(t1\)"):
        ledger.charge("teacher_rl", ["a", "t1"], step=1)
    assert (ledger.labels, ledger.looks, path.exists()) == (0, 0, False)


def test_a_torn_last_line_is_forgotten_and_the_next_charge_starts_on_a_line_of_its_own(path):
    LabelLedger(path, budget=10).charge("teacher_rl", ["a"], step=1)
    with path.open("ab") as file:
        file.write(b'{"stage": "teacher_rl", "step": 2, "prob')
    ledger = LabelLedger(path, budget=10)
    assert ledger.looks == 1
    ledger.charge("teacher_rl", ["b"], step=2)
    assert LabelLedger(path, budget=10).looks == 2


def test_damage_before_the_last_line_is_an_error_with_its_line(path):
    LabelLedger(path, budget=10).charge("teacher_rl", ["a"], step=1)
    path.write_bytes(b'{"stage": "x"}\n' + path.read_bytes())
    with pytest.raises(DataError, match="line 1: not a ledger entry"):
        LabelLedger(path, budget=10)


def test_a_charge_survives_the_death_of_its_process(path):
    script = (
        "import os, signal, sys; from s2d_core.data.ledger import LabelLedger\n"
        "LabelLedger(sys.argv[1], 5).charge('teacher_rl', ['a', 'b'], 1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert LabelLedger(path, budget=5).labels == 2


charges = st.lists(st.tuples(st.sampled_from("xy"), st.sets(st.sampled_from("abcdef")), st.integers(0, 2)), max_size=12)


@given(charges)
def test_reopening_at_any_point_and_repeating_everything_gives_the_same_account(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("ledger") / "labels.jsonl"
    for stage, ids, step in made:
        LabelLedger(path, budget=6).charge(stage, ids, step)
    ledger = LabelLedger(path, budget=6)
    account = (ledger.labels, ledger.looks)
    for stage, ids, step in made:
        ledger.charge(stage, ids, step)
    assert (ledger.labels, ledger.looks) == account
    assert ledger.looks == len({(stage, step, name) for stage, ids, step in made for name in ids})


@given(charges, st.floats(0, 1))
def test_a_crash_at_any_byte_charges_nothing_twice_and_forgets_nothing(tmp_path_factory, made, part):
    path = tmp_path_factory.mktemp("ledger") / "labels.jsonl"
    whole = LabelLedger(path, budget=6)
    finished = []  # (bytes on disk once the charge had returned, looks it had brought)
    for stage, ids, step in made:
        whole.charge(stage, ids, step)
        finished.append((path.stat().st_size if path.exists() else 0, whole.looks))
    if not path.exists():
        return
    undisturbed = path.read_bytes()
    crash = round(part * len(undisturbed))
    os.truncate(path, crash)
    resumed = LabelLedger(path, budget=6)
    assert resumed.looks == max((looks for size, looks in finished if size <= crash), default=0)
    for stage, ids, step in made:
        resumed.charge(stage, ids, step)
    assert (resumed.labels, resumed.looks) == (whole.labels, whole.looks)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    looked = [(entry["stage"], entry["step"], name) for entry in entries for name in entry["problems"]]
    assert len(looked) == len(set(looked)) == whole.looks


def test_a_run_killed_between_charges_and_started_over_pays_for_every_step_once(path):
    script = (
        "import sys; from s2d_core.data.ledger import LabelLedger\n"
        "ledger = LabelLedger(sys.argv[1], 10_000)\n"
        "for step in range(5000):\n"
        "    ledger.charge('teacher_rl', [f'{step}-a', f'{step}-b'], step); print(step, flush=True)"
    )
    run = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(run, env=os.environ, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(20):
            told = int(process.stdout.readline())
        process.kill()
    ledger = LabelLedger(path, budget=10_000)
    assert 2 * (told + 1) <= ledger.looks < 10_000
    for step in range(50):
        ledger.charge("teacher_rl", [f"{step}-a", f"{step}-b"], step)
    assert ledger.looks == ledger.labels >= 100
    assert sum(len(json.loads(line)["problems"]) for line in path.read_text().splitlines()) == ledger.looks
