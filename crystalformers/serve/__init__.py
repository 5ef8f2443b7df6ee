"""Trained models as a local page, an HTTP service and tools for AI assistants.

A request travels through these files:

    protection.py  token, limits and headers, before anything is read
    api.py         the paths of the HTTP service; schemas.py has their bodies
    reading.py     the text of a structure to crystals, in the process of reader.py
    batches.py     requests that wait together are computed together, in one thread
    work.py        what is computed: predictions, vectors, attention
    elements.py    tables of element vectors for the periodic table of the page

`service.py` holds the parts together, `run.py` starts and stops them, `static/` is the page, and `assistant.py` offers
the same to AI assistants, by the Model Context Protocol.
"""
