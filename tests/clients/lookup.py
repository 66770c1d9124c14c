# Resolves a name as Python programs do and connects to it, and tells on one line of JSON how that went.
#
#   lookup.py NAME PORT 4|6|any
import errno, json, socket, sys, time

name, port, family = sys.argv[1], int(sys.argv[2]), sys.argv[3]
families = {"4": socket.AF_INET, "6": socket.AF_INET6, "any": socket.AF_UNSPEC}
told = {"error": None, "addresses": [], "connect": None}

start, found = time.monotonic(), []
try:
    found = socket.getaddrinfo(name, port, families[family], socket.SOCK_STREAM)
except socket.gaierror as failure:
    names = {getattr(socket, key): key for key in dir(socket) if key.startswith("EAI_")}
    told["error"] = names.get(failure.errno, str(failure))
told["resolve_us"] = int((time.monotonic() - start) * 1e6)

start = time.monotonic()
for kind, _, _, _, place in found:
    told["addresses"].append(place[0])
    if told["connect"] == "ok":
        continue
    with socket.socket(kind, socket.SOCK_STREAM) as made:
        made.settimeout(3)
        try:
            made.connect(place)
            told["connect"] = "ok"
        except TimeoutError:
            told["connect"] = "ETIMEDOUT"
        except OSError as failure:
            told["connect"] = errno.errorcode.get(failure.errno, str(failure))
told["connect_us"] = int((time.monotonic() - start) * 1e6)
print(json.dumps(told))
