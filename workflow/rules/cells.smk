# The searches, by whatever method: one job per group of cells that a sweep can name, since start-up costs seconds and most
# cells do not. A cell's declared output is its result.json; the journal beside it is undeclared, so what was computed
# outlives a job that fails or is killed. update: finished cells of a group stay while others of it are computed.
for group in GROUPS:

    rule:
        name:
            f"cells_{group.name}"
        input:
            model_file(group),
        output:
            update(results(group)),
        log:
            f"{ROOT}/logs/{EXPERIMENT}/{group.name}.log",
        priority: urgency(group)
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            **GPU,
            mem_mb=asked("memory_mb", group.cells),
            runtime=asked("minutes", group.cells),
        params:
            cells=sweep(group),
        shell:
            "python -m pahq -m {params.cells} run.threads={threads} 2>&1 | tee -i {log:q}"
