#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

# Trains for as long as Slurm lets it, goes back into the queue, and goes on from where it was.
# Flags of python -m psdp.worker may follow: sbatch examples/batch/slurm.sh --mode ssp

run=runs/$SLURM_JOB_ID
resume=()
if [ -n "$(ls -d "$run"/checkpoints/step-* 2>/dev/null)" ]; then
    resume=(--resume "$run")
fi

python -m psdp.launch -n "$SLURM_NTASKS" --restarts 3 --out "$run" "${resume[@]}" "$@" &
job=$!
# Slurm tells this shell, which acts on it while it waits, 120 s before the time is over.
trap 'kill -USR1 "$job"; told=yes' USR1

wait "$job"
status=$?
if [ "$told" = yes ]; then # which has ended that wait
    wait "$job"
    status=$?
fi
if [ "$status" = 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
