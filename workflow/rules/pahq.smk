# The searches in low precision: PAHQ (the head under test in full precision) and RTN-Q (no head is).
for group in of("pahq"):

    rule:
        name:
            f"pahq_{group.name}"
        input:
            model_file(group),
        output:
            results(group),
        log:
            f"{ROOT}/logs/{EXPERIMENT}/{group.name}.log",
        priority: urgency(group)
        conda:
            "../../environment.yml"
        threads: 1
        params:
            cells=sweep(group),
        shell:
            "python -m pahq -m {params.cells} run.threads={threads} 2>&1 | tee -i {log:q}"


for group in of("rtn-q"):

    rule:
        name:
            f"rtnq_{group.name}"
        input:
            model_file(group),
        output:
            results(group),
        log:
            f"{ROOT}/logs/{EXPERIMENT}/{group.name}.log",
        priority: urgency(group)
        conda:
            "../../environment.yml"
        threads: 1
        params:
            cells=sweep(group),
        shell:
            "python -m pahq -m {params.cells} run.threads={threads} 2>&1 | tee -i {log:q}"
