"""Hydra's grammar as a search space."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tstune.errors import ConfigError
from tstune.sweeps.space import as_override, grid, number_of_trials, parse_space, split_overrides

# Override -> what Optuna draws from, all values (None without an end of them).
SPACES = {
    "k=1e-4,1e-3": (CategoricalDistribution((1e-4, 1e-3)), (1e-4, 1e-3)),
    "k=choice(4,8,16)": (CategoricalDistribution((4, 8, 16)), (4, 8, 16)),
    "k=choice(3)": (CategoricalDistribution((3,)), (3,)),
    "k=a b,null,true": (CategoricalDistribution(("a b", None, True)), ("a b", None, True)),
    "k='a,b',\"c\"": (CategoricalDistribution(("a,b", "c")), ("a,b", "c")),
    "k=[1h,2h],[8h]": (CategoricalDistribution(('["1h", "2h"]', '["8h"]')), (["1h", "2h"], ["8h"])),
    "k=sort(3,1,2)": (CategoricalDistribution((1, 2, 3)), (1, 2, 3)),
    "k=str(1,2)": (CategoricalDistribution(("1", "2")), ("1", "2")),
    "k=${other},1": (CategoricalDistribution(("${other}", 1)), ("${other}", 1)),
    "k=range(4)": (IntDistribution(0, 3), (0, 1, 2, 3)),
    "k=range(16,129,16)": (IntDistribution(16, 128, step=16), (16, 32, 48, 64, 80, 96, 112, 128)),
    "k=range(10,1,-3)": (IntDistribution(4, 10, step=3), (4, 7, 10)),
    "k=range(0.0,0.5,0.1)": (FloatDistribution(0.0, 0.4, step=0.1), (0.0, 0.1, 0.2, 0.3, 0.4)),
    "k=tag(log,range(1,4))": (IntDistribution(1, 3, log=True), (1, 2, 3)),
    "k=interval(0.0,0.5)": (FloatDistribution(0.0, 0.5), None),
    "k=interval(1,5)": (FloatDistribution(1.0, 5.0), None),
    "k=int(interval(1,5))": (IntDistribution(1, 5), None),
    "k=tag(log,interval(1e-5,1e-2))": (FloatDistribution(1e-5, 1e-2, log=True), None),
    "k=tag(log,int(interval(1,64)))": (IntDistribution(1, 64, log=True), None),
}

REFUSED = {
    "k=glob(*)": "glob() has no meaning here; name the values: k=a,b",
    "k=shuffle(1,2)": "shuffle() has no meaning here",
    "k=tag(fast,choice(a,b))": "unknown tag fast; the only one is log",
    "k=tag(log,choice(1,2))": "tag(log,…) needs an interval() or a range()",
    "k=tag(log,range(1,9,2))": "needs a range of whole numbers in steps of 1",
    "k=tag(log,range(0,9))": "needs numbers above 0",
    "k=tag(log,interval(0,1))": "needs numbers above 0",
    "k=interval(5,1)": "from a lower to a higher number",
    "k=interval(1,1)": "from a lower to a higher number",
    "k=range(1,1)": "holds no value",
    "k=range(1,9,0)": "the step of a range is not 0",
    "k=range(0,1,0.00001)": "100000 values; range() has at most 10000, use interval(0,1)",
    "k=interval(1,2),3": "one kind of sweep for one key",
    "k=1,2,1": "1 stands there twice",
    "k=nan,1": "nan is no number",
    "+k=1,2": "a swept key stands without +, ~ or @",
    "k@p=1,2": "a swept key stands without +, ~ or @",
}

UNREADABLE = ("k=choice(4,8", "k=chioce(4,8)", "k=choice()", "k=tag(log)")

PLAIN = (
    "k=1e-4",
    "k=auto",
    "k='a,b'",
    "k=[1,2]",
    "k={a: 1}",
    "k=%d/%m/%Y %H:%M",
    "k=test (second)",
    "k=",
    "~k",
    "+k=1",
    "group=option",
    "no equals sign",
)


@pytest.mark.parametrize("word", SPACES)
def test_a_sweep_is_this_space(word):
    assert split_overrides([word]) == ([], [word])
    (dimension,) = parse_space([word])
    assert (dimension.key, dimension.distribution, dimension.values) == ("k", *SPACES[word])
    assert list(map(type, dimension.values or ())) == list(map(type, SPACES[word][1] or ())), "1 is not 1.0 or true"


@pytest.mark.parametrize("word", REFUSED)
def test_a_sweep_without_meaning_is_refused(word):
    assert split_overrides([word]) == ([], [word])
    with pytest.raises(ConfigError) as refused:
        parse_space([word])
    assert str(refused.value).startswith(f"{word}: ")
    assert REFUSED[word] in str(refused.value)


@pytest.mark.parametrize("word", UNREADABLE)
def test_what_looks_like_a_sweep_but_cannot_be_read_is_refused(word):
    with pytest.raises(ConfigError, match="cannot be read: ") as refused:
        split_overrides([word])
    assert "choice(a,b), range(start,stop,step), interval(low,high)" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("word", PLAIN)
def test_the_rest_is_plain(word):
    assert split_overrides([word]) == ([word], [])


def test_order_is_kept_and_a_key_is_swept_once():
    assert split_overrides(["a=1", "b=1,2", "c=2", "d=3,4"]) == (["a=1", "c=2"], ["b=1,2", "d=3,4"])
    with pytest.raises(ConfigError, match="b is swept twice"):
        parse_space(["b=1,2", "b=interval(0,1)"])


def test_a_grid_is_a_nested_loop_and_an_interval_has_none():
    space = parse_space(["a=x,y", "b=range(0,3)"])
    assert number_of_trials(space, "grid", None) == number_of_trials(space, "tpe", None) == 6
    assert grid(space) == [{"a": a, "b": b} for a in ("x", "y") for b in (0, 1, 2)]
    space = parse_space(["a=x,y", "b=interval(0,1)"])
    assert number_of_trials(space, "tpe", None) == 20
    with pytest.raises(ConfigError, match=r"b: interval\(0,1\) has no end of values"):
        grid(space)


@pytest.mark.parametrize("word", SPACES)
def test_a_study_proposes_values_of_the_space_and_remembers_them(word):
    (dimension,) = parse_space([word])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    proposed = []
    for _ in range(40):
        trial = study.ask()
        proposed.append(dimension.suggest(trial))
        assert dimension.decode(trial.params["k"]) == proposed[-1]
    if dimension.values is None:
        assert all(dimension.distribution.low <= value <= dimension.distribution.high for value in proposed)
        assert len({type(value) for value in proposed}) == 1
        assert len(set(proposed)) > 4
    else:
        assert all(value in dimension.values for value in proposed), "exactly, not up to rounding"
        assert len({str(value) for value in proposed}) == len(dimension.values)


@pytest.mark.parametrize("value", [None, True, 1, 1e-05, "a: b", "1", "[x]", "%d", "ü'\"\\", ["1h", 2], "on"])
def test_both_managers_read_back_what_a_trial_is_given(value, tmp_path):
    from omegaconf import OmegaConf

    from tstune.config.managers import parse_override, to_hydra

    override = as_override("a.b", value)
    assert OmegaConf.to_container(parse_override(override)) == {"a": {"b": value}}
    assert type(OmegaConf.to_container(parse_override(override))["a"]["b"]) is type(value)
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(to_hydra(override, tmp_path)).value() == value
