"""The guards of ``p2p.host.workarounds`` against their faults: off, the fault shows; on, it does not.

Most guards override one method of a library class, so that "off" is the class without the override. A test that fails
for ``guard_off`` means that the library has been mended and the guard can go.
"""
