"""What benchmarks are called as data sets on the Hugging Face hub, by their own authors."""

HUB_DATASETS = {
    "MMStar": "Lin-Chen/MMStar",
    "MathVista_MINI": "AI4Math/MathVista",
    "MMMU_DEV_VAL": "MMMU/MMMU",
    "OCRBench": "echo840/OCRBench",
}
"""By VLMEvalKit's name; only where both are the same questions."""
