"""`fwagent report`: one page of figures. ``figures`` counts, ``charts`` draws, ``page`` puts it together."""
