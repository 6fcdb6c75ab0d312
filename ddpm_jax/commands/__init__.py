"""What main.py can do: train a model, and draw from one. A folder holds a run.

workdir/
    config.json       the config, as JSON
    checkpoints/      parameters, averages, optimiser, and how to use them
    metrics.jsonl     a line a report; loss.png is drawn from it
    tensorboard/      the same, and the sample grids
    progress/         grids and film strips drawn while training
    forward.png       real images on their way into noise
    samples/NAME/     what was drawn: grid, film strips, GIF, PNGs, NPZ
"""
