"""`fwagent demo`: the whole way there and back, on a throwaway database, with the real daemon."""

from agent.demo.show import run_demo

__all__ = ["run_demo"]
