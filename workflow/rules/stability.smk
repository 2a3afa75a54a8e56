# The cells whose rows say stability: true, searched again on resampled prompts, in other orders and with other seeds.
# One job for the cells of a task; the replicates in <cell>/stability are undeclared, so they outlive a killed job.
# Numbers of searches: --config stability="--n 5 --seeds 1". Every cell's, marked or not: --config stability_of=all.
STABILITY_OF = str(config.get("stability_of", "marked"))
if STABILITY_OF not in ("marked", "all"):
    raise WorkflowError(f"unknown stability_of {STABILITY_OF!r}; known: all, marked")
STABILITY = {
    name: [f"{ROOT}/cells/{cell_id}" for cell_id in ids]
    for name, ids in extra_jobs(GROUPS, "stability", every=STABILITY_OF == "all").items()
}
STABLE = [f"{folder}/stability.json" for folders in STABILITY.values() for folder in folders]

for job, folders in STABILITY.items():

    rule:
        name:
            f"stability_{job}"
        input:
            expand("{folder}/result.json", folder=folders),
        output:
            expand("{folder}/{file}", folder=folders, file=["stability.json", "inclusion.parquet"]),
        log:
            f"{ROOT}/logs/{EXPERIMENT}/stability-{job}.log",
        priority: 2
        conda:
            "../../environment.yml"
        threads: 1
        params:
            arguments=shlex.join(
                [*folders, "--root", ROOT, "--no-progress", *shlex.split(str(config.get("stability", "")))]
            ),
        shell:
            "python -m pahq stability {params.arguments} --threads {threads} 2>&1 | tee -i {log:q}"
