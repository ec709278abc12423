"""A local page to play with a model: it fills masks as one types, classifies, shows pieces and attention.

    page.html, page.css, page.js  --HTTP on 127.0.0.1-->  server.py  -->  subject.py, attention.py

The page asks nobody but this process, which listens to this machine alone and keeps nothing that is typed.
"""
