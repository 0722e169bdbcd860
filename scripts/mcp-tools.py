"""Asks an MCP server for its tools: mcp-tools.py FILE COMMAND... writes the list, as one line of JSON, to FILE.

mcp-tools.py --docker is a Docker engine that tells its version and nothing else.
"""

import http.server
import json
import socketserver
import subprocess
import sys


class Docker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"Version": "1", "ApiVersion": "1.40"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def ask(file, command):
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    last = 0

    def call(method, **params):
        nonlocal last
        last += 1
        send({"jsonrpc": "2.0", "id": last, "method": method, "params": params})
        for line in server.stdout:
            if line.startswith(b"{") and (answer := json.loads(line)).get("id") == last:
                return answer["result"]
        sys.exit(f"{command}: it has ended")

    def send(message):
        server.stdin.write(json.dumps(message).encode() + b"\n")
        server.stdin.flush()

    call("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "list", "version": "1"})
    send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    page = call("tools/list")
    tools = page["tools"]
    while page.get("nextCursor"):
        page = call("tools/list", cursor=page["nextCursor"])
        tools += page["tools"]
    server.kill()
    with open(file, "w", encoding="utf-8") as f:
        json.dump({"tools": tools}, f, separators=(",", ":"), ensure_ascii=False)
    print(f"{file}: {len(tools)} tools")


if sys.argv[1] == "--docker":
    socketserver.ThreadingUnixStreamServer("/var/run/docker.sock", Docker).serve_forever()
ask(sys.argv[1], sys.argv[2:])
