"""A setting is declared once; the check, the option and the command are made from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest
import typer

from masactrl.cli.declared import Given, only, takes, without
from masactrl.errors import ConfigError
from masactrl.rerun.command_line import declared_flags, declared_options
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.request import GenerateRequest
from masactrl.settings.checks import settle
from masactrl.settings.declare import Setting, check, settings_of


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request of its own."""

    word: Annotated[str, Setting(help="A word.", argument=True, metavar="WORD")]
    count: Annotated[int, Setting(help="How many.", low=1, high=9, multiple=2)] = 2
    share: Annotated[float | None, Setting(help="A share.", above=0, high=1, usual="all")] = None
    kind: Annotated[Literal["a", "b"], Setting(help="Which.")] = "a"
    loud: Annotated[bool, Setting(help="Loud.", switch="loud/quiet")] = True
    names: Annotated[tuple[str, ...], Setting(help="Names.", flag="name", usual="none")] = ()
    inner: Annotated[int, Setting(help="No word for it.", flag="")] = 0
    plain: int = 0

    def __post_init__(self) -> None:
        settle(self)
        check(self)


def test_declarations_are_read_in_their_order_with_type_and_default() -> None:
    found = settings_of(Asked)
    assert list(found) == ["word", "count", "share", "kind", "loud", "names", "inner"]
    assert (found["share"].kind, found["share"].optional) == (float, True)
    assert (found["count"].kind, found["count"].optional) == (int, False)
    assert found["kind"].choices == ("a", "b")
    assert found["names"].flag == "name"
    assert found["count"].default == 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"count": 0}, "count=0 was given; accepted is 1 to 9 in multiples of 2."),
        ({"count": 3}, "count=3 was given"),
        ({"count": "x"}, "count='x' was given; accepted are whole numbers"),
        ({"share": 0.0}, "share=0.0 was given; accepted is above 0 to 1."),
        ({"share": 2}, "accepted is above 0 to 1"),
        ({"kind": "c"}, "kind='c' was given; accepted are a, b."),
        ({"plain": 1.5}, "plain=1.5 was given; accepted are whole numbers"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_the_bounds(
    values: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Asked(word="w", **values)
    assert says in str(caught.value)


def command_of(*parts: Any) -> tuple[Any, list[Given]]:
    seen: list[Given] = []
    app = typer.Typer(add_completion=False)

    @app.command()
    @takes(*parts)
    def run(given: Given, own: Annotated[int, typer.Option(help="Own.")] = 3) -> None:
        """Run."""
        assert own == 3
        seen.append(given)

    return typer.main.get_command(app), seen


def test_a_command_has_the_options_and_builds_the_request() -> None:
    command, seen = command_of(Asked)
    options = {"/".join([*one.opts, *one.secondary_opts]): one for one in command.params}
    assert set(options) >= {"word", "--count", "--share", "--kind", "--loud/--quiet", "--name"}
    assert "--inner" not in options
    assert options["--share"].show_default == "all"
    command.main(["w"], standalone_mode=False)
    assert seen[-1].build(Asked) == Asked(word="w")
    words = ["w", "--count", "4", "--share", "0.5", "--kind", "b", "--quiet", "--name", "x"]
    command.main([*words, "--name", "y"], standalone_mode=False)
    asked = Asked(word="w", count=4, share=0.5, kind="b", loud=False, names=("x", "y"))
    assert seen[-1].build(Asked) == asked
    assert seen[-1].build(Asked, count=6).count == 6
    assert seen[-1]["count"] == 4


def test_a_command_may_take_a_part() -> None:
    command, seen = command_of(only(Asked, "count"))
    assert [one.name for one in command.params] == ["count", "own"]
    command.main(["--count", "8"], standalone_mode=False)
    assert seen[-1].values(Asked) == {"count": 8}
    command, _ = command_of(without(Asked, "word", "names"))
    assert "name" not in [one.name for one in command.params]
    with pytest.raises(KeyError):
        command_of(only(Asked, "nothing"))


def test_a_request_is_written_as_the_words_that_make_it_again() -> None:
    command, seen = command_of(Asked)
    for asked in (
        Asked(word="w"),
        Asked(word="w", count=6, share=0.25, kind="b", loud=False, names=("x y", "z")),
    ):
        words = [part for flag, text in declared_options(asked) for part in (f"--{flag}", text)]
        command.main(["w", *words, *declared_flags(asked)], standalone_mode=False)
        assert seen[-1].build(Asked) == asked
    assert declared_options(Asked(word="w")) == []


@pytest.mark.parametrize("owner", [GenerateRequest, EditRequest, InversionRequest, ModelSpec])
def test_every_setting_of_a_request_is_declared(owner: type) -> None:
    inside = {"masks", "layouts", "half"}  # composed on the command line, and of Python alone
    assert {one.name for one in fields(owner)} - set(settings_of(owner)) <= inside
    for declared in settings_of(owner).values():
        assert declared.setting.help.endswith("."), declared.name
        # None stands for the usual; the command line says what that is.
        if declared.default is None and declared.flag:
            assert declared.setting.usual, declared.name
