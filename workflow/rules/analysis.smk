# From the cells' files alone: judgement, tables, figures.
# What report(...) marks goes into the file of `snakemake --report FILE.zip` (docs/running.md).
from pahq.analysis.names import EVALUATED, FIGURES, TABLES

ANALYSIS = f"{ROOT}/analysis/{EXPERIMENT}"


report: "../report/overview.rst"


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
        [shown(f"{ANALYSIS}/tables/{name}.csv", "Tables", table=name) for name in TABLES],
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
        expand(f"{ANALYSIS}/figures/{{name}}.png", name=FIGURES),
        [shown(f"{ANALYSIS}/figures/{name}.svg", "Figures", figure=name) for name in FIGURES],
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
        report(
            directory(f"{ROOT}/report/{EXPERIMENT}"),
            patterns=["{task}/{circuit}.html"],
            caption="../report/circuits.rst",
            category="Circuits",
            labels={"task": "{task}", "circuit": "{circuit}"},
        ),
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
        shown(f"{ROOT}/report/{EXPERIMENT}.html", "Findings", page="what was found"),
    log:
        f"{ROOT}/logs/{EXPERIMENT}/report.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        arguments=shlex.join([EXPERIMENT, "--only", "summary", "--root", ROOT]),
    shell:
        "python -m pahq report {params.arguments} 2>&1 | tee -i {log:q}"
