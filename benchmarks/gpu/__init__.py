"""The check for the day a GPU is at hand: ``benchmarks/gpu_check.sh`` runs its parts (docs/gpu_check.md)."""
