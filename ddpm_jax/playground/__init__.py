"""A local web page on a trained model: `python -m ddpm_jax.playground --workdir=DIR`.

    choices     fields of the page -> a request, and the equivalent command line
    programs    the chain in parts: compiled, and kept
    jobs        one sampling run or edit, step by step, one at a time
    pictures    trajectories as sheets and files, uploads and masks
    painter     the canvas on which a mask is painted
    page        the layout, and what its buttons do
    gate        which requests are answered: from whom, for what, of what size
    scratch     the temporary folder, and the files that may be read of it
    server      the address, and how it all ends

Nothing else in the package imports this room, and gradio is used in `page` and `server`
alone: what is behind the page works without it.
"""
