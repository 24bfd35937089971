"""Evaluate predictions with VLMEvalKit alone, as it is installed; nothing of ours is imported.

Run as a script, so that nothing of ours has changed it:
    python evaluate_by_hand.py DATA_DIR < tasks  → one line of JSON, the reports in order
where tasks is a JSON list of [class, name, file of predictions, model].
"""

import json
import os
import sys

(DATA,) = sys.argv[1:]
os.environ["LMUData"] = DATA
os.environ["PRED_FORMAT"] = "tsv"

from vlmeval import dataset as datasets  # noqa: E402


def main() -> None:
    """Report on each data set; the files under these names are not those VLMEvalKit knows."""
    reports = []
    for kind, name, predictions, model in json.load(sys.stdin):
        cls = getattr(datasets, kind, None) or getattr(datasets.image_vqa, kind)
        cls.DATASET_MD5 = {}
        report = cls(dataset=name).evaluate(predictions, model=model, nproc=4)
        reports.append(report if isinstance(report, dict) else report.to_dict("records"))
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
