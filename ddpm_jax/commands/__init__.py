"""What main.py can do: train a model, draw, edit and measure, take in and give out.

A folder holds a run and all that was made with its model.

workdir/
    config.json       the config, as JSON
    checkpoints/      parameters, averages, optimiser, and how to use them
    metrics.jsonl     a line a report; loss.png is drawn from it
    tensorboard/      the same, and the sample grids
    progress/         grids and film strips drawn while training
    look.txt          what the data hold; look.png shows some of them
    broken.txt        files that cannot be read, if there are any
    forward.png       real images on their way into noise
    samples/0001/     what was drawn: grid, film strips, GIF, PNGs, NPZ
    edits/0001/       what was made of given pictures, likewise
    likelihood/0001/  bits per dimension: numbers, terms, plot
"""
