# From configuration to tables and figures:
#   snakemake --cores all [--config KEY=VALUE ...]
# Hydra's files under conf/ say what is computed; nothing here does. Keys:
#   experiment=NAME  of conf/experiment (default)      root=FOLDER  where results lie (results)
#   wandb=MODE       online, offline or disabled       lock=false   where the file system cannot lock files
#   stability_of=marked|all|none                       of which circuits stability is measured: those whose rows say so
#   resamples=20 seeds=5                               of stability, for every row; unsaid, the row's own numbers
#   random_circuits=100 inflated=100                   sample sizes of faithfulness; unsaid, 30 each
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from pahq.errors import PahqError
from pahq.experiments.compose import groups
from pahq.experiments.jobs import done_marker, stability_jobs
from pahq.experiments.progress import write_plan
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
LIVE = join_runs(ROOT)  # after a kill the same command goes on; two runs at once stay apart


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/cells.smk"
include: "workflow/rules/stability.smk"
include: "workflow/rules/faithfulness.smk"
include: "workflow/rules/analysis.smk"


onstart:
    write_plan(Path(PLAN), [cell_id for group in GROUPS for cell_id in group.cells])


rule all:
    default_target: True
    input:
        # Cells too: Snakemake would not miss a result whose tables are there already.
        CELLS,
        STABLE,
        rules.tables.output,
        rules.figures.output,
