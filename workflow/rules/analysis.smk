# From the cells' files alone: judgement, tables, figures.
from pahq.analysis.names import EVALUATED, FIGURES

ANALYSIS = f"{ROOT}/analysis/{EXPERIMENT}"


rule evaluate:
    input:
        CELLS,
        STABLE,
    output:
        expand(f"{ANALYSIS}/{{name}}.parquet", name=EVALUATED),
    log:
        f"{ROOT}/logs/{EXPERIMENT}/evaluate.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        arguments=shlex.join([EXPERIMENT, "--root", ROOT]),
    shell:
        "python -m pahq evaluate {params.arguments} 2>&1 | tee -i {log:q}"


rule tables:
    input:
        rules.evaluate.output,
        FAITHFULNESS,
    output:
        f"{ANALYSIS}/tables/REPORT.md",
    log:
        f"{ROOT}/logs/{EXPERIMENT}/tables.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        arguments=shlex.join([EXPERIMENT, "--root", ROOT]),
    shell:
        "python -m pahq tables {params.arguments} 2>&1 | tee -i {log:q}"


rule figures:
    input:
        rules.evaluate.output,
        FAITHFULNESS,
    output:
        expand(f"{ANALYSIS}/figures/{{name}}.{{kind}}", name=FIGURES, kind=["png", "svg"]),
    log:
        f"{ROOT}/logs/{EXPERIMENT}/figures.log",
    priority: 1  # the longest of those that follow the evaluation
    conda:
        "../../environment.yml"
    threads: 1
    params:
        arguments=shlex.join([EXPERIMENT, "--root", ROOT]),
    shell:
        "python -m pahq figures {params.arguments} 2>&1 | tee -i {log:q}"


rule circuits:
    input:
        rules.evaluate.output,
        FAITHFULNESS,
    output:
        f"{ROOT}/report/{EXPERIMENT}/pages.json",
    log:
        f"{ROOT}/logs/{EXPERIMENT}/circuits.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        arguments=shlex.join([EXPERIMENT, "--only", "circuits", "--root", ROOT]),
    shell:
        "python -m pahq report {params.arguments} 2>&1 | tee -i {log:q}"


rule report:
    input:
        rules.tables.output,
        rules.figures.output,
        rules.circuits.output,
    output:
        f"{ROOT}/report/{EXPERIMENT}.html",
    log:
        f"{ROOT}/logs/{EXPERIMENT}/report.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        arguments=shlex.join([EXPERIMENT, "--only", "summary", "--root", ROOT]),
    shell:
        "python -m pahq report {params.arguments} 2>&1 | tee -i {log:q}"
