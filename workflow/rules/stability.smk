# The cells whose rows say stability, searched again on resampled prompts, in other orders and with other seeds. One job for
# the cells of a task and method; the replicates in <cell>/stability are undeclared, so they outlive a killed job.
# Numbers of searches, for every row: --config stability="--n 20 --seeds 5". Of every cell, marked or not, or of none:
# --config stability_of=all|none.
try:
    STABILITY = stability_jobs(GROUPS, str(config.get("stability_of", "marked")))
except PahqError as error:
    raise WorkflowError(str(error)) from None
STABLE = [f"{ROOT}/cells/{cell_id}/stability.json" for job in STABILITY for cell_id in job.cells]

for job in STABILITY:
    folders = [f"{ROOT}/cells/{cell_id}" for cell_id in job.cells]

    rule:
        name:
            f"stability_{job.name}"
        input:
            expand("{folder}/result.json", folder=folders),
        output:
            expand("{folder}/{file}", folder=folders, file=["stability.json", "inclusion.parquet"]),
        log:
            f"{ROOT}/logs/{EXPERIMENT}/stability-{job.name}.log",
        priority: 100
        conda:
            "../../environment.yml"
        threads: 1
        params:
            arguments=shlex.join(
                [*folders, "--root", ROOT, "--no-progress", "--n", str(job.asked.resamples)]
                + ["--seeds", str(job.asked.seeds), *shlex.split(str(config.get("stability", "")))]
            ),
        shell:
            "python -m pahq stability {params.arguments} --threads {threads} 2>&1 | tee -i {log:q}"
