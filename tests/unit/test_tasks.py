"""Firetasks and their results: parameters, defaults and failures as FireWorks has them."""

import json
import os
import signal
import sys
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest

from fwrunner.action import Fault, apply_mods, read_action
from fwrunner.protocol.action import EMPTY
from fwrunner.tasks import canonical, child, load

TASKS_OF_A_USER = """
    calls = []

    class Plain:
        def __init__(self, a, b=2):
            self.a, self.b = a, b
        def run_task(self, spec):
            return {"stored_data": {"a": self.a, "b": self.b, "x": spec["x"]}}

    class Dict(dict):
        def run_task(self, spec):
            return {"stored_data": {"a": self["a"], "b": self.get("b", 2), "x": spec["x"]}}

    class Revived:
        @classmethod
        def from_dict(cls, task):
            self = cls()
            self.task = task
            return self
        def run_task(self, spec):
            return {"stored_data": {"a": self.task["a"], "b": self.task["_fw_name"], "x": spec["x"]}}

    class NoTask:
        pass

    def keywords(*args, **kwargs):
        return [list(args), kwargs]

    def identity(x):
        return x
"""


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch):
    (tmp_path / "users_tasks.py").write_text(textwrap.dedent(TASKS_OF_A_USER))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("users_tasks", None)


def run(name: str, spec: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    """Run a task; return what differs from an empty action."""
    action = read_action(load({"_fw_name": name, **parameters})(spec or {}))
    return {key: value for key, value in action.items() if value != EMPTY[key]}


def script(script: Any, spec: dict[str, Any] | None = None, **parameters: Any) -> Any:
    return run("ScriptTask", spec, script=script, **parameters)["stored_data"]


def python(func: str, spec: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    return run("PyTask", spec, func=func, **parameters)


OK = {"returncode": 0, "all_returncodes": [0]}


class TestScriptTask:
    def test_stores_return_codes_only(self, capfd):
        assert script("echo out; echo err >&2") == OK
        assert capfd.readouterr() == ("out\n", "err\n")

    def test_old_name(self):
        task = {"_fw_name": "Script Task", "script": "true"}
        assert canonical(task)["_fw_name"] == "ScriptTask"
        assert load(task)({})

    def test_stores_output(self, capfd):
        stored = script("echo out; echo err >&2", store_stdout=True, store_stderr=True)
        assert stored == {"stdout": "out\n", "stderr": "err\n", **OK}
        assert capfd.readouterr() == ("", "")

    def test_a_list_of_commands_stores_the_output_of_all(self, workdir):
        stored = script(["echo a", "echo b"], store_stdout=True, stdout_file="out.txt")
        assert stored == {"stdout": "a\nb\n", "returncode": 0, "all_returncodes": [0, 0]}
        assert (workdir / "out.txt").read_text() == "a\nb\n"

    def test_files_are_appended_to(self, workdir):
        (workdir / "out.txt").write_text("before\n")
        assert script("echo a; echo b >&2", stdout_file="out.txt", stderr_file="err.txt") == OK
        assert (workdir / "out.txt").read_text() == "before\na\n"
        assert (workdir / "err.txt").read_text() == "b\n"

    def test_output_need_not_be_utf8(self, workdir):
        stored = script(r"printf 'a\377b'", store_stdout=True, stdout_file="raw")
        assert stored["stdout"] == "a\ufffdb"
        assert (workdir / "raw").read_bytes() == b"a\xffb"

    def test_a_bad_return_code_fizzles_and_stops(self, workdir):
        with pytest.raises(RuntimeError, match=r"ScriptTask fizzled! Return code: \[0, 3\]"):
            script(["true", "exit 3", "touch late"])
        assert not (workdir / "late").exists()

    def test_output_is_in_the_file_also_when_it_fizzles(self, workdir):
        with pytest.raises(RuntimeError):
            script("echo why; exit 1", store_stdout=True, stdout_file="out.txt")
        assert (workdir / "out.txt").read_text() == "why\n"

    def test_a_bad_return_code_may_be_stored(self):
        stored = script(["true", "exit 3", "true"], fizzle_bad_rc=False)
        assert stored == {"returncode": 3, "all_returncodes": [0, 3]}

    def test_a_bad_return_code_may_defuse(self):
        action = run("ScriptTask", script="exit 4", defuse_bad_rc=True)
        stored = {"returncode": 4, "all_returncodes": [4]}
        assert action == {"stored_data": stored, "defuse_children": True}
        assert run("ScriptTask", script="true", defuse_bad_rc=True) == {"stored_data": OK}

    def test_both_are_refused(self):
        with pytest.raises(ValueError, match="exclude"):
            script("true", defuse_bad_rc=True, fizzle_bad_rc=True)

    def test_a_signal_is_a_negative_code(self):
        assert script("kill -9 $$", fizzle_bad_rc=False)["returncode"] == -9

    def test_stdin(self, workdir):
        (workdir / "in.txt").write_text("one\ntwo\n")
        assert script("cat", stdin_file="in.txt", store_stdout=True)["stdout"] == "one\ntwo\n"
        for text in ("größe", "größe".encode()):
            stored = script("cat", {"text": text}, stdin_key="text", store_stdout=True)
            assert stored["stdout"] == "größe"
        with pytest.raises(ValueError, match="exclude"):
            script("cat", {"text": ""}, stdin_file="in.txt", stdin_key="text")
        with pytest.raises(KeyError, match="text"):
            script("cat", stdin_key="text")

    def test_shells(self):
        assert (
            script("echo ${BASH##*/}", shell_exe="/bin/bash", store_stdout=True)["stdout"]
            == "bash\n"
        )
        stored = script("echo '$HOME  x' ;", use_shell=False, store_stdout=True)
        assert stored["stdout"] == "$HOME  x ;\n"
        assert (
            script(["echo a", ["echo", "b c"]], use_shell=False, store_stdout=True)["stdout"]
            == "a\nb c\n"
        )
        with pytest.raises(FileNotFoundError):
            script("no-such-command", use_shell=False)

    def test_parameters_from_the_spec(self):
        spec = {"script": "echo spec", "store_stdout": True}
        assert script("exit 9", spec, use_global_spec=True)["stdout"] == "spec\n"

    @pytest.mark.parametrize("bad", [[], 3, None, {}])
    def test_bad_script(self, bad):
        with pytest.raises(ValueError, match="'script' must be"):
            script(bad)

    @pytest.mark.parametrize("options", [{}, {"store_stdout": True}], ids=["spawned", "piped"])
    def test_a_signal_while_a_command_is_being_started_ends_it(self, monkeypatch, options):
        """Its process is there before its caller knows of it."""
        start = child._started
        processes: list[Any] = []

        def started(command, streams):
            processes.append(start(command, streams))
            os.kill(os.getpid(), signal.SIGTERM)
            return processes[0]

        def end(_number, _frame):
            raise KeyboardInterrupt

        monkeypatch.setattr(child, "_started", started)
        before = signal.signal(signal.SIGTERM, end)
        try:
            with pytest.raises(KeyboardInterrupt):
                script("exec sleep 60", **options)
            assert processes[0].returncode == -signal.SIGTERM
        finally:
            signal.signal(signal.SIGTERM, before)
            processes[0].kill()
            processes[0].communicate(None)

    def test_files_and_signals_of_a_command_that_is_spawned(self, tmp_path):
        (tmp_path / "in").write_text("some\n")
        given: dict[str, Any] = {
            "stdin_file": str(tmp_path / "in"),
            "stderr_file": str(tmp_path / "err"),
        }
        found = script("cat >&2; kill -PIPE $$; echo no >&2", fizzle_bad_rc=False, **given)
        assert (
            found["returncode"] == -signal.SIGPIPE
        )  # which Python ignores, but a command must not
        assert (tmp_path / "err").read_text() == "some\n"


class TestPyTask:
    def test_nothing_is_kept_by_default(self):
        assert python("math.sqrt", args=[4]) == {}

    def test_output(self):
        assert python("math.sqrt", args=[4], outputs=["r"]) == {"update_spec": {"r": 2.0}}
        both = python("math.sqrt", args=[4], outputs=["r"], stored_data_varname="s")
        assert both == {"update_spec": {"r": 2.0}, "stored_data": {"s": 2.0}}

    def test_inputs_follow_args(self):
        action = python("math.pow", {"e": 3}, args=[2], inputs=["e"], stored_data_varname="s")
        assert action == {"stored_data": {"s": 8.0}}
        with pytest.raises(KeyError, match="e"):
            python("math.pow", args=[2], inputs=["e"])
        with pytest.raises(TypeError, match="'inputs' must be a list"):
            python("math.pow", {"e": 3}, inputs="e")

    def test_keywords(self):
        function = "users_tasks.keywords"
        kept: Any = {"stored_data_varname": "s"}
        stored = python(function, kwargs={"a": 1}, b=2, **kept)["stored_data"]["s"]
        assert stored == [[], {"a": 1}]
        stored = python(function, args=[0], auto_kwargs=True, kwargs={"a": 1}, b=2, _c=3, **kept)
        assert stored["stored_data"]["s"] == [[0], {"b": 2}]

    def test_builtins(self):
        assert python("sorted", args=[[2, 1]], outputs=["r"]) == {"update_spec": {"r": [1, 2]}}

    def test_several_outputs(self):
        action = python("divmod", args=[7, 2], outputs=["q", "r"])
        assert action == {"update_spec": {"q": 3, "r": 1}}
        for function, args in (("divmod", [7, 2]), ("abs", [1]), ("str", ["abc"])):
            with pytest.raises(ValueError, match="3 'outputs'"):
                python(function, args=args, outputs=["a", "b", "c"])

    def test_chunks(self):
        action = python("divmod", args=[7, 2], outputs=["r"], chunk_number=0)
        assert action == {"mod_spec": [{"_push": {"r": 3}}, {"_push": {"r": 1}}]}
        action = python("abs", args=[-1], outputs=["r"], chunk_number=1)
        assert action == {"mod_spec": [{"_push": {"r": 1}}]}

    def test_an_action_is_used_as_it_is(self, monkeypatch):
        fields = {**EMPTY, "stored_data": {"a": 1}, "exit": True}
        action = SimpleNamespace(**fields)
        monkeypatch.setitem(sys.modules, "maker", SimpleNamespace(make=lambda: action))
        assert python("maker.make", outputs=["x"]) == {"stored_data": {"a": 1}, "exit": True}

    def test_a_dict_is_a_value(self):
        value = {"exit": True}
        action = python("users_tasks.identity", args=[value], outputs=["x"])
        assert action == {"update_spec": {"x": value}}

    @pytest.mark.parametrize(
        ("function", "error"),
        [("nowhere.f", ImportError), ("math.nothing", AttributeError), ("nothing", AttributeError)],
    )
    def test_missing_function(self, function, error):
        with pytest.raises(error):
            python(function)


class TestLoad:
    @pytest.mark.parametrize("name", ["Plain", "Dict"])
    def test_any_class(self, name):
        action = run("{{users_tasks." + name + "}}", {"x": 1}, a=5)
        assert action == {"stored_data": {"a": 5, "b": 2, "x": 1}}

    def test_from_dict_gets_the_whole_object(self):
        action = run("{{ users_tasks.Revived }}", {"x": 1}, a=5)
        assert action == {"stored_data": {"a": 5, "b": "{{ users_tasks.Revived }}", "x": 1}}

    def test_fireworks_own_names_need_no_fireworks(self):
        name = "{{fireworks.user_objects.firetasks.script_task.ScriptTask}}"
        assert run(name, script="true") == {"stored_data": OK}

    @pytest.mark.parametrize(
        ("task", "message"),
        [
            (
                {"_fw_name": "{{users_tasks.Gone}}"},
                "users_tasks.Gone cannot be imported by .*PYTHONPATH",
            ),
            ({"_fw_name": "{{nowhere.Task}}"}, "No module named 'nowhere'"),
            ({"_fw_name": "{{Task}}"}, "Task cannot be imported"),
            ({"_fw_name": "{{users_tasks.NoTask}}"}, r"no method run_task\(spec\)"),
            ({"_fw_name": "PyTask"}, "PyTask needs the parameter 'func'"),
            ({"_fw_name": "ScriptTask"}, "ScriptTask needs the parameter 'script'"),
            ({"_fw_name": 3}, "no object with a '_fw_name'"),
            ({}, "no object with a '_fw_name'"),
            ("ScriptTask", "no object with a '_fw_name'"),
        ],
    )
    def test_refused(self, task, message):
        with pytest.raises(Fault, match=message):
            load(task)

    def test_unknown_short_name(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "fireworks", None)
        with pytest.raises(Fault, match=r"no Firetask is called 'Fancy'.*install FireWorks for"):
            load({"_fw_name": "Fancy"})

    def test_unknown_short_name_where_fireworks_is_installed(self, monkeypatch):
        seen = []

        def load_object(task: Any) -> Any:
            seen.append(task)
            return SimpleNamespace(run_task=lambda spec: None)

        serializers = SimpleNamespace(load_object=load_object)
        monkeypatch.setitem(sys.modules, "fireworks", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "fireworks.utilities", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "fireworks.utilities.fw_serializers", serializers)
        assert run("Fancy", a=1) == {}
        assert seen == [{"_fw_name": "Fancy", "a": 1}]


class FireWorksAction:
    """As FireWorks' FWAction is: attributes, and a dict form."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update({**EMPTY, **given})

    def to_dict(self) -> Any:
        raise AssertionError("the attributes say it all")


class AsDict:
    def __init__(self, form: Any) -> None:
        self.form = form

    def as_dict(self) -> Any:
        return self.form


class TestReadAction:
    @pytest.mark.parametrize("nothing", [None, {}, [], "", 0, False])
    def test_nothing(self, nothing):
        assert read_action(nothing) == EMPTY
        assert read_action(nothing)["stored_data"] is not EMPTY["stored_data"]

    def test_shapes(self):
        want = {**EMPTY, "stored_data": {"a": 1}, "propagate": True}
        given = {"stored_data": {"a": 1}, "propagate": True}
        assert read_action(given) == want
        assert read_action(AsDict(given)) == want
        assert read_action(FireWorksAction(**given)) == want

    def test_single_values_become_lists(self):
        action = read_action(
            {"mod_spec": {"_set": {"a": 1}}, "additions": {"spec": {}}, "detours": None}
        )
        assert action["mod_spec"] == [{"_set": {"a": 1}}]
        assert action["additions"] == [{"spec": {}}]
        assert action["detours"] == []

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (3, "it returned a int, which is no FWAction"),
            ("text", "it returned a str"),
            ([1], "it returned a list"),
            ({"stored_date": {}}, "it returned a dict with 'stored_date', which no FWAction has"),
            (AsDict({"x": 1}), "AsDict with 'x'"),
            (AsDict(3), "AsDict, which is no FWAction"),
            (FireWorksAction, "it returned a type"),
            ({"stored_data": [1]}, "its stored_data is a list, not a dict"),
        ],
    )
    def test_refused(self, result, message):
        with pytest.raises(Fault, match=message):
            read_action(result)


#: spec, mod_spec, the spec afterwards or (what the message has)
MODS: list[tuple[dict[str, Any], Any, Any]] = [
    ({}, {"_set": {"a": 1, "b->c->d": 2, "x.y": 3}}, {"a": 1, "b": {"c": {"d": 2}}, "x.y": 3}),
    ({"a": 1}, {"_set": {"a->b": 1}}, "_set of 'a->b': 'a' is not an object"),
    ({"a": 1, "b": {"c": 2}}, {"_unset": {"a": "", "b->c": ""}}, {"b": {}}),
    ({"a": 1}, {"_unset": ["a"]}, {}),
    ({}, {"_unset": {"a": ""}}, "_unset of 'a': no such key"),
    ({"a": [1]}, {"_push": {"a": 2, "n->b": 3}}, {"a": [1, 2], "n": {"b": [3]}}),
    ({"a": 1}, {"_push": {"a": 2}}, "_push of 'a': the value is not a list"),
    ({"a": [1]}, {"_push_all": {"a": [2, 3], "b": [4], "c": "xy"}}, {"a": [1, 2, 3], "b": [4], "c": "xy"}),
    ({"a": [1]}, {"_push_all": {"a": "xy"}}, {"a": [1, "x", "y"]}),
    ({"a": 1, "s": "x"}, {"_inc": {"a": 2, "s": "y", "new": 5}}, {"a": 3, "s": "xy", "new": 5}),
    ({"a": "x"}, {"_inc": {"a": 2}}, "_inc of 'a': can only concatenate"),
    ({"a": 1}, {"_rename": {"a": "b", "gone": "c"}}, {"b": 1}),
    ({"a": [1]}, {"_add_to_set": {"a": 1}}, {"a": [1]}),
    ({"a": [1]}, {"_add_to_set": {"a": 2, "b": 3}}, {"a": [1, 2], "b": 3}),
    ({"a": 1}, {"_add_to_set": {"a": 2}}, "_add_to_set of 'a': the value is not a list"),
    ({"a": [1, 2, 1]}, {"_pull": {"a": 1, "gone": 1}}, {"a": [2]}),
    ({"a": 1}, {"_pull": {"a": 1}}, "_pull of 'a': the value is not a list"),
    ({"a": [1, 2, 3], "b": {"c": [1]}}, {"_pull_all": {"a": [1, 3], "b->c": [1]}}, {"a": [2], "b": {"c": []}}),
    ({"a": [1, 2, 3]}, {"_pop": {"a": 1}}, {"a": [1, 2]}),
    ({"a": [1, 2, 3]}, {"_pop": {"a": -1}}, {"a": [2, 3]}),
    ({"a": [1]}, {"_pop": {"a": 0, "gone": 0}}, {"a": [1]}),
    ({"a": []}, {"_pop": {"a": 1}}, "_pop of 'a': pop from empty list"),
    ({}, {"_pop": {"a": 1}}, "_pop of 'a': no such key"),
    ({}, {"_set": {"a": 1}, "_inc": {"a": 1}}, {"a": 2}),
    ({}, {"$set": {"a": 1}}, r"'\$set' is not a modifier; known are _add_to_set"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "mod", "after"), MODS)
def test_mods(spec, mod, after):
    spec = json.loads(json.dumps(spec))
    if isinstance(after, str):
        with pytest.raises(Fault, match=after):
            apply_mods(spec, [mod])
    else:
        apply_mods(spec, [mod])
        assert spec == after


def test_mods_do_not_alter_the_mod_spec():
    mods = [{"_push_all": {"a": [1]}}, {"_push": {"a": 2}}]
    spec: dict[str, Any] = {}
    apply_mods(spec, mods)
    assert spec == {"a": [1, 2]}
    assert mods[0] == {"_push_all": {"a": [1]}}
