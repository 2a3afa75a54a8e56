# The cells whose rows say stability, searched again on resampled prompts, in other orders and with other seeds. What a job
# declares is a marker a cell that names how much was asked, so that asking more measures more. The resamples' searches and
# stability.json are undeclared: they outlive a killed job.
STABLE = [path for job in STABILITY for path in markers(job)]

for job in STABILITY:

    rule:
        name:
            f"stability_{job.name}"
        input:
            [f"{folder}/result.json" for folder in folders(job)],
        output:
            markers(job),
        log:
            f"{ROOT}/logs/{EXPERIMENT}/stability-{job.name}.log",
        priority: 10**6
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=asked("memory_mb", job.cells),
            runtime=asked("minutes", job.cells, job.asked.searches),
        params:
            arguments=stability_arguments(job),
        shell:
            "python -m pahq stability {params.arguments} --threads {threads} 2>&1 | tee -i {log:q}"
