"""One HTML file that shows a run or an evaluation: curves, figures, every trajectory.

`contents` reads a work directory, `view` and `memory_life` make of a trajectory what a page shows
of it, `figures` draws, `page` puts it together, `write` writes it, `growing` while a run trains.
"""
