#!/usr/bin/env bash
# The main job on real input: a bug of boltons 26.1.0 that its maintainers fixed in 26.2.0, with 26.2.0's test as the
# failing test. Safe to run again; what is there already is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
case_id=${1:-boltons-indexedset-update}
folder=.loopwright/demo
say() { printf '\033[1m[demo]\033[0m %s\n' "$*" >&2; }

say "1/3 the model (1.1 GB to download, the first time)"
"$bin/loopwright" model pull >/dev/null
say "2/3 the repository: two releases of a library, from their sdists"
"$bin/python" -m tests.benchmarks.real_cases.build --out "$folder" --only "$case_id" >/dev/null
say "3/3 loopwright fix $folder/$case_id/repo"
mapfile -d '' arguments < <("$bin/python" - "$folder/tasks.jsonl" "$case_id" <<'PY'
import json, sys
tasks = (json.loads(line) for line in open(sys.argv[1], encoding="utf-8"))
task = next(task for task in tasks if task["task_id"] == sys.argv[2])
arguments = [task["repo"], "--issue", task["statement"], "--test-command", task["test_command"]]
for test_id in task["fail_to_pass"]:
    arguments += ["--test", test_id]
sys.stdout.write("".join(f"{argument}\0" for argument in arguments))
PY
)
exec "$bin/loopwright" fix "${arguments[@]}" ${DEMO_FLAGS:-}
