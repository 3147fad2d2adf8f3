"""Process 1 of the generic initrd, as text: it only finds the agent and starts it.

Mounts, modules and network are the agent's. When the agent cannot even be imported, the console
says why and the box goes off instead of hanging with a panic.
"""

INIT = """\
#!/usr/bin/python3 -ISB
import os, sys
os.environ["CRYPTOGRAPHY_OPENSSL_NO_LEGACY"] = "1"
sys.path[:0] = ["/doorstep/python"]
sys.path.append("/usr/lib/python3/dist-packages")
try:
    from {agent} import main
    main()
except BaseException:
    import traceback
    traceback.print_exc()
finally:
    import ctypes
    os.sync()
    ctypes.CDLL(None).reboot(0x4321FEDC)
"""
