"""What limits rest on: this process alone (`memory`), or a Valkey or Redis that several replicas share (`shared`).

Only admission state is here, and all of it is derived: losing a store loses no money and no books. When a request is
admitted is in `proxy.admitting`, what a limit is in `core.money.limits`.
"""
