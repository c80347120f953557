"""The LaunchPad: documents, states, plans, and the one module that talks to MongoDB."""
