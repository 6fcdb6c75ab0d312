"""A local web page on a trained model: `python -m ddpm_jax.playground --workdir=DIR`.

    choices     what the page asks for -> a config, and the command line that says it
    programs    the chain in parts: compiled, and kept
    jobs        one drawing or edit, step by step, one at a time on the device
    pictures    films to sheets and files, uploads and masks to what an edit reads
    painter     the canvas on which a mask is painted
    page        the layout, and what its buttons do
    gate        which requests are answered: from whom, for what, of what size
    scratch     the temporary folder, and the files that may be read of it
    server      the address, and how it all ends

Nothing else in the package imports this room, and gradio is used in `page` and `server`
alone: what is behind the page works without it.
"""
