"""Data sets, latents and their encoding, and batches drawn ahead of the trainer.

Read sources.py first: `open_source` turns the string of --data into a `DataSource`, `open_dataset` into a `Dataset`
(both types are in dataset.py).

archives.py, array_folder.py, digits.py, huggingface.py, image_folder.py, synthetic_shapes.py   formats
decoding.py, numpy_files.py   image decoding and crop; .npy headers
latents.py, latent_plan.py, latent_encoding.py, latent_workers.py, autoencoder.py   latents and their encoding
prefetch.py   batches drawn ahead by threads
"""
