"""Scenes: things in three dimensions, and their images, as pure functions of arrays.

The world is right-handed with y up, and the thing lies in the ball of radius 1 around
the origin, its front towards +z. `cameras` says where one stands and gives rays;
`fields` are densities and colors in space, and `volume` renders them. `tetrahedra` make
a `mesh` of a signed distance, which `distance` finds in a density, `raster` renders it,
and `mesh_file` writes it; `surface` is the way from a grid to images as one function.
The room knows nothing of diffusion: a renderer is a differentiable function from
parameters to images [..., H, W, 3] in [0, 1], and what is asked of the images is
another's affair.
"""
