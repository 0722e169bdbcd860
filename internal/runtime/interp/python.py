# The kept Python interpreter. Two processes: a server, which listens on a Unix socket and takes one
# request at a time, and a worker, which runs the code in its main thread and keeps what it defines.
# The server outlives the worker: it interrupts it, and replaces one that died.
#
# A request is a line of JSON: {"code", "timeout", "generation", "restart"}. The answer is lines of
# JSON: {"o": base64} and {"e": base64} for what was written, then one with "done". A client that
# goes away before that interrupts the code.
import ast, base64, json, os, select, signal, socket, sys, time, types

GRACE = 2.0  # seconds from an interrupt to the end of the worker
VALUE = 1 << 16  # characters of a value or a traceback that are told


def work(control, out, err):
    """The worker: reads requests from control and answers each with one line."""
    import linecache, traceback
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(out, 1)
    os.dup2(err, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for fd in (out, err, null):
        os.close(fd)
    sys.stdin = open(0, 'r', closefd=False)
    sys.stdout = open(1, 'w', buffering=1, encoding='utf-8', errors='replace', closefd=False)
    sys.stderr = open(2, 'w', buffering=1, encoding='utf-8', errors='replace', closefd=False)
    main = types.ModuleType('__main__')
    main.__dict__['__builtins__'] = __builtins__
    sys.modules['__main__'] = main
    sys.argv = ['']
    generation, cell = None, 0
    requests = control.makefile('r', encoding='utf-8', newline='\n')
    while True:
        try:
            line = requests.readline()
        except KeyboardInterrupt:  # came too late for the code that it was for
            continue
        if not line:
            os._exit(0)
        req = json.loads(line)
        if generation is not None and generation != req.get('generation'):
            reseed()
        generation = req.get('generation')
        cell += 1
        name = '<cell %d>' % cell
        source = req['code']
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        answer = {}
        try:
            tree = None
            try:
                tree = ast.parse(source, name)
                last = None
                if tree.body and isinstance(tree.body[-1], ast.Expr):
                    last = ast.Expression(tree.body.pop().value)
                exec(compile(tree, name, 'exec'), main.__dict__)
                if last is not None:
                    value = eval(compile(last, name, 'eval'), main.__dict__)
                    if value is not None:
                        main.__dict__['_'] = value
                        answer['value'] = repr(value)[:VALUE]
            except BaseException as e:
                # Without the lines of this file, and of the parser.
                tb = e.__traceback__.tb_next if tree is not None else None
                text = ''.join(traceback.format_exception(type(e), e, tb))
                message = str(e)
                answer = {'error': {'name': type(e).__name__, 'message': message[:VALUE], 'traceback': text[-VALUE:]}}
            for f in (sys.stdout, sys.stderr):
                try:
                    f.flush()
                except Exception:
                    pass
            reply = json.dumps(answer).encode()
        except KeyboardInterrupt:
            reply = b'{"error":{"name":"KeyboardInterrupt","message":"","traceback":""}}'
        except BaseException as e:  # a repr that raises something unprintable, say
            reply = json.dumps({'error': {'name': type(e).__name__, 'message': '', 'traceback': ''}}).encode()
        sent = False
        while not sent:
            try:
                control.sendall(reply + b'\n')
                sent = True
            except KeyboardInterrupt:
                sent = True


def reseed():
    """Two copies of one sandbox must not draw the same numbers."""
    if 'random' in sys.modules:
        sys.modules['random'].seed()
    if 'numpy' in sys.modules:
        try:
            sys.modules['numpy'].random.seed()
        except Exception:
            pass
    if 'tempfile' in sys.modules:
        sys.modules['tempfile']._name_sequence = None


def keep_only(*fds):
    """Closes what a worker must not hold open: the server's socket, that of a client."""
    low = 3
    for fd in sorted(fds):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1024)


class Worker:
    def __init__(self):
        ours, theirs = socket.socketpair()
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                keep_only(theirs.fileno(), out, err)
                work(theirs, out, err)
            finally:
                os._exit(1)
        theirs.close()
        os.close(out)
        os.close(err)
        self.control = ours
        self.fresh = True
        for fd in (self.out, self.err):
            os.set_blocking(fd, False)

    def interrupt(self):
        os.kill(self.pid, signal.SIGINT)

    def end(self):
        """Ends the worker and says how it ended."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except OSError:
            pass
        return self.reap()

    def died(self):
        """Says how the worker ended by itself, if it did."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return self.close(status) if pid else ''

    def reap(self):
        _, status = os.waitpid(self.pid, 0)
        return self.close(status)

    def close(self, status):
        self.control.close()
        os.close(self.out)
        os.close(self.err)
        if os.WIFSIGNALED(status):
            return 'signal %d' % os.WTERMSIG(status)
        return 'exit code %d' % os.WEXITSTATUS(status)


class Client:
    def __init__(self, conn):
        self.conn = conn
        self.gone = False

    def send(self, event):
        if self.gone:
            return
        try:
            self.conn.sendall(json.dumps(event).encode() + b'\n')
        except OSError:
            self.gone = True

    def request(self):
        data = b''
        while not data.endswith(b'\n'):
            part = self.conn.recv(1 << 16)
            if not part:
                return None
            data += part
        return json.loads(data)


def drain(client, fd, key, rounds=64):
    """Passes on what the worker wrote. What a program in the background goes on to write does not keep
    a request from ending."""
    for _ in range(rounds):
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        except InterruptedError:
            continue
        if not data:
            return False
        client.send({key: base64.b64encode(data).decode()})
    return True


def serve(server):
    worker, lost = None, ''
    while True:
        if worker is None:
            worker = Worker()
        conn, _ = server.accept()
        client = Client(conn)
        conn.settimeout(10)
        try:
            req = client.request()
        except (OSError, ValueError):
            req = None
        if req is None:
            conn.close()
            continue
        how = worker.died()
        if how:
            worker, lost = Worker(), 'the interpreter had ended with ' + how
        if req.get('restart'):
            if not worker.fresh:
                worker.end()
                worker = Worker()
            lost = ''
        done = {'done': True, 'fresh': worker.fresh, 'lost': lost}
        lost = ''
        worker.fresh = False
        answer, ended = execute(worker, client, req, done)
        if ended:
            worker = None
            if client.gone:
                lost = ended
            else:
                done['lost'] = ended
        done.update(answer)
        client.send(done)
        conn.close()


def execute(worker, client, req, done):
    """Runs one request. Returns the answer, and why the worker is gone if it is."""
    try:
        worker.control.sendall(json.dumps(req).encode() + b'\n')
    except OSError:
        how = worker.end()
        return {}, 'the interpreter had ended with %s' % how
    timeout = req.get('timeout') or 0
    deadline = time.monotonic() + timeout if timeout > 0 else None
    kill_at, reply = None, b''
    poll = select.poll()
    for fd in (worker.control.fileno(), worker.out, worker.err, client.conn.fileno()):
        poll.register(fd, select.POLLIN)
    while True:
        until = kill_at if kill_at is not None else deadline
        wait = None if until is None else max(0, until - time.monotonic()) * 1000 + 1
        for fd, _ in poll.poll(wait):
            if fd == worker.out:
                if not drain(client, fd, 'o', 1):
                    poll.unregister(fd)
            elif fd == worker.err:
                if not drain(client, fd, 'e', 1):
                    poll.unregister(fd)
            elif fd == client.conn.fileno():
                client.gone = True  # it says nothing after its request
                poll.unregister(fd)
            else:
                part = worker.control.recv(1 << 16)
                reply += part
                if not part or reply.endswith(b'\n'):
                    drain(client, worker.out, 'o')
                    drain(client, worker.err, 'e')
                if not part:
                    how = worker.end()
                    return {'error': {'name': 'InterpreterExited', 'message': how, 'traceback': ''}}, 'the interpreter ended with ' + how
                if reply.endswith(b'\n'):
                    return json.loads(reply), ''
        now = time.monotonic()
        if kill_at is None and (client.gone or deadline is not None and now >= deadline):
            done['timed_out'] = not client.gone
            worker.interrupt()
            kill_at = now + GRACE
        elif kill_at is not None and now >= kill_at:
            drain(client, worker.out, 'o')
            drain(client, worker.err, 'e')
            worker.end()
            return {}, 'the interpreter did not stop when it was interrupted, and was ended'


def main():
    path = sys.argv[1]
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path, 0o600)
    server.listen(16)
    # Requests wait from here on; the launcher may end.
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(server)


main()
