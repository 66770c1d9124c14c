import array, ctypes, errno, os, select, socket, struct, subprocess, sys, time

MARK = b"egress-warden test packet"
libc = ctypes.CDLL(None, use_errno=True)

def say(*words):
    print(*words, flush=True)

def wait():
    line = sys.stdin.readline()
    if not line:
        sys.exit(9)
    return line.strip()

def how(action):
    """`ok`, or the name of the error."""
    try:
        action()
        return "ok"
    except TimeoutError as error:
        return "ETIMEDOUT" if error.errno is None else errno.errorcode[error.errno]
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))

def tcp(host, port, family=socket.AF_INET, protocol=0):
    made = socket.socket(family, socket.SOCK_STREAM, protocol)
    made.settimeout(5)
    made.connect((host, port))
    return made

def listen(host, port, family=socket.AF_INET, protocol=0, dual=False):
    made = socket.socket(family, socket.SOCK_STREAM, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
    made.bind((host, port))
    made.listen(128)
    made.settimeout(5)
    return made

def udp(host, port, family=socket.AF_INET):
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((host, port))
    made.settimeout(5)
    return made

def disconnect(made):
    """connect(AF_UNSPEC), which Python does not offer."""
    if libc.connect(made.fileno(), struct.pack("=H14x", 0), 16) != 0:
        raise OSError(ctypes.get_errno(), "connect")

def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def ipv4(source, destination, protocol, payload, ihl=5, fragment=0, options=b""):
    length = 20 + len(options) + len(payload)
    source, destination = socket.inet_aton(source), socket.inet_aton(destination)
    start = struct.pack("!BBHHHBB", 0x40 | ihl, 0, length, 1, fragment, 64, protocol)
    head = start + b"\0\0" + source + destination + options
    return start + struct.pack("!H", checksum(head)) + source + destination + options + payload

def ipv6(source, destination, following, payload):
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + addresses + payload

def datagram(source_port, port, payload=MARK):
    return struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload

def segment(source, destination, source_port, port, flags, sequence=1000, acknowledged=0):
    def head(check):
        return struct.pack(
            "!HHIIBBHHH", source_port, port, sequence, acknowledged, 5 << 4, flags, 65535, check, 0
        )
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, 6, 20)
    return head(checksum(pseudo + head(0)))

# With headers of one's own the protocol says nothing any more; no policy opens IPPROTO_RAW itself.
def raw4():
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    return made

def raw6():
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    made.setsockopt(socket.IPPROTO_IPV6, 36, 1)
    return made
