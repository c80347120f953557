"""`fwagent demo`: the whole way there and back, on a throwaway database, with the real daemon."""
