"""A batch script for SLURM: one task per rank, saved before the limit, requeued until it is done.

The hosts are looked at inside the job, as nobody knows them before.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from megadga.config.deepspeed import accumulation_steps
from megadga.config.loading import load_config
from megadga.console import USER_ERROR
from megadga.errors import ConfigError
from megadga.launch.options import LaunchRequest, common_parser, shown_duration, to_request
from megadga.launch.plan import exit_code_of, here_document, is_finished, make_output
from megadga.launch.ranks import EXPECTED_RANKS
from megadga.launch.supervision import STOPPED
from megadga.run_folder.failures import FOLDER as FAILURES
from megadga.run_folder.markers import DONE, REQUEUE, rewind_run

_OPTION = re.compile(r"[a-z][a-z-]*(=.*)?", re.ASCII | re.DOTALL)


_OWN = ("nodes", "ntasks-per-node", "time", "requeue", "open-mode", "signal", "output")


_SCRIPT = """\
#!/bin/bash
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={ranks_per_node}
{time}#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@{save_s}
set -u
output={output}
export {expected}={ranks}
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT="$((20000 + SLURM_JOB_ID % 12000))"
export MASTER_ADDR MASTER_PORT
rm -rf "$output/{failures}"
{preflight} || exit

# The request to stop is repeated until the step has ended: the first may reach a task before its
# program has a handler, and is ignored then.
step=
near_limit=
ask_to_stop() {{ (while kill -USR1 "$step"; do sleep 5; done) 2> /dev/null & }}
trap 'near_limit=yes; ask_to_stop' USR1
trap ask_to_stop TERM

srun --kill-on-bad-exit=1 ${{SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"}} \\
    bash -c 'trap "" USR1; exec "$@"' bash \\
    {train} &
step=$!
[ -z "$near_limit" ] || ask_to_stop
while wait "$step"; code=$?; kill -0 "$step" 2> /dev/null; do :; done

# By markers, not by exit codes; and a job that was cancelled stays so.
if [ -n "$near_limit" ] && [ -e "$output/{requeue}" ] && [ ! -e "$output/{done}" ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
if [ "$code" -ne 0 ] && [ "$code" -ne {stopped} ]; then
    trap '' TERM  # which SLURM sends to all that is left of a job that has lost a node
    lost="$(sinfo --dead --noheader --Node --nodes="$SLURM_JOB_NODELIST" --format=%N)"
    {describe_failure} "$code" "$output" $lost
fi
exit "$code"
"""


def slurm_script(request: LaunchRequest, output: Path, *, python: str = sys.executable) -> str:
    """Return the batch script.

    Args:
        request: What the user asked for, with a number of accelerators.
        output: The run's folder, absolute.
        python: The interpreter, by a path that holds on every machine.
    """
    assert request.accelerators_per_node is not None
    limit = "" if request.time_s is None else f"#SBATCH --time={shown_duration(request.time_s)}\n"
    return _SCRIPT.format(
        nodes=request.nodes,
        ranks_per_node=request.accelerators_per_node,
        ranks=request.nodes * request.accelerators_per_node,
        time=limit,
        save_s=request.save_s,
        output=shlex.quote(str(output)),
        expected=EXPECTED_RANKS,
        failures=FAILURES,
        preflight=shlex.join(request.doctor(python)),
        train=shlex.join(request.train(python)),
        describe_failure=shlex.join((python, "-m", "megadga.run_folder.failures")),
        stopped=STOPPED,
        requeue=REQUEUE,
        done=DONE,
    )


def sbatch_command(output: Path, options: Sequence[str]) -> tuple[str, ...]:
    """Return what submits a script from standard input.

    Args:
        output: The run's folder, absolute: the log goes there.
        options: ``KEY`` or ``KEY=VALUE`` each, as sbatch has them, without dashes.
    """
    log = str(output).replace("%", "%%") + "/slurm-%j.log"
    return ("sbatch", f"--output={log}", *(f"--{option}" for option in options))


def main(arguments: Sequence[str], *, prog: str = "megadga launch slurm") -> int:
    """Run ``megadga launch slurm``; return the exit code."""
    parser = common_parser(
        prog,
        "Submit a run to SLURM: a task per accelerator. Before its limit the run saves, and the "
        "job goes back into the queue, until the run is finished.",
        restarts=False,
    )
    parser.add_argument(
        "--sbatch-option",
        dest="sbatch_options",
        action="append",
        default=[],
        type=_option,
        metavar="KEY=VALUE",
        help="any option of sbatch, as partition=gpu, account=a, gres=gpu:8 or exclusive; "
        "accelerators are given only to jobs that ask for them so; repeatable",
    )
    options = parser.parse_args(arguments)
    request = to_request(parser, options)
    return exit_code_of(lambda: _submit(request, options.sbatch_options))


def _submit(request: LaunchRequest, options: Sequence[str]) -> int:
    if request.accelerators_per_node is None:
        raise ConfigError("--accelerators-per-node: expected the ranks of a node, found nothing")
    config = load_config(request.config, request.overrides)
    if is_finished(config, request):
        return 0
    accumulation_steps(config, request.nodes * request.accelerators_per_node)
    output = config.output.absolute()
    script, command = slurm_script(request, output), sbatch_command(output, options)
    if request.dry_run:
        print(here_document(shlex.join(command), script))
        return 0
    if shutil.which("sbatch") is None:
        raise ConfigError("sbatch: expected it on the search path of this machine, found none")
    make_output(config)
    if request.resume_from is not None:
        rewind_run(config, request.resume_from)
    # sbatch says which job it has become, or what is wrong.
    submitted = subprocess.run(command, input=script, text=True, check=False)  # noqa: S603
    return USER_ERROR if submitted.returncode else 0


def _option(text: str) -> str:
    if not _OPTION.fullmatch(text) or text.partition("=")[0] in _OWN:
        raise argparse.ArgumentTypeError(
            f"expected KEY=VALUE with another KEY than {', '.join(_OWN)}, found {text!r}"
        )
    return text
