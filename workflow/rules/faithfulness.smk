# How faithful the circuits are, one job a task: its cells share model, prompts and, where circuits coincide, numbers.
# A task's table is the declared output; each cell's faithfulness.json beside its result.json is undeclared, so what was
# measured outlives a job that fails.
rule faithfulness:
    input:
        task_cells,
    output:
        f"{ROOT}/analysis/{EXPERIMENT}/faithfulness/{{task}}.parquet",
    log:
        f"{ROOT}/logs/{EXPERIMENT}/faithfulness-{{task}}.log",
    priority: 10**5
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=asked("memory_mb", task_ids),
    params:
        arguments=task_arguments,
    shell:
        "python -m pahq faithfulness {params.arguments} --threads {threads} 2>&1 | tee -i {log:q}"
