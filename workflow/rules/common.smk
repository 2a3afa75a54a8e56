# Paths and command lines of an experiment's cells.
from pahq.experiments.progress import write_plan

PLAN = f"{ROOT}/logs/{EXPERIMENT}/cells.txt"  # of this run, so that its cells can say how many are left
SEARCHES = {cell_id: job.asked.searches for job in STABILITY for cell_id in job.cells}
MODELS = {group.config.model.name: group.config.model for group in GROUPS}


def model_arguments(wildcards):
    """What `pahq models` needs to find the model."""
    model = MODELS[wildcards.model]
    revision = ["--revision", model.revision] if model.revision else []
    return shlex.join([model.source, *revision])


def model_file(group):
    """Needed before the cells, but never newer than them: made anew, it leaves finished cells as they are."""
    return ancient(f"{ROOT}/models/{group.config.model.name}.json")


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
    return shlex.join([*group.overrides, *run, *wandb, *lock])


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


def task_cells(wildcards):
    """Where the task's cells say that they are done."""
    return [path for group in TASK_GROUPS[wildcards.task] for path in results(group)]


def task_arguments(wildcards):
    """The task's cells as typed behind `python -m pahq faithfulness`."""
    ids = [cell_id for group in TASK_GROUPS[wildcards.task] for cell_id in group.cells]
    return shlex.join([EXPERIMENT, "--root", ROOT, "--no-progress", *SAID.sample_sizes, "--cells", *ids])


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
