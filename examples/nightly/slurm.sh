#!/bin/bash
#SBATCH --job-name=soup-nightly
#SBATCH --gpus=1
#SBATCH --time=04:00:00
#SBATCH --output=soup-nightly.log
#SBATCH --open-mode=append

# Submitted once, it goes on in as many jobs as it takes: sbatch slurm.sh
limit=${LIMIT:-4:00:00} # as --time above
soup nightly "${CKPTS:-ckpts/*}" --bench MMStar --bench AI2D_TEST \
  --publish "${PUBLISH:-published}" --time-limit "$limit" --json night.json
code=$?

case $code in
  0 | 3 | 4) echo "verdict: exit code $code" ;;
  75) sbatch "${SLURM_SUBMIT_DIR:-.}/slurm.sh" ;; # the time was over; what was scored is kept
  *) exit "$code" ;;
esac
