"""Evaluation: generate samples, extract their features, and compare them with real images.

Read metrics.py first: it lists the metrics and computes them from features (frechet.py, fid_infinity.py,
precision_recall.py, uncertainty.py).  Features come from extractors/ by feature_extraction.py and are kept by
feature_store.py.  A run uses generation.py, evaluator.py and run_metrics.py.  bench.evaluate uses
comparison_request.py, comparison_plan.py, comparison.py and comparison_report.py; its inputs are in inputs.py and
image_io.py.  bench.reference uses reference_statistics.py and reference_manifest.py.
"""
