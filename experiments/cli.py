"""The command line: recipes as flags, objects by name, and mistakes as one line with exit status 2.

Numbers and strings of a recipe are typed flags made from its dataclasses (`--network.channels 32`). Which object stands
in a place is chosen by name first (`--network dit`), so that the flags that follow are those of the chosen object.
`experiments.choices` holds the names: the only place where a string chooses an algorithm.
"""

import contextlib
import dataclasses
import difflib
import inspect
import io
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import tyro
from etils import epath
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec

from experiments import recipes
from experiments.choices import CHOICES, Choice
from experiments.distributed import ONE, Distributed
from experiments.errors import UserError
from experiments.placement import WHOLE, Split
from experiments.recipe import Recipe, Sampler
from experiments.signals import Interrupted
from jaxdiff import Gaussian, times

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Where a run goes and how it is started."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    out: str
    """Directory of the run, local or gs://; runs/RECIPE by default."""
    resume: bool = False
    """Go on with the run in `out`."""
    overwrite: bool = False
    """Delete the run in `out` first."""
    devices: int | None = None
    """Local devices to use; None for all of them."""
    split: Split = WHOLE
    distributed: Distributed = ONE
    profile: bool = False
    """Write a JAX trace of ten steps into the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArguments:
    """What programs on a finished run have in common."""

    run: Annotated[str, tyro.conf.Suppress]
    sampler: Annotated[Sampler, tyro.conf.arg(name="")]
    seed: int = 0
    """Of the noise: sample i depends on it and on i alone."""
    step: int | None = None
    """Which checkpoint; the newest by default."""
    unfinished: bool = False
    """Use the newest checkpoint of a run that has not finished."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments(RunArguments):
    """Those of programs that draw with any average of the parameters, on several devices."""

    sigma_rel: float | None = None
    """Relative length of the parameters' average, from the snapshots of a run with --averages; None for its `ema`."""
    devices: int | None = None
    """Local devices that share the samples; None for all of them."""


def program(main: Callable[[], Any]) -> NoReturn:
    """Run `main`; a `UserError` becomes one line and status 2, Ctrl-C status 130, a preempted run `signals.RESUME`."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


@dataclasses.dataclass(frozen=True)
class _Processes:
    distributed: Distributed = ONE


def processes(argv: Sequence[str] | None) -> Distributed:
    """The flags of `Distributed` alone: they come first, because making a recipe asks for devices."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(argv):
        return Distributed(off=True)
    taken = []
    for flag, value in itertools.pairwise([*argv, "--"]):
        if flag.startswith("--distributed."):
            taken += [flag] if "=" in flag or value.startswith("--") else [flag, value]
    return parse(_Processes, taken, "python -m experiments.train RECIPE", _Processes(), "").distributed


def train_arguments(argv: Sequence[str] | None) -> tuple[TrainArguments, Recipe]:
    """The arguments of `experiments.train`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    usage = "python -m experiments.train RECIPE [--out DIR] [--resume | --overwrite] [--field value ...]"
    if not argv or argv[0].startswith("-"):
        listing = "\n".join(f"  {name:15} {recipes.describe(name)}" for name in recipes.names())
        if argv and argv[0] in ("-h", "--help"):
            print(
                f"usage: {usage}\n\nTrain a recipe. Its own flags: python -m experiments.train RECIPE --help\n\n"
                f"recipes:\n{listing}"
            )
            sys.exit(0)
        raise UserError(f"needed a recipe's name first: {usage}. The recipes are: {', '.join(recipes.names())}")
    name, *rest = argv
    recipe, rest = choose(recipes.get(name), rest)

    default = TrainArguments(out=f"runs/{name}", recipe=recipe)
    description = f"{recipes.describe(name)}\n\n{choices_help()}"
    parsed = parse(TrainArguments, rest, f"python -m experiments.train {name}", default, description)
    return parsed, consistent(parsed.recipe)


def parse(cls: Any, argv: Sequence[str], prog: str, default: Any, description: str) -> Any:
    """`cls` from flags; a wrong flag is a `UserError` that names the nearest right one."""
    complaint = io.StringIO()
    config = (tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed)
    try:
        with contextlib.redirect_stderr(complaint) if not {"-h", "--help"} & set(argv) else contextlib.nullcontext():
            return tyro.cli(
                cls, args=argv, prog=prog, default=default, description=description, config=config, registry=_registry()
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]+", " ", complaint.getvalue())
        raise UserError(" ".join(text.split()) or "wrong arguments; see --help") from None
    except ValueError as error:  # a constructor of the library refused the values
        raise UserError(str(error)) from error


def choose(recipe: Recipe, argv: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Take the flags that choose objects by name out of `argv` and put the objects into the recipe.

    Raises:
        UserError: a name that does not exist, or objects that do not go together.
    """
    chosen, rest = take_choices(argv, CHOICES)
    made = {place: make(recipe) for place, make in chosen.items() if place != "times"}
    inside = lambda owner: {
        place.removeprefix(owner): made.pop(place) for place in list(made) if place.startswith(owner)
    }
    try:
        # Schedule and prediction change together: one of the new ones need not go with one of the old.
        process = dataclasses.replace(made.pop("process", recipe.process), **inside("process."))
        sampler = dataclasses.replace(recipe.sampler, **inside("sampler."))
        recipe = dataclasses.replace(recipe, process=process, sampler=sampler, **made)
    except (ValueError, TypeError) as error:  # TypeError: a process without this field
        raise UserError(str(error)) from error
    if "times" in chosen:
        recipe = dataclasses.replace(recipe, times=chosen["times"](recipe))
    return recipe, rest


def take_choices(
    argv: Sequence[str], places: Mapping[str, Mapping[str, Choice]]
) -> tuple[dict[str, Choice], list[str]]:
    """Split `argv` into the choices made by `--place name` and everything else."""
    chosen, rest = {}, []
    items = iter(argv)
    for item in items:
        flag, equals, value = item.partition("=")
        place = flag.removeprefix("--").replace("_", "-")
        if not flag.startswith("--") or place not in places:
            rest.append(item)
            continue
        value = value if equals else next(items, "")
        names = {_plain(name): make for name, make in places[place].items()}
        if _plain(value) not in names:
            near = difflib.get_close_matches(value, places[place], n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"unknown {place} {value!r}; {hint}Choose one of {', '.join(places[place])}")
        chosen[place] = names[_plain(value)]
    return chosen, rest


def _plain(name: str) -> str:
    """Names are compared without case, hyphens and underscores."""
    return re.sub("[-_]", "", name.lower())


def run_arguments(cls: Callable[..., T], program: str, argv: Sequence[str] | None) -> T:
    """The arguments of a program on a finished run: `RUN [--solver NAME ...]`, with the run's own sampler as default.

    `cls` is a kind of `RunArguments`.
    """
    from experiments.loading import read_config

    argv = list(sys.argv[1:] if argv is None else argv)
    places = {place.removeprefix("sampler."): names for place, names in CHOICES.items() if place.startswith("sampler.")}
    chosen, rest = take_choices(argv, places)
    helping = bool({"-h", "--help"} & set(argv))
    run = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if run is None and not helping:
        raise UserError(f"needed a run directory first: {program} RUN [--flags]; runs lie in runs/ by default")
    recipe = recipes.get("digits") if run is None else read_config(epath.Path(run))[0]
    sampler = dataclasses.replace(recipe.sampler, **{place: make(recipe) for place, make in chosen.items()})
    description = f"{inspect.getdoc(cls)}\n\n{choices_help(places)}"
    return parse(cls, rest, f"{program} RUN", cls(run=run or "RUN", sampler=sampler), description)


def consistent(recipe: Recipe) -> Recipe:
    """Training times that are laws of the noise scale follow the process's schedule."""
    if isinstance(recipe.times, times.edm):
        return dataclasses.replace(recipe, times=dataclasses.replace(recipe.times, schedule=recipe.process.schedule))
    return recipe


def choices_help(places: Mapping[str, Mapping[str, Choice]] = CHOICES) -> str:
    lines = [f"  --{place} {{{','.join(names)}}}" for place, names in places.items()]
    return "Objects by name, whose own flags then follow:\n" + "\n".join(lines)


def _registry() -> ConstructorRegistry:
    """Teaches tyro the library's pytrees: numbers are floats, whatever arrays their annotations admit as well, but for
    static ones, which have their own type.
    """
    registry = ConstructorRegistry()

    @registry.struct_rule
    def pytrees(info):
        value = info.default
        if (
            not dataclasses.is_dataclass(value)
            or isinstance(value, type)
            or not type(value).__module__.startswith("jaxdiff.")
        ):
            return None
        fields = []
        for field in dataclasses.fields(value):
            content = getattr(value, field.name)
            if isinstance(content, int | float):
                kind = type(content) if field.metadata.get("static") else float
                text = _help(type(value), field.name)
                fields.append(StructFieldSpec(name=field.name, type=kind, default=content, helptext=text))
            elif dataclasses.is_dataclass(content) and isinstance(value, Gaussian):
                fields.append(StructFieldSpec(name=field.name, type=type(content), default=content))
        return StructConstructorSpec(instantiate=lambda **new: dataclasses.replace(value, **new), fields=tuple(fields))

    return registry


def _help(cls: type, field: str) -> str:
    """What the class's docstring says of a field, from its Args section."""
    for line in (inspect.getdoc(cls) or "").splitlines():
        names, colon, text = line.strip().partition(":")
        if colon and field in re.split(r",\s*", names):
            return text.strip()
    return ""
