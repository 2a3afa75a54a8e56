# Each model once: its checks fail here, in one sentence, before any search starts.
rule model:
    output:
        f"{ROOT}/models/{{model}}.json",
    log:
        f"{ROOT}/logs/models/{{model}}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        arguments=model_arguments,
    shell:
        "python -m pahq models {params.arguments} --out {output:q} 2>&1 | tee -i {log:q}"
