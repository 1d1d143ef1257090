"""The commands, thin over the library."""

import os
from pathlib import Path

import click

import skpoison


class _Failure(click.ClickException):
    """One line on stderr, exit code 2."""

    exit_code = 2

    def show(self, file=None):
        click.echo(f"skpoison: {self.message}", err=True)


def _budget(text):
    try:
        value = float(text)
    except ValueError:
        raise _Failure(
            f"--budgets: {text!r} is no number; give shares or counts, as 0,0.01,0.05"
        ) from None
    # "1" is one row and "1.0" all of them, as in the library
    return int(text) if text.strip().lstrip("+-").isdigit() else value


def _names(text):
    if text == "auto":
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


def _size(text):
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise _Failure(f"--size: {text!r} is no HEIGHTxWIDTH such as 224x224")
    return int(height), int(width)


def _check_writable(option, path):
    """Refuse a file that can't be written before the audit, not after it."""
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise _Failure(f"{option}: the folder of {path} does not exist")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise _Failure(f"{option}: {path} can't be written")


def _take_owners(X, column):
    """Return the table without the column of its rows' owners, and the owners."""
    if column is None:
        return X, None
    if column not in X.columns:
        raise _Failure(
            f"--client-id: {column!r} is no column; there are "
            f"{', '.join(map(str, X.columns[:10]))}"
        )
    return X.drop(columns=column), X[column]


def _victims(spec, X, y, target, task, n_folds, trust, clients):
    """Return the estimators to attack, checked against task and target."""
    from skpoison.audit import _ingest
    from skpoison.audit._registry import check_victim

    if spec is None:
        if task == "auto":
            task = "classification" if clients else _ingest.choose_task(y, n_folds)
        victims = _ingest.default_estimators(X, task, clients)
    else:
        victims = {spec: _ingest.load_estimator(spec, X, trust)}
        found = check_victim(spec, victims[spec])
        if task not in ("auto", found):
            raise _Failure(f"--task {task}: {spec} is for {found}")
        task = found
    _ingest.check_target(y, target, task)
    return victims


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(skpoison.__version__, prog_name="skpoison")
def cli():
    """How far can training data be trusted, and what to do about it."""


#: What commands that run an audit take.
_AUDIT = (
    click.argument("data", type=click.Path(path_type=Path)),
    click.option("--target", required=True, help="Column of the labels or numbers."),
    click.option(
        "--task",
        type=click.Choice(["auto", "classification", "regression"]),
        default="auto",
        show_default=True,
        help="auto: what the estimator is for; without one, regression for numbers "
        "with fractions, or of more than 20 values one of which is rarer than the "
        "folds.",
    ),
    click.option(
        "--estimator",
        default=None,
        help="Dotted path, as sklearn.svm.SVC, or a .skops file. Default, behind an "
        "encoder: logistic regression, or ridge regression and gradient boosting.",
    ),
    click.option("--trust", multiple=True, help="Type that a .skops file may hold."),
    click.option("--attacks", default="auto", help="Names with commas, or auto."),
    click.option("--defenses", default="auto", help="Names with commas, or auto."),
    click.option(
        "--budgets",
        default="0,0.01,0.05,0.1",
        show_default=True,
        help="Poisoned share of the rows; whole numbers count rows.",
    ),
    click.option("--cv", default=5, show_default=True, help="Folds."),
    click.option(
        "--trials", default=1, show_default=True, help="Repetitions of a fold."
    ),
    click.option(
        "--n-targets",
        default=1,
        show_default=True,
        help="Held-out rows that a targeted attack aims at, for each fold and trial.",
    ),
    click.option(
        "--client-id",
        default=None,
        help="Column of the rows' owners: they train the model together, some attack, "
        "and budgets count clients.",
    ),
    click.option("--scoring", default=None, help="A scorer of scikit-learn."),
    click.option("--seed", default=0, show_default=True, help="Seed of everything."),
    click.option("--jobs", default=1, show_default=True, help="Jobs in parallel."),
    click.option(
        "--report",
        type=click.Path(path_type=Path),
        default=None,
        help="HTML page to write.",
    ),
    click.option(
        "--json",
        "saved",
        type=click.Path(path_type=Path),
        default=None,
        help="File to write the whole report to, as JSON.",
    ),
    click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        default=None,
        help="Folder to resume from.",
    ),
    click.option("--quiet", is_flag=True, help="No progress on stderr."),
)


def _audit_options(command):
    for option in reversed(_AUDIT):
        command = option(command)
    return command


def _run_audit(
    data,
    target,
    task,
    estimator,
    trust,
    attacks,
    defenses,
    budgets,
    cv,
    trials,
    n_targets,
    client_id,
    scoring,
    seed,
    jobs,
    report,
    saved,
    checkpoint,
    quiet,
):
    """Return the report of an audit, all that can fail first."""
    from skpoison.audit._ingest import InputError, read_table
    from skpoison.audit._run import audit as run

    _check_writable("--report", report)
    _check_writable("--json", saved)
    try:
        X, y = read_table(data, target)
        X, owners = _take_owners(X, client_id)
        clients = owners is not None
        if clients and task == "regression":
            raise _Failure("--client-id: clients train classifiers, not regressors")
        victims = _victims(estimator, X, y, target, task, cv, trust, clients)
        return run(
            victims,
            X,
            y,
            attacks=_names(attacks),
            defenses=_names(defenses),
            budgets=[_budget(b) for b in budgets.split(",")],
            cv=cv,
            scoring=scoring,
            n_jobs=jobs,
            random_state=seed,
            checkpoint=checkpoint,
            verbose=not quiet,
            n_trials=trials,
            n_targets=n_targets,
            client_id=owners,
            name=data.name,
        )
    except (InputError, ValueError, TypeError, OSError) as error:
        raise _Failure(" ".join(str(error).split())) from error
    except _Failure:
        raise
    except Exception as error:  # an estimator's own: whatever its library raises
        text = " ".join(str(error).split())
        raise _Failure(f"{type(error).__name__}: {text}") from error


def _write(result, report, saved):
    if report is not None:
        result.to_html(report)
        click.echo(f"report: {report}")
    if saved is not None:
        result.to_json(saved)
        click.echo(f"json: {saved}")


@cli.command()
@_audit_options
def audit(**options):
    """Audit the model trained on DATA, a CSV or Parquet file.

    Prints the damage that each attack does at each budget, behind each defense, the
    defenses ranked, and a recommendation.
    """
    from skpoison.audit._report import print_report

    result = _run_audit(**options)
    print_report(result)
    _write(result, options["report"], options["saved"])


@cli.command()
@_audit_options
def compare(**options):
    """Rank the defenses of the model trained on DATA, a CSV or Parquet file.

    Runs the same audit, and prints one line for each defense and why it stands where
    it does.
    """
    from skpoison.audit._ranking import as_text

    result = _run_audit(**options)
    ranking = result.ranking()
    click.echo(as_text(ranking, result.unit, seconds=True))
    several = ranking["estimator"].nunique() > 1
    for _, row in ranking.iterrows():
        name = f"{row['estimator']}, " if several else ""
        click.echo(f"\n{name}{row['rank']}. {row['defense']}: {row['reason']}.")
    _write(result, options["report"], options["saved"])


@cli.command()
@click.argument("in_folder", type=click.Path(path_type=Path))
@click.argument("out_folder", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    required=True,
    help="CSV file with the columns file and label, or folders: the class is the name "
    "of the sub-folder.",
)
@click.option(
    "--eps", default=8.0, show_default=True, help="Largest change of a pixel, of 255."
)
@click.option(
    "--method",
    type=click.Choice(["alignment", "error_max", "class_target", "random"]),
    default="alignment",
    show_default=True,
    help="What is crafted; random is the control.",
)
@click.option("--steps", default=250, show_default=True, help="Crafting steps.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything.")
@click.option("--size", default=None, help="Resize to HEIGHTxWIDTH, as 224x224.")
@click.option(
    "--preview", default=3, show_default=True, help="Pictures of before and after."
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def protect(
    in_folder, out_folder, labels, eps, method, steps, seed, size, preview, quiet
):
    """Write protected copies of the images in IN_FOLDER to OUT_FOLDER.

    A model that is trained on the copies does badly on clean images. Call it again
    when images have arrived, or when it was killed.
    """
    from skpoison.attacks._protect import protect_images
    from skpoison.attacks._release import ReleasePoisonAttack

    attack = ReleasePoisonAttack(method, online=True, max_iter=steps)
    try:
        report = protect_images(
            in_folder,
            out_folder,
            labels,
            attack=attack,
            eps=eps,
            size=None if size is None else _size(size),
            preview=preview,
            random_state=seed,
            verbose=not quiet,
        )
    except (ImportError, ValueError, TypeError, OSError) as error:
        raise _Failure(" ".join(str(error).split())) from error
    click.echo(
        f"{report.n_protected} protected, {report.n_skipped} done before, largest "
        f"change {report.max_change} of 255: {out_folder}"
    )


@cli.command("list")
@click.argument("kind", type=click.Choice(["attacks", "defenses", "datasets"]))
def list_(kind):
    """List what there is of a KIND."""
    if kind == "datasets":
        from skpoison import datasets

        for name in datasets.__all__:
            if name.startswith(("fetch_", "make_", "load_")):
                summary = getattr(datasets, name).__doc__.strip().splitlines()[0]
                click.echo(f"{name:22} {summary}")
        return
    from skpoison.audit._registry import ATTACKS, DEFENSES

    registry = ATTACKS if kind == "attacks" else DEFENSES
    for entry in registry.entries.values():
        where = (
            "network"
            if getattr(entry, "neural", False)
            else ", ".join(sorted(entry.data))
        )
        tasks = "clients" if entry.clients else ", ".join(sorted(entry.tasks))
        click.echo(f"{entry.name:22} {entry.summary} [{where}; {tasks}]")
