"""The same Fireworks run by `rlaunch singleshot --offline` and by `fwrunner`: what do the reports say?

They say the same, but for the differences that a case states.
"""

import pytest

from tests.interop.task_reports import (
    ABSENT,
    FAILED,
    Case,
    Like,
    Outcome,
    act,
    assert_agree,
    explained,
    mended,
    python,
    run_cases,
    script,
    see,
    stored,
)

pytestmark = pytest.mark.interop

CASES = [
    Case("script", [script("echo hello")]),
    Case("script stores", [script("echo out; echo err >&2", store_stdout=True, store_stderr=True)]),
    Case("script list", [script(["true", "exit 0"])]),
    Case("script stops", [script(["true", "exit 3", "true"])]),
    Case("script stores bad rc", [script(["exit 3", "true"], fizzle_bad_rc=False)]),
    Case("script defuses", [script("exit 3", defuse_bad_rc=True), see("late")]),
    Case("script both", [script("exit 3", defuse_bad_rc=True, fizzle_bad_rc=True)],
         differs={"fwaction.stored_data._exception._stacktrace": (
             Like("ValueError: ScriptTask cannot both"), Like("ValueError: ScriptTask: fizzle_bad_rc and"))}),
    Case("script signal", [script("kill -9 $$", fizzle_bad_rc=False)]),
    Case("script files", [script("echo a; echo b >&2", stdout_file="o", stderr_file="e"),
                          script("cat o e", store_stdout=True)]),
    Case("script stdin file", [script("echo in > i"), script("cat", stdin_file="i", store_stdout=True)]),
    Case("script old name", [{"_fw_name": "Script Task", "script": "exit 1"}]),
    Case("script shell", [script("echo ${BASH##*/}", shell_exe="/bin/bash", store_stdout=True)]),
    Case("script global spec", [script("false", use_global_spec=True)],
         {"script": "echo spec", "store_stdout": True}),
    Case("script stdin key", [script("cat", stdin_key="t", store_stdout=True)], {"t": "text"},
         mended(**stored(stdout="text"))),
    Case("script list stores", [script(["echo a", "echo b"], store_stdout=True)],
         differs=mended(stdout="a\nb\n", returncode=0, all_returncodes=[0, 0])),
    Case("script no shell", [script("echo '$HOME'", use_shell=False, store_stdout=True)],
         differs=mended(**stored(stdout="$HOME\n"))),
    Case("script not utf-8", [script(r"printf 'a\377'", store_stdout=True)],
         differs=mended(**stored(stdout="a\ufffd"))),
    Case("py nothing", [python("math.sqrt", args=[4])]),
    Case("py builtin", [python("sorted", args=[[2, 1]], stored_data_varname="s")]),
    Case("py output", [python("math.sqrt", args=[4], outputs=["r"]), see("r")]),
    Case("py inputs", [python("math.pow", args=[2], inputs=["e"], outputs=["r"])], {"e": 3}),
    Case("py kwargs", [python("both.keywords", args=[1], kwargs={"a": 2}, stored_data_varname="s")]),
    Case("py auto kwargs", [python("both.keywords", auto_kwargs=True, a=2, _b=3, stored_data_varname="s")]),
    Case("py several outputs", [python("both.pair", outputs=["a", "b"]), see("a", "b")]),
    Case("py wrong outputs", [python("both.pair", outputs=["a", "b", "c"])],
         differs={"fwaction.stored_data._exception._stacktrace": (
             "AssertionError", "ValueError: PyTask: 3 'outputs' need a list of as many, not (1, 2)")}),
    Case("py tuple", [python("both.pair", outputs=["a"], stored_data_varname="s")]),
    Case("py chunk", [python("both.pair", outputs=["a"], chunk_number=0), see("a")]),
    Case("py chunk value", [python("math.sqrt", args=[4], outputs=["a"], chunk_number=1)]),
    Case("py raises", [act(stored_data={"a": 1}), python("both.boom", args=["no"]), see("late")]),
    Case("py raises details", [python("both.detailed")]),
    Case("py exits", [python("both.leave", args=[0])]),
    Case("py missing", [python("nowhere.f")]),
    Case("py missing input", [python("math.sqrt", inputs=["x"])]),
    Case("py action", [python("both.action", kwargs={"stored_data": {"a": 1}, "exit": True}), see("late")]),
    Case("py nested", [python("both.nested", outputs=["n"])]),
    Case("py dates", [python("both.day", outputs=["d"])]),
    Case("py array", [python("both.array", outputs=["a"])]),
    Case("py numpy number", [python("both.number", outputs=["n"])],
         differs={"fwaction.update_spec.n": ("3", 3)}),
    Case("py text that is a date", [python("both.keywords", args=["20260102T030405"], stored_data_varname="s")],
         differs={"fwaction.stored_data.s": ([["2026-01-02T03:04:05"], {}], [["20260102T030405"], {}])}),
    Case("py no json form", [python("both.nothing_json", stored_data_varname="s")]),
    Case("class", [act(stored_data={"a": 1}), act(stored_data={"a": 2, "b": [1]}), see("x")], {"x": {"y": 1}}),
    Case("class update_spec", [act(update_spec={"x": 1}), see("x"), act(update_spec={"x": 2}), see("x")]),
    Case("class mod_spec", [act(mod_spec={"_push": {"x": 1}}), act(mod_spec=[{"_inc": {"n": 2}}]), see("x", "n")],
         {"x": [0], "n": 1}),
    Case("class bad mod_spec", [act(mod_spec=[{"_unset": {"x": 1}}])],
         differs=explained("task 1 of 1 ({{both.Act}}): its mod_spec fails: _unset of 'x': no such key",
                           act(mod_spec=[{"_unset": {"x": 1}}]))),
    Case("class unknown verb", [act(mod_spec=[{"$set": {"x": 1}}])],
         differs=explained("task 1 of 1 ({{both.Act}}): its mod_spec fails: '$set' is not a modifier",
                           act(mod_spec=[{"$set": {"x": 1}}]))),
    Case("class _pull_all", [act(mod_spec=[{"_pull_all": {"x": [1, 3]}}]), see("x")], {"x": [1, 2, 3]},
         {"state": ("FIZZLED", "COMPLETED"), "fwaction.exit": (True, False),
          "fwaction.stored_data": (FAILED, {"x": [2]}),
          "fwaction.mod_spec": ([], [{"_pull_all": {"x": [1, 3]}}]),
          "checkpoint._task_n": (0, 1), "checkpoint._all_mod_spec": ([], [{"_pull_all": {"x": [1, 3]}}])}),
    # FireWorks reports the very list that the next task's mod_spec then changes.
    Case("class update then push", [act(update_spec={"x": [1]}), act(mod_spec=[{"_push": {"x": 2}}])],
         differs={"fwaction.update_spec.x": ([1, 2], [1])}),
    Case("class grows", [{"_fw_name": "{{both.Grow}}"}, see("late")]),
    *(Case(f"class {key}", [act(**{key: True}), see("late")])
      for key in ("exit", "defuse_children", "defuse_workflow", "propagate")),
    Case("class short name", [{"_fw_name": "FileWriteTask", "files_to_write": [{"filename": "f", "contents": "x"}]},
                              script("cat f", store_stdout=True)]),
    # FireWorks takes it for no Firework at all, and leaves it RUNNING for ever.
    Case("no tasks", [], differs={"state": (ABSENT, "FIZZLED"), "fwaction": (ABSENT, FAILED)}),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Outcome]]:
    return run_cases(tmp_path_factory.mktemp("against_fireworks"), CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_reports_agree(case: Case, outcomes: dict[str, tuple[Outcome, Outcome]]) -> None:
    assert_agree(case, outcomes[case.name])
