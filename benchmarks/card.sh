#!/usr/bin/env bash
# Everything that needs a GPU, in order of value, in under ten minutes of it. Each part prints as it ends, has a limit of
# its own, and leaves its record in a folder; a part that fails is told at the end and stops no other.
#
#   benchmarks/card.sh [FOLDER]            default: benchmarks/results/card
#   benchmarks/card.sh --try [FOLDER]      the same parts on a CPU, on tiny shapes: whether the script itself works
#
# PYTHON names the interpreter (default: .venv/bin/python, else python3). WHEELS, a folder of wheels, is installed from first:
# beside torch this needs hydra-core, omegaconf, antlr4-python3-runtime, pydantic, jaxtyping, hypothesis, pytest-xdist and
# allpairspy, and what these need.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
TRY=
if [ "${1:-}" = --try ]; then TRY=1; shift; fi
OUT=${1:-benchmarks/results/card}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$OUT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONPATH="$PWD:$PWD/tests:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
FAILED=()

part() { # NAME SECONDS COMMAND...: one part, its output in OUT/NAME.log
	local name=$1 limit=$2 start=$SECONDS
	shift 2
	if timeout "$limit" "$@" > "$OUT/$name.log" 2>&1; then
		echo "== $name: $((SECONDS - start)) s"
	else
		echo "== $name: failed after $((SECONDS - start)) s"
		FAILED+=("$name")
	fi
	tail -n 12 "$OUT/$name.log"
}

if [ -n "${WHEELS:-}" ]; then
	part wheels 60 "$PYTHON" -m pip install --disable-pip-version-check -q --no-index --find-links "$WHEELS" "$WHEELS"/*.whl
fi
if [ -n "$TRY" ]; then
	part tests 120 "$PYTHON" -m pytest -q -p no:cacheprovider tests/engine/test_synchronisation.py -k listener
	part sparse-16 60 "$PYTHON" benchmarks/card.py --device cpu --shape tiny --rounds 1 \
		--ways "float32;float32, not recorded;tf32;bf16;tf32, changes;bf16, changes;int8, changes" \
		--json "$OUT/sparse-16.json"
	part rounds 60 "$PYTHON" benchmarks/card_rounds.py --device cpu --recordings --json "$OUT/rounds.json"
	part scores 60 "$PYTHON" benchmarks/scores.py --device cpu --card small --json "$OUT/scores.json"
else
	# The same decisions on the card as on a CPU, by every engine, store and kernel; recorded rounds first.
	part recorded 60 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu tests/engine/test_recorded.py
	# Does recording pay, and do bits then buy time? GPT-2's shape at a dense and at a sparse threshold.
	part dense-16 100 "$PYTHON" benchmarks/card.py --threshold 0.001 --rounds 1 --sample 0 --seconds 75 --json "$OUT/dense-16.json" \
		--ways "float32;float32, not recorded;tf32;bf16;tf32, not recorded;float32, windows of 8,192 rows;tf32, changes"
	part dense-100 120 "$PYTHON" benchmarks/card.py --threshold 0.001 --prompts 100 --tests 2500 --rounds 1 --sample 0 \
		--seconds 80 --json "$OUT/dense-100.json" \
		--ways "float32;float32, not recorded;tf32;bf16;bf16, changes;tf32, changes"
	part sparse-16 80 "$PYTHON" benchmarks/card.py --rounds 2 --seconds 50 --json "$OUT/sparse-16.json" \
		--ways "float32;float32, not recorded;tf32;tf32, changes;bf16, changes;int8, changes;fp8, changes;int8"
	# Rounds, what recording them costs, and how much of the time the card is at work.
	part rounds 70 "$PYTHON" benchmarks/card_rounds.py --prompts 100 --ways "float32;tf32" --recordings --busy --json "$OUT/rounds.json"
	part tests 90 "$PYTHON" -m pytest -q -p no:cacheprovider -n 8 -m gpu tests/engine tests/model tests/precision tests/scores
	# EAP-IG of a whole model of Llama-3-8B's shape.
	part scores 80 "$PYTHON" benchmarks/scores.py --card llama-3-8b --json "$OUT/scores.json"
fi
if [ ${#FAILED[@]} -gt 0 ]; then
	echo "failed: ${FAILED[*]}"
	exit 1
fi
echo "done in $SECONDS s; records in $OUT"
