"""Feature extractors: functions from images to the features that metrics compare.

Read extractor_registry.py first.  inception_dinov2.py has the published networks, small_cnn.py those that are
trained here, torch_fidelity_adapter.py their torch-fidelity interface, weight_hashes.py the hashes of weights.
"""
