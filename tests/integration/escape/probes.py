"""Attacks that a single process can try: each says in a line whether it got through.

A system call is made with arguments that do no harm where it is allowed: refused is what the kernel answers
with EPERM, EACCES or ENOSYS before it looks at them.
"""

from __future__ import annotations

import json
import platform

from workers.sandbox import seccomp

# What is refused: the call and its arguments.
CALLS: dict[str, tuple[str, str]] = {
    "a user namespace by unshare": ("unshare", "0x10000000"),
    "a mount namespace by unshare": ("unshare", "0x00020000"),
    "a network namespace by unshare": ("unshare", "0x40000000"),
    "a pid namespace by unshare": ("unshare", "0x20000000"),
    "a user namespace by clone": ("clone", "0x10000000 | 17, 0, 0, 0, 0"),
    "namespaces by clone3, whose arguments no filter can read": ("clone3", "None, 0"),
    "joining another namespace": ("setns", "-1, 0"),
    "mounting a file system": ("mount", "b'tmpfs', b'/dev/shm', b'tmpfs', 0, None"),
    "mounting what it already sees elsewhere": ("mount", "b'/usr', b'/results', None, 4096, None"),
    "remounting the root writable": ("mount", "None, b'/', None, 32, None"),
    "unmounting": ("umount2", "b'/no/such/place', 0"),
    "changing the root by pivot_root": ("pivot_root", "None, None"),
    "changing the root by chroot": ("chroot", "None"),
    "mounting by a detached tree": ("open_tree", "-100, b'/usr', 1"),
    "mounting by a new file system's context": ("fsopen", "None, 0"),
    "moving a mount": ("move_mount", "-1, None, -1, None, 0"),
    "changing a mount's attributes": ("mount_setattr", "-1, None, 0, None, 0"),
    "opening files by handle, past every folder": ("open_by_handle_at", "-1, None, 0"),
    "tracing processes": ("ptrace", "0, 0, 0, 0"),
    "reading another process's memory": ("process_vm_readv", "-1, None, 0, None, 0, 1"),
    "writing another process's memory": ("process_vm_writev", "-1, None, 0, None, 0, 1"),
    "taking another process's descriptors": ("pidfd_getfd", "-1, 0, 0"),
    "comparing kernel objects of processes": ("kcmp", "0, 0, 99, 0, 0"),
    "loading a kernel module": ("init_module", "None, 0, None"),
    "loading a kernel module from a file": ("finit_module", "-1, None, 0"),
    "removing a kernel module": ("delete_module", "None, 0"),
    "loading another kernel": ("kexec_load", "0, 0, None, 0xffff"),
    "rebooting": ("reboot", "0, 0, 0, None"),
    "programs in the kernel (bpf)": ("bpf", "-1, None, 0"),
    "performance counters of the host": ("perf_event_open", "None, 0, -1, -1, 0"),
    "io_uring, which no filter sees into": ("io_uring_setup", "0, None"),
    "handling page faults of the kernel": ("userfaultfd", "0xffff"),
    "the kernel's keyrings": ("keyctl", "0, -3, 0"),
    "adding a key to the kernel": ("add_key", "None, None, None, 0, 0"),
    "asking the kernel for a key": ("request_key", "None, None, None, 0"),
    "the kernel's log": ("syslog", "10, None, 0"),
    "setting the clock": ("clock_settime", "0, None"),
    "slewing the clock": ("clock_adjtime", "0, None"),
    "setting the time of day": ("settimeofday", "None, None"),
    "renaming the host": ("sethostname", "None, -1"),
    "swapping": ("swapon", "b'/no/such/file', 0"),
    "process accounting": ("acct", "b'/no/such/file'"),
    "disk quotas": ("quotactl", "-1, None, 0, None"),
    "watching every file system": ("fanotify_init", "0xffffffff, 0"),
}

_PROCESS = "open('/proc/self/status').read()"

# What is refused: Python whose last line says whether it got through; an OSError means that it did not.
PROBES: dict[str, str] = {
    "any capability": f"""
lines = {_PROCESS}.splitlines()
any(int(line.split()[1], 16) for line in lines if line[:3] == 'Cap')
""",
    "gaining privileges by running a program": f"'NoNewPrivs:\\t1' not in {_PROCESS}",
    "running without a system-call filter": f"'Seccomp:\\t2' not in {_PROCESS}",
    "being root": "0 in (*os.getresuid(), *os.getresgid(), *os.getgroups())",
    "becoming root by setuid": "os.setuid(0) is None",
    "becoming root by a setuid program": """
process = subprocess.Popen(["/usr/bin/su"], stdin=-1, stdout=-1, stderr=-1)
time.sleep(0.5)
'Uid:\\t%d\\t0' % os.getuid() in open(f'/proc/{process.pid}/status').read()
""",
    "setuid files of its own": """
path = '/tmp/own'; open(path, 'w').close(); os.chmod(path, 0o4755)
not os.statvfs(path).f_flag & os.ST_NOSUID
""",
    "lifting the filter by a filter of its own": """
program = struct.pack('HBBI', 6, 0, 0, 0x7fff0000)
buffer = ctypes.create_string_buffer(program)
libc.prctl(22, 2, ctypes.byref(Program(1, ctypes.addressof(buffer))), 0, 0)
call(NUMBERS['unshare'], 0x10000000)
""",
    "giving a file to another owner": """
open('/tmp/given', 'w').close()
os.chown('/tmp/given', 0, 0) is None
""",
    "making a device": "os.mknod('/tmp/device', 0o20666, os.makedev(1, 1)) is None",
    "using a device made in the workspace": """
os.mknod('/tmp/zero', 0o20666, os.makedev(1, 5))
open('/tmp/zero', 'rb').read(1) == b'\\0'
""",
    "a handler of core dumps": "open('/proc/sys/kernel/core_pattern', 'r+').close() is None",
    "kernel settings": "open('/proc/sys/kernel/randomize_va_space', 'r+').close() is None",
    "settings of its network": "open('/proc/sys/net/ipv4/ip_forward', 'r+').close() is None",
    "the system request key": "open('/proc/sysrq-trigger', 'r+').close() is None",
    "the loader of modules": "open('/proc/sys/kernel/modprobe', 'r+').close() is None",
    "the agent that the host runs for an empty control group": """
paths = glob.glob('/sys/fs/cgroup/**/release_agent', recursive=True)
any(open(path, 'r+').close() is None for path in paths)
""",
    "raising its own limits in its control group": """
names = ('memory.limit_in_bytes', 'memory.max', 'pids.max')
paths = [path for name in names for path in glob.glob('/sys/fs/cgroup/**/' + name, recursive=True)]
any(open(path, 'r+').close() is None for path in paths)
""",
    "a control group of its own": """
any(os.mkdir(f'{folder}/own') is None for folder in ('/sys/fs/cgroup', *glob.glob('/sys/fs/cgroup/*/')))
""",
    "settings of the host's devices": """
paths = ['/sys/kernel/mm/transparent_hugepage/enabled', '/sys/power/state']
any(open(path, 'r+').close() is None for path in paths)
""",
    "the kernel's memory": """
any(open(path, 'rb').read(1) for path in ('/dev/mem', '/proc/kcore') if os.path.exists(path))
""",
    "the kernel's messages": "bool(os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK))",
    "the host's disks": """
found = [name for name in os.listdir('/dev') if name[:2] in ('sd', 'vd', 'nv', 'xv', 'dm', 'lo')]
any(open(f'/dev/{name}', 'rb') for name in found)
""",
    "the host's root by the first process": "bool(os.listdir('/proc/1/root/home'))",
    "writing to its root": "open('/written', 'w').close() is None",
    "writing to /usr": "open('/usr/written', 'w').close() is None",
    "writing to /etc": "open('/etc/written', 'w').close() is None",
    "writing to /dev": "open('/dev/written', 'w').close() is None",
    "reading the host's passwords": "bool(open('/etc/shadow').read())",
    "engine sockets": """
places = ('docker.sock', 'containerd/containerd.sock', 'podman/podman.sock', 'crio/crio.sock')
any(os.path.exists(f'{folder}/{place}') for folder in ('/run', '/var/run') for place in places)
""",
    "the host's services": """
any(os.path.exists(path) for path in ('/run/systemd/private', '/run/dbus/system_bus_socket'))
""",
    "seeing processes that are not its own": "len([n for n in os.listdir('/proc') if n.isdigit()]) > 12",
    "raw packets": "bool(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))",
    "packets below IP": "bool(socket.socket(17, socket.SOCK_RAW))",
    "the kernel's cryptography sockets": "bool(socket.socket(38, socket.SOCK_SEQPACKET))",
    "sockets to virtual machines": "bool(socket.socket(40, socket.SOCK_STREAM))",
    "typing into a terminal": """
import pty, fcntl
_, terminal = pty.openpty()
fcntl.ioctl(terminal, 0x5412, b'x') is not None
""",
    "dumping core": "resource.getrlimit(resource.RLIMIT_CORE)[1] != 0",
    "raising a limit of its own": """
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1)) is None
""",
    "a better priority than others": "os.nice(-5) < 0",
    "ports that only root may have": """
with open('/proc/sys/net/ipv4/ip_unprivileged_port_start') as file: first = int(file.read())
first > 80 and socket.socket().bind(('127.0.0.1', 80)) is None
""",
}

_RUNNER = r"""
import ast, ctypes, errno, glob, json, os, resource, signal, socket, struct, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
CALLS, PROBES, NUMBERS = json.load(open(sys.argv[1]))

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

def call(number, *arguments):
    values = [a if isinstance(a, bytes) or a is None else ctypes.c_long(a) for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *values)
    if number == NUMBERS["clone"] and result == 0:
        os._exit(0)
    code = ctypes.get_errno() if result == -1 else 0
    if code in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    return True

def got_through(code):
    tree = ast.parse(code.strip())
    exec(compile(ast.Module(tree.body[:-1], []), "probe", "exec"), globals())
    return bool(eval(compile(ast.Expression(tree.body[-1].value), "probe", "eval"), globals()))

def tried(code):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            said = ["got through" if got_through(code) else "refused", ""]
        except (OSError, ValueError) as error:  # the latter of setrlimit
            said = ["refused", str(error)]
        except BaseException as error:
            said = ["broken", repr(error)]
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096)
    os.waitpid(pid, 0)
    return json.loads(said) if said else ["refused", "killed"]

found = {name: tried(f"call({NUMBERS[call]}, {arguments})") for name, (call, arguments) in CALLS.items()}
found |= {name: tried(code) for name, code in PROBES.items()}
print(json.dumps(found))
"""


def program() -> tuple[str, bytes]:
    """Return the runner, and the file of all probes that it is to be given by name."""
    return _RUNNER, json.dumps([CALLS, PROBES, seccomp.numbers(platform.machine())]).encode()
