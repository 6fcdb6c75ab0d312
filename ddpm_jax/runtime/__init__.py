"""Runtime services of every program: devices, hosts, files, images, signals.

    startup, streams, interrupts    before JAX starts, standard output, signals
    devices, hosts, capacity        accelerators, several processes, memory
    files, partial_results          atomic writes, JSON and NPZ, long measurements
    batching, results, recent       rows in batches, folders of results, kept programs
    images, image_file, plots       arrays <-> PNG and GIF, reading image files, charts

Nothing here depends on models, configs or rooms but `errors`.
"""
