# Each model once: its checks fail here, in one sentence, before any search starts.
MODELS = {group.config.model.name: group.config.model for group in GROUPS}


def model_arguments(wildcards):
    """What `pahq models` needs to find the model."""
    model = MODELS[wildcards.model]
    revision = ["--revision", model.revision] if model.revision else []
    return shlex.join([model.source, *revision])


rule model:
    output:
        f"{ROOT}/models/{{model}}.json",
    log:
        f"{ROOT}/logs/models/{{model}}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    conda:
        ENVIRONMENT
    threads: 1
    params:
        arguments=model_arguments,
    shell:
        "python -m pahq models {params.arguments} --out {output:q} > {log:q} 2>&1"
