"""The crafting engine: what is perturbed, by which steps, against which networks.

``_sets`` says what a perturbation may be, ``_steps`` how it moves, ``_members`` holds
the trained networks, ``_matching`` and its like are objectives, ``_minimise`` is the
loop. Each attack names a combination. All of it works on tensors whose leading axes
are (problems, restarts, rows), in the unit that the networks take: pixels of uint8
images are divided by 255 on the way in, see :mod:`skpoison.attacks._craft._sets`.
"""
