# From configuration to tables and figures:
#   snakemake --cores all [--config KEY=VALUE ...]     (docs/running.md has the keys)
# Hydra's files under conf/ say what is computed; nothing here does.
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from pahq.errors import PahqError
from pahq.experiments.compose import groups
from pahq.experiments.jobs import done_marker, stability_jobs
from pahq.experiments.workflow import Settings, join_runs

# Rules say `python` and mean the one that runs Snakemake, whether or not its environment is activated. A prefix takes the
# place of Snakemake's own, without which a command piped into `tee` never fails.
shell.prefix(f"set -euo pipefail; PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")
try:
    SAID = Settings.of(config)
    EXPERIMENT, ROOT = SAID.experiment, SAID.root
    GROUPS = groups(EXPERIMENT)
    STABILITY = stability_jobs(GROUPS, SAID.stability_of)
except PahqError as error:
    raise WorkflowError(str(error)) from None
LIVE = join_runs(ROOT, dry=workflow.output_settings.dryrun)  # after a kill the command goes on; two runs stay apart


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/cells.smk"
include: "workflow/rules/stability.smk"
include: "workflow/rules/faithfulness.smk"
include: "workflow/rules/analysis.smk"


rule all:
    default_target: True
    input:
        # Cells too: Snakemake would not miss a result whose tables are there already.
        CELLS,
        STABLE,
        rules.tables.output,
        rules.figures.output,
        rules.report.output,
