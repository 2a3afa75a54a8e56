# Paths and command lines of an experiment's cells.
from pahq.experiments.progress import write_plan
from pahq.experiments.resources import Shape, needs

PLAN = f"{ROOT}/logs/{EXPERIMENT}/cells.txt"  # of this run, so that its cells can say how many are left
GPU = {"gpu": 1} if SAID.device == "cuda" else {}  # of the cells' jobs
UNKNOWN = {"memory_mb": 4000, "minutes": 120}
SEARCHES = {cell_id: job.asked.searches for job in STABILITY for cell_id in job.cells}
CONFIGS = {cell_id: cell.config for group in GROUPS for cell_id, cell in group.cells.items()}
MODELS = {group.config.model.name: group.config.model for group in GROUPS}


def model_arguments(wildcards):
    """What `pahq models` needs to find the model."""
    model = MODELS[wildcards.model]
    revision = ["--revision", model.revision] if model.revision else []
    return shlex.join([model.source, *revision])


def model_file(group):
    """Needed before the cells, but never newer than them: made anew, it leaves finished cells as they are."""
    return ancient(f"{ROOT}/models/{group.config.model.name}.json")


def asked(what, cells, searches=1):
    """What a job of these cells (ids, or a function of wildcards) asks for: memory_mb or minutes; each attempt asks more.

    ``searches``: of each cell. Until the files of their models are there, nobody knows. Where these are no inputs of the
    job (cells that were computed by hand have none), it asks for what jobs without an estimate ask for.
    """

    def ask(wildcards, input, attempt):
        ids = cells(wildcards) if callable(cells) else cells
        try:
            return getattr(needs([sized(CONFIGS[cell_id]) for cell_id in ids], attempt, searches), what)
        except FileNotFoundError as absent:
            if absent.filename in map(str, input):
                raise  # Snakemake asks again when the file is there
            return attempt * UNKNOWN[what]

    return ask


def sized(config):
    """A cell beside its model's shape."""
    return config, Shape.read(f"{ROOT}/models/{config.model.name}.json")


def results(group):
    """Where the group's cells say that they are done."""
    return [f"{ROOT}/cells/{cell_id}/result.json" for cell_id in group.cells]


def urgency(group):
    """Cells whose stability takes most searches come first: those are the longest jobs, and would else run at the end.

    Then one task after the other, from the last one named, so that circuits are judged while others are searched.
    """
    searches = sum(SEARCHES.get(cell_id, 0) for cell_id in group.cells)
    return len(TASK_GROUPS) * searches + list(TASK_GROUPS).index(group.config.task.name)


def sweep(group):
    """The group as typed behind `python -m pahq -m`."""
    run = [f"run.root={ROOT}", f"run.experiment={EXPERIMENT}", "run.progress=false", f"run.plan={PLAN}"]
    wandb = [f"wandb={SAID.wandb}"] if SAID.wandb is not None else []
    lock = [] if SAID.lock else ["run.lock=false"]
    device = [] if SAID.device == "cpu" else [f"run.device={SAID.device}"]
    return shlex.join([*group.overrides, *run, *wandb, *lock, *device])


def folders(job):
    """Of a stability job's cells."""
    return [f"{ROOT}/cells/{cell_id}" for cell_id in job.cells]


def markers(job):
    """What says that the stability of the job's cells is measured."""
    return [str(done_marker(Path(folder), *SAID.counts(job.asked))) for folder in folders(job)]


def stability_arguments(job):
    """The job as typed behind `python -m pahq stability`."""
    n, seeds = SAID.counts(job.asked)
    lock = [] if SAID.lock else ["--no-lock"]
    return shlex.join([*folders(job), "--root", ROOT, "--no-progress", "--n", str(n), "--seeds", str(seeds), *lock])


def task_ids(wildcards):
    """The task's cells."""
    return [cell_id for group in TASK_GROUPS[wildcards.task] for cell_id in group.cells]


def task_cells(wildcards):
    """Where the task's cells say that they are done."""
    return [path for group in TASK_GROUPS[wildcards.task] for path in results(group)]


def task_arguments(wildcards):
    """The task's cells as typed behind `python -m pahq faithfulness`: by its name, since a command has not room for
    thousands of cells'."""
    said = [*SAID.sample_sizes, "--task", wildcards.task]
    return shlex.join([EXPERIMENT, "--root", ROOT, "--no-progress", *said])


def shown(path, category, **labels):
    """A file for Snakemake's report; its caption is named as its category."""
    return report(path, caption=f"../report/{category.lower()}.rst", category=category, labels=labels)


CELLS = [path for group in GROUPS for path in results(group)]
TASK_GROUPS = {}
for group in GROUPS:
    TASK_GROUPS.setdefault(group.config.task.name, []).append(group)
FAITHFULNESS = expand(f"{ROOT}/analysis/{EXPERIMENT}/faithfulness/{{task}}.parquet", task=TASK_GROUPS)


onstart:
    write_plan(Path(PLAN), [cell_id for group in GROUPS for cell_id in group.cells])
