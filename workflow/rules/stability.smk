# The cells whose rows say stability, searched again on resampled prompts, in other orders and with other seeds. What a job
# declares is a marker a cell that names how much was asked, so that asking more measures more. The searches and
# stability.json are undeclared: they outlive a killed job.
# Numbers of searches, for every row: --config stability="--n 20 --seeds 5". Of every cell, marked or not, or of none:
# --config stability_of=all|none.
from pahq.resamples.command import counts_of
from pahq.resamples.variants import done_marker

COUNTS = {job.name: counts_of(SAID.stability, job.asked) for job in STABILITY}
STABLE = [
    str(done_marker(Path(ROOT) / "cells" / cell_id, *COUNTS[job.name])) for job in STABILITY for cell_id in job.cells
]

for job in STABILITY:
    folders = [f"{ROOT}/cells/{cell_id}" for cell_id in job.cells]

    rule:
        name:
            f"stability_{job.name}"
        input:
            expand("{folder}/result.json", folder=folders),
        output:
            [str(done_marker(Path(folder), *COUNTS[job.name])) for folder in folders],
        log:
            f"{ROOT}/logs/{EXPERIMENT}/stability-{job.name}.log",
        priority: 10**6
        conda:
            "../../environment.yml"
        threads: 1
        params:
            arguments=shlex.join(
                [*folders, "--root", ROOT, "--no-progress", "--n", str(job.asked.resamples)]
                + ["--seeds", str(job.asked.seeds), *SAID.stability, *([] if SAID.lock else ["--no-lock"])]
            ),
        shell:
            "python -m pahq stability {params.arguments} --threads {threads} 2>&1 | tee -i {log:q}"
