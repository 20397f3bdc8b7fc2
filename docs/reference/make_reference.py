"""Write commands.md, plan.md and trainer.md from the parsers, the plan's records and the trainer's hooks.

    python docs/reference/make_reference.py

Run it after a change of an option, a field or a hook; tests/contract/test_reference.py fails until it is run.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from siccs_net.augment.settings import AugmentationSettings
from siccs_net.cli.options import EXIT_CODES, new_parser
from siccs_net.records import network, plan
from siccs_net.records.base import Record
from siccs_net.trainers.base import find_trainer
from siccs_net.trainers.config import LossSettings, TrainerConfig
from siccs_net.trainers.hooks import HOOKS, TrainerHooks

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOTE = "<!-- Written by make_reference.py: change the source, then run it. -->\n\n"

COMMANDS = """# Commands

Every option of every command. `siccs_COMMAND --help` says the same, with an example.

"""
PLAN = """# The plan file

`preprocessed/DatasetX/plans/NAME.json` says all that is needed to preprocess, train and predict.
`siccs_plan_and_preprocess` writes it; a copy lies in every model folder as `plan.json`. It is JSON with the fields
below, begins with `"schema"` and `"version"`, and is refused, with the field's name, if one is unknown, missing or does
not fit. Change it through `siccs_plan_and_preprocess --set NAME=VALUE`, which checks the result and notes `user` in
`provenance`, rather than by hand. Numbers along space follow the plan's axes (after `orient`'s transpose); spacings are
in mm.

"""
TRAINER = """# The trainer's contract

How to write one: [write a trainer](../how-to/write-a-trainer.md). A trainer is a subclass of `siccs_net.Trainer` (or of
one that comes with siccs_net). Its constructor stores the task and does no work. `fit` calls the hooks below in this
order and owns everything else: seeds, devices and precision, states and resuming, signals, logs, the model files.

- A public method named like a hook (`build_…`, `adapt_…`, `on_…`, `…_step`) that is none raises when the class is made.
- Numbers are settings: class attribute `defaults` < the plan's `training` < `--set`. A class of settings of one's own
  (`config_class`, a subclass of `TrainerConfig`) adds to them.
- A hook may use `self.task` (cases, store, labels, device), `self.config`, and while `fit` runs `self.configuration`,
  `self.network`, `self.loss`, `self.optimizer`, `self.numerics`.
- Random numbers depend on (seed, fold, epoch, iteration, sample) alone. Torch's generator is seeded anew for every step
  and numpy's for every foreign transform of a sample, so that a hook that draws from them resumes exactly too.
- What a hook changes in the configuration is stored with the fold; the model predicts without the class, unless the
  network is a class of one's own, which is then named with `siccs_predict --network`.
- `siccs_net.testing.check_trainer(Class)` trains, repeats, resumes and predicts, and names what fails.

"""


def commands_page() -> str:
    """Return commands.md."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    verbs = [name.removeprefix("siccs_") for name in scripts]
    links = " · ".join(f"[siccs_{verb}](#siccs_{verb})" for verb in verbs)
    parts = [NOTE + COMMANDS + links, *map(_command, verbs), _every_command()]
    return "\n\n".join(parts) + "\n"


def _command(verb: str) -> str:
    parser = importlib.import_module(f"siccs_net.cli.{verb}").make_parser()
    shared = {name for action in new_parser(verb, "", example="")._actions for name in action.option_strings}
    actions = [action for action in parser._actions if not shared & set(action.option_strings)]
    example = (parser.epilog or "").partition("example:\n")[2].partition("\n\n")[0]
    code = f"```bash\n{textwrap.dedent(example)}\n```"
    return f"## siccs_{verb}\n\n{parser.description}\n\n{code}\n\n{_options(actions)}"


def _every_command() -> str:
    actions = new_parser("x", "", example="")._actions
    return f"## Every command\n\n{_options(actions)}\n\n{EXIT_CODES[0].upper()}{EXIT_CODES[1:]}."


def _options(actions: list[argparse.Action]) -> str:
    rows = [f"| {_names(action)} | {_value(action)} | {_cell(action.help or '')} |" for action in actions]
    return "\n".join(["| option | value | what |", "|---|---|---|", *rows]) if rows else "It has no options of its own."


def _names(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
    return f"{names} (needed)" if action.required and action.option_strings else names


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or action.dest.upper()
    if action.choices is not None:
        name = " | ".join(map(str, action.choices))
    text = " ".join(name) if isinstance(name, tuple) else name
    return _code(f"{text} …" if action.nargs in ("+", "*") else text)


def plan_page() -> str:
    """Return plan.md: the plan, then every record in it."""
    kinds: list[type[Record]] = [plan.Plan, plan.Configuration, *_steps(), plan.ChannelNormalisation]
    kinds += [network.NetworkSpec, plan.InferenceSettings, plan.MemoryFigures, plan.MeasuredStep]
    return NOTE + PLAN + "\n\n".join(_record(kind) for kind in _with_others(kinds, plan)) + "\n"


def _steps() -> list[type[Record]]:
    union, *_ = get_args(plan.Step)
    return list(get_args(union))


def _with_others(kinds: list[type[Record]], module: Any) -> Iterator[type[Record]]:
    """Yield the records named, then any other that the module defines."""
    yield from kinds
    for kind in vars(module).values():
        if (
            inspect.isclass(kind)
            and issubclass(kind, Record)
            and kind.__module__ == module.__name__
            and kind not in kinds
        ):
            yield kind


def trainer_page() -> str:
    """Return trainer.md: the rules, the hooks, the settings, and what each trainer sets."""
    parts = [NOTE + TRAINER + "## Hooks", *map(_hook, HOOKS), "## Settings"]
    parts += [_record(kind) for kind in (TrainerConfig, LossSettings, AugmentationSettings)]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["siccs_net.trainers"]
    parts += ["## Trainers", *(_trainer(name, place) for name, place in scripts.items())]
    return "\n\n".join(parts) + "\n"


def _hook(name: str) -> str:
    method = getattr(TrainerHooks, name)
    signature = str(inspect.signature(method)).replace("(self, ", "(").replace("(self)", "()").replace("'", "")
    return f"### {name}\n\n`{name}{signature}`\n\n{inspect.getdoc(method)}"


def _trainer(name: str, place: str) -> str:
    kind = find_trainer(place)
    lines = [f"- `{key}` = `{json.dumps(value)}`" for key, value in sorted(kind.defaults.items())]
    return "\n".join([f"### {name}\n\n{inspect.getdoc(kind)}\n", *(lines or ["It sets nothing: the defaults above."])])


def _record(kind: type[Record]) -> str:
    rows = [
        f"| `{name}` | {_code(_type(kind, name))} | {_default(field)} |" for name, field in kind.model_fields.items()
    ]
    table = "\n".join(["| field | type | default |", "|---|---|---|", *rows])
    return f"### {kind.__name__}\n\n{inspect.getdoc(kind)}\n\n{table}"


def _type(kind: type[Record], name: str) -> str:
    """Return a field's type as its source has it, with its limits."""
    text = next(found[name] for base in kind.__mro__ if name in (found := inspect.get_annotations(base)))
    meant = vars(sys.modules[kind.__module__]).get(text)
    if get_origin(meant) is Literal:
        text = str(meant).removeprefix("typing.")
    limits = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(item, attribute):g}"
        for item in kind.model_fields[name].metadata
        for attribute, sign in limits.items()
        if hasattr(item, attribute)
    ]
    return f"{text}, {' and '.join(found)}" if found else str(text)


def _default(field: Any) -> str:
    """Return a field's default as JSON has it."""
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return "its own defaults" if isinstance(value, Record) else _code(json.dumps(value))


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("%%", "%").replace("|", "\\|").replace("\n", " ")


PAGES = {"commands.md": commands_page, "plan.md": plan_page, "trainer.md": trainer_page}


def main() -> None:
    for name, make in PAGES.items():
        (HERE / name).write_text(make())


if __name__ == "__main__":
    main()
