# The baseline: ACDC in full precision. One job per group of cells that differ in threshold alone, since start-up
# costs seconds and most cells do not. A cell's declared output is its result.json; the journal beside it is
# undeclared, so what was computed outlives a job that fails or is killed.
def of(method):
    """The groups of cells of one method."""
    return [group for group in GROUPS if group.config.method.name == method]


def model_file(group):
    """Needed before the cells, but never newer than them: made anew, it leaves finished cells as they are."""
    return ancient(f"{ROOT}/models/{group.config.model.name}.json")


def results(group):
    """Where the group's cells say that they are done."""
    return [f"{ROOT}/cells/{cell_id}/result.json" for cell_id in group.cells]


def sweep(group):
    """The group as typed behind `python -m pahq -m`."""
    run = [f"run.root={ROOT}", f"run.experiment={EXPERIMENT}", "run.progress=false"]
    wandb = [f"wandb={config['wandb']}"] if "wandb" in config else []
    return shlex.join([*group.overrides, *run, *wandb])


for group in of("acdc"):

    rule:
        name:
            f"acdc_{group.name}"
        input:
            model_file(group),
        output:
            results(group),
        log:
            f"{ROOT}/logs/{EXPERIMENT}/{group.name}.log",
        conda:
            ENVIRONMENT
        threads: 1
        params:
            cells=sweep(group),
        shell:
            "python -m pahq -m {params.cells} run.threads={threads} > {log:q} 2>&1"
